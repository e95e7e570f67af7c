package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Attachment is an interface of a container in a network that is gone.
type Attachment struct {
	Network, Container, IfName string
	// Last: the container has no other one here, so that what is kept by
	// container alone is nobody's either.
	Last bool
}

// Leftovers removes what is left of an attachment that is gone beside its
// addresses: rules, devices. What is not there is no error.
type Leftovers interface {
	Remove(ctx context.Context, a Attachment) error
}

// DefaultResults is where libcni, and with it containerd, CRI-O and nerdctl,
// keeps the results of ADDs: a file NETWORK-CONTAINER-INTERFACE for each, which
// outlives a reboot. With an empty one, as a power loss leaves it, a libcni before
// 1.2 fails at every DEL (https://github.com/containernetworking/cni/issues/1055).
const DefaultResults = "/var/lib/cni/results"

// ResultFile is the name of an attachment's file there.
func ResultFile(a Attachment) string { return a.Network + "-" + a.Container + "-" + a.IfName }

// clear removes what is left of an attachment that is gone, but for its
// addresses: they come last, as who finds them does all of this again.
func (s *Sweeper) clear(ctx context.Context, a Attachment) error {
	if a.Container == "" || a.IfName == "" {
		return nil // a file that was cut off does not tell
	}
	if s.Leftovers != nil {
		if err := s.Leftovers.Remove(ctx, a); err != nil {
			return err
		}
	}
	if s.Results == "" {
		return nil
	}
	root, err := os.OpenRoot(s.Results)
	if err == nil {
		defer root.Close()
		err = root.Remove(ResultFile(a))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the result of an ADD: %w", err)
	}
	return nil
}

// last reports whether no pod is there with the container of an attachment
// that is gone, be it in another network.
func (inv Inventory) last(a Attachment) bool {
	container := Named("", a.Container, "").Container
	return !slices.ContainsFunc(inv.Pods, func(p Pod) bool { return p.Container == container })
}

// result is a cached result of an ADD in a network.
type result struct {
	file      string
	container string // "" when the file is empty or cut off
	ifName    string
	addresses []netip.Addr
}

// clearResults removes cached results, and what else is left, of attachments
// whose reservation is gone already: somebody has emptied host-local's
// directory, as many an advice has it, or a power loss has cut off its files.
// The bar is that of a reservation. A result that is cut off itself is worth
// nothing to anybody.
func (s *Sweeper) clearResults(ctx context.Context, n Network, done *Swept) error {
	if s.Results == "" {
		return nil
	}
	root, err := os.OpenRoot(s.Results)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	old, err := s.oldResults(root, n)
	if err != nil || len(old) == 0 {
		return err
	}
	inv, err := s.Inventory(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range old {
		if r.container == "" {
			err = root.Remove(r.file)
		} else {
			a := Attachment{Network: n.Name, Container: r.container, IfName: r.ifName}
			if inv.mayHold(r, a) {
				continue
			}
			a.Last = inv.last(a)
			err = s.clear(ctx, a)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		done.Results = append(done.Results, r.file)
	}
	return errors.Join(errs...)
}

// mayHold reports whether a pod is there that a cached result may belong to.
func (inv Inventory) mayHold(r result, a Attachment) bool {
	return len(inv.Unknown) > 0 ||
		slices.ContainsFunc(r.addresses, func(a netip.Addr) bool { return slices.Contains(inv.InUse, a) }) ||
		slices.ContainsFunc(inv.Pods, func(p Pod) bool { return p.Is(a.Network, a.Container, a.IfName) })
}

// oldResults returns the cached results of a network that are older than MinAge
// and whose containers have no reservation.
func (s *Sweeper) oldResults(root *os.Root, n Network) (old []result, err error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	held, err := holders(n)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), n.Name+"-")
		if !ok || !e.Type().IsRegular() || slices.ContainsFunc(held, func(id string) bool { return strings.HasPrefix(rest, id+"-") }) {
			continue
		}
		info, err := e.Info()
		if err != nil || s.now().Sub(info.ModTime()) < s.minAge() {
			continue // it has gone, or it is young
		}
		if r, ours := readResult(root, e.Name(), n); ours {
			old = append(old, r)
		}
	}
	return old, nil
}

// holders returns the containers that have a reservation in a network.
func holders(n Network) (ids []string, err error) {
	root, err := os.OpenRoot(n.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	all, err := readReservations(root, n.Name)
	for _, r := range all {
		if r.Container != "" {
			ids = append(ids, r.Container)
		}
	}
	return ids, err
}

// readResult reads a file of libcni's cache (cachedInfo in libcni/api.go). It
// reports false for one that is not of this network, the name of which another's
// may begin with.
func readResult(root *os.Root, file string, n Network) (r result, ours bool) {
	r.file = file
	b, err := root.ReadFile(file)
	if err != nil {
		return r, false
	}
	if !json.Valid(b) {
		return r, true
	}
	var cached struct {
		ContainerID, IfName, NetworkName string
		Result                           struct {
			IPs []struct{ Address netip.Prefix }
		}
	}
	if json.Unmarshal(b, &cached) != nil || cached.NetworkName != n.Name || cached.ContainerID == "" ||
		file != ResultFile(Attachment{Network: n.Name, Container: cached.ContainerID, IfName: cached.IfName}) {
		return r, false
	}
	r.container, r.ifName = cached.ContainerID, cached.IfName
	for _, ip := range cached.Result.IPs {
		r.addresses = append(r.addresses, ip.Address.Addr())
	}
	return r, true
}
