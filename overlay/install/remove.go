package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/vxlan"
	"github.com/twill-net/twill/overlay/pods"
)

// ConflistName is the name of our network config among others.
const ConflistName = "10-twill.conflist"

// Links is where a host's links are; backend/kernel has it.
type Links interface {
	Interfaces(ctx context.Context) ([]backend.Interface, error)
	DeleteBridge(ctx context.Context, name string) (was bool, err error)
}

// Host is a host from which all of Twill is to go.
type Host struct {
	Root     string // its root directory, as this process sees it
	BinDir   string // on it, absolute: where the runtime finds plugins
	ConfDir  string // likewise: network configs
	RunDir   string // likewise: of subnet.env
	StateDir string // likewise
}

func (h Host) conflist() string { return filepath.Join(h.Root, h.ConfDir, ConflistName) }

// Remove takes away what Cleanup does not: the CNI plugins that were not there
// before, the pods' bridge, their addresses, the CNI config. It returns what it
// took. While a pod is attached it takes nothing, and names it: without plugins
// no pod can be taken down.
func (h Host) Remove(ctx context.Context, k Links) (removed []string, err error) {
	network := h.network()
	all, err := k.Interfaces(ctx)
	if err != nil {
		return nil, err
	}
	if err := h.attached(all, network.Bridge); err != nil {
		return nil, err
	}
	removed, err = RemovePlugins(filepath.Join(h.Root, h.BinDir))
	errs := []error{err}
	if network.Bridge != "" {
		was, err := k.DeleteBridge(ctx, network.Bridge)
		if was {
			removed = append(removed, "bridge "+network.Bridge)
		}
		errs = append(errs, err)
	}
	files, err := h.removeState(network)
	removed = append(removed, files...)
	errs = append(errs, err)
	was, err := RemoveConflist(h.conflist())
	if was {
		removed = append(removed, "file "+h.conflist())
	}
	return removed, errors.Join(append(errs, err)...)
}

// network is what the CNI config says of our network, or what ours says as
// shipped, when it is gone.
func (h Host) network() pods.Network {
	network := pods.Network{Name: "cbr0", Dir: filepath.Join(pods.DefaultDataDir, "cbr0"), Bridge: pods.DefaultBridge}
	content, err := os.ReadFile(h.conflist())
	if err != nil {
		return network
	}
	if name, plugin := ourPlugin(content); plugin != nil {
		if n, err := pods.NetworkOf(name, plugin); err == nil {
			return n
		}
	}
	return network
}

// removeState removes what is kept of pods that are no more: addresses, and
// results of plugins (libcni).
func (h Host) removeState(network pods.Network) (removed []string, err error) {
	var errs []error
	remove := func(path string) {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err := os.RemoveAll(path); err != nil {
			errs = append(errs, fmt.Errorf("removing what is kept of pods: %w", err))
			return
		}
		removed = append(removed, "file "+path)
	}
	addresses := filepath.Join(h.Root, network.Dir)
	remove(addresses)
	results := filepath.Join(h.Root, pods.DefaultResults)
	names, err := os.ReadDir(results)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, fmt.Errorf("listing the results of plugins: %w", err))
	}
	for _, e := range names {
		if strings.HasPrefix(e.Name(), network.Name+"-") {
			remove(filepath.Join(results, e.Name()))
		}
	}
	// Directories that others use are not empty.
	for _, dir := range []string{results, filepath.Dir(addresses), filepath.Join(h.Root, "/var/lib/cni")} {
		if os.Remove(dir) == nil {
			removed = append(removed, "directory "+dir)
		}
	}
	return removed, errors.Join(errs...)
}

// Left returns what is still there of Twill, of what can be seen without any
// right: devices, files, directories.
func (h Host) Left() ([]string, error) {
	var left []string
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		return nil, fmt.Errorf("listing the host's links: %w", err)
	}
	for _, l := range links {
		if vxlan.DevicePattern.MatchString(l.Name()) {
			left = append(left, "link "+l.Name())
		}
	}
	for _, path := range []string{
		h.conflist(), filepath.Join(h.Root, h.BinDir, recordName), filepath.Join(h.Root, h.BinDir, pods.Type),
		filepath.Join(h.Root, h.RunDir), filepath.Join(h.Root, h.StateDir),
	} {
		switch _, err := os.Lstat(path); {
		case err == nil && empty(path): // it would be gone if it were not somebody's mount point
		case err == nil:
			left = append(left, "file "+path)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("looking for what is left: %w", err)
		}
	}
	return left, nil
}

// empty reports whether path is a directory with nothing in it.
func empty(path string) bool {
	names, err := os.ReadDir(path)
	return err == nil && len(names) == 0
}
