package cni

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

// run is a delegate plugin about to be run for one request.
type run struct {
	Delegate
	path string
	args *skel.CmdArgs
}

// find looks the delegate up in CNI_PATH.
func find(d Delegate, args *skel.CmdArgs) (run, error) {
	path, err := invoke.FindInPath(d.Type, filepath.SplitList(args.Path))
	if err != nil {
		return run{}, types.NewError(types.ErrInvalidNetworkConfig,
			fmt.Sprintf("finding the delegate plugin %s: it is not in CNI_PATH, which is %s", d.Type, args.Path),
			"install the CNI reference plugins beside twill")
	}
	return run{d, path, args}, nil
}

func (r run) add(ctx context.Context) (types.Result, error) {
	result, err := invoke.ExecPluginWithResult(ctx, r.path, r.JSON, r.environ("ADD", r.args.Netns), nil)
	return result, r.describe("ADD", err)
}

func (r run) check(ctx context.Context) error {
	return r.describe("CHECK", invoke.ExecPluginWithoutResult(ctx, r.path, r.JSON, r.environ("CHECK", r.args.Netns), nil))
}

func (r run) del(ctx context.Context) error {
	netns := r.args.Netns
	if !isNamespace(netns) {
		netns = "" // the spec's way to say that it is gone
	}
	return r.describe("DEL", invoke.ExecPluginWithoutResult(ctx, r.path, r.JSON, r.environ("DEL", netns), nil))
}

// environ is what the delegate gets beside our own environment.
func (r run) environ(verb, netns string) *invoke.Args {
	return &invoke.Args{
		Command:       verb,
		ContainerID:   r.args.ContainerID,
		NetNS:         netns,
		PluginArgsStr: r.args.Args,
		IfName:        r.args.IfName,
		Path:          r.args.Path,
	}
}

// describe says which plugin failed at what. The code stays the delegate's;
// wrapping would not do, since skel prints the innermost *types.Error alone.
func (r run) describe(verb string, err error) error {
	if err == nil {
		return nil
	}
	e := types.NewError(types.ErrInternal, err.Error(), "")
	errors.As(err, &e)
	code := e.Code
	if code == types.ErrUnknown { // a plugin that died without an error of its own
		code = types.ErrInternal
	}
	return types.NewError(code, fmt.Sprintf("running the delegate plugin %s with %s: %s", r.Type, verb, e.Msg), e.Details)
}

// isNamespace reports whether path leads to a namespace. The file that a
// runtime had mounted one on outlives an unmount or a reboot; bridge takes a
// path that is gone for a pod that is gone, but fails for ever on such a file.
func isNamespace(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Type == unix.NSFS_MAGIC
}
