package cni

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/twill-net/twill/subnet/envfile"
)

// Plugin answers the verbs of the CNI spec
// (https://github.com/containernetworking/cni/blob/main/SPEC.md).
type Plugin struct {
	// Wait is how long ADD waits for subnet.env.
	Wait time.Duration
}

// Funcs returns the verbs for skel.PluginMainFuncs. Errors are *types.Error
// with a code of the spec, or the delegate's.
func (p Plugin) Funcs(ctx context.Context) skel.CNIFuncs {
	return skel.CNIFuncs{
		Add:   func(args *skel.CmdArgs) error { return p.add(ctx, args) },
		Check: func(args *skel.CmdArgs) error { return p.check(ctx, args) },
		Del:   func(args *skel.CmdArgs) error { return p.del(ctx, args) },
	}
}

func (p Plugin) add(ctx context.Context, args *skel.CmdArgs) error {
	conf, err := loadValid(args.StdinData)
	if err != nil {
		return err
	}
	env, err := awaitEnv(ctx, conf.SubnetFile, p.Wait)
	if err != nil {
		return err
	}
	delegate, err := conf.Delegate(env)
	if err != nil {
		return invalid(err)
	}
	plugin, err := find(delegate, args)
	if err != nil {
		return err
	}
	if delegate.Masquerades {
		if err := conf.markMasquerading(); err != nil {
			return types.NewError(types.ErrIOFailure, err.Error(), "")
		}
	}
	result, err := plugin.add(ctx)
	if err != nil {
		// The spec, section 4: a plugin whose delegate fails on ADD runs it
		// again with DEL, so that nothing stays behind. Should that fail too,
		// the runtime's own DEL after a failed ADD is the retry.
		_ = plugin.del(ctx)
		return err
	}
	return types.PrintResult(result, conf.CNIVersion)
}

// check and del do not need subnet.env: a pod is what it is, also while the
// node has no subnet or has another one.

func (p Plugin) check(ctx context.Context, args *skel.CmdArgs) error {
	conf, err := loadValid(args.StdinData)
	if err != nil {
		return err
	}
	plugin, err := conf.attached(args)
	if err != nil {
		return err
	}
	return plugin.check(ctx)
}

func (p Plugin) del(ctx context.Context, args *skel.CmdArgs) error {
	conf, err := Load(args.StdinData)
	if err != nil {
		return invalid(err)
	}
	plugin, err := conf.attached(args)
	if err != nil {
		return err
	}
	return plugin.del(ctx)
}

func (c Conf) attached(args *skel.CmdArgs) (run, error) {
	var known *envfile.Env
	if env, err := envfile.Read(c.SubnetFile); err == nil {
		known = &env
	}
	_, err := os.Stat(c.masqueradeMark())
	delegate, err := c.Attached(known, err == nil)
	if err != nil {
		return run{}, invalid(err)
	}
	return find(delegate, args)
}

func loadValid(stdin []byte) (Conf, error) {
	conf, err := Load(stdin)
	if err == nil {
		err = conf.Validate()
	}
	if err != nil {
		return Conf{}, invalid(err)
	}
	return conf, nil
}

func invalid(err error) error {
	return types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
}

// masqueradeMark is the file of the package comment; skel has checked that the
// name is one path element.
func (c Conf) masqueradeMark() string {
	return filepath.Join(c.DataDir, c.Name+".ipmasq")
}

func (c Conf) markMasquerading() error {
	if err := os.MkdirAll(c.DataDir, 0o755); err != nil {
		return fmt.Errorf("noting that the delegate masquerades for network %q: %w", c.Name, err)
	}
	f, err := os.OpenFile(c.masqueradeMark(), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("noting that the delegate masquerades for network %q: %w", c.Name, err)
	}
	return f.Close()
}
