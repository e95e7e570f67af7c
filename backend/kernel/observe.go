package kernel

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
)

// Observe returns everything that carries our mark, and of the sysctls named
// those that exist. Either all of it was read, or there is an error and no
// State. An entry on a device of ours that no one can have wanted (an FDB
// entry with two destinations, a route with two next hops) is there with its
// key and without its destination, so that Diff replaces or deletes it.
func (k *Kernel) Observe(ctx context.Context, sysctls []string) (backend.State, error) {
	devices, err := k.devices(ctx)
	if err != nil {
		return nil, err
	}
	names := make(map[int]string, len(devices))
	for _, d := range devices {
		names[d.index] = d.name
	}
	name := func(index int) string { return names[index] }

	routes, err := k.routes(ctx, ours)
	if err != nil {
		return nil, err
	}
	// A route, a neighbour and an FDB entry for each peer: a map that grows to
	// that leaves its former selves to the garbage collector.
	state := make(backend.State, 3*len(routes)+len(devices))
	for _, d := range devices {
		if !d.ours {
			continue
		}
		put(state, d.link(name(d.parent)))
		if err := k.observeOn(ctx, d, state); err != nil {
			return nil, err
		}
	}
	for _, r := range routes {
		if r.tos == 0 {
			put(state, r.object(name))
		}
	}
	return state, k.observeSysctls(sysctls, state)
}

func put(s backend.State, o backend.Object) { s[o.Key()] = o }

// observeOn adds what is on d, a device of ours.
func (k *Kernel) observeOn(ctx context.Context, d device, state backend.State) error {
	addresses, err := k.addresses(ctx, d.index)
	if err != nil {
		return fmt.Errorf("reading the addresses of %s: %w", d.name, err)
	}
	for _, a := range addresses {
		if a.ours() {
			put(state, backend.Address{Link: d.name, Prefix: a.prefix})
		}
	}
	for _, family := range []uint8{unix.AF_UNSPEC, unix.AF_BRIDGE} {
		entries, err := k.entries(ctx, family, d.index)
		if err != nil {
			return fmt.Errorf("reading the neighbours of %s: %w", d.name, err)
		}
		for _, e := range entries {
			key, o, ok := e.object(d)
			if !ok || o == nil {
				continue
			}
			if f, again := state[key].(backend.FDB); again { // a second destination of one MAC
				o = backend.FDB{Link: f.Link, MAC: f.MAC}
			}
			put(state, o)
		}
	}
	return nil
}

// devices dumps all interfaces.
func (k *Kernel) devices(ctx context.Context) ([]device, error) {
	// RTEXT_FILTER_SKIP_STATS (linux/rtnetlink.h): half of the message.
	mask := nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(1<<3))
	req := request(unix.RTM_GETLINK, 0, nl.NewIfInfomsg(unix.AF_UNSPEC), mask)
	devices, err := dump(ctx, k, req, unix.RTM_NEWLINK, k.decodeDevice)
	if err != nil {
		return nil, fmt.Errorf("reading links: %w", err)
	}
	return devices, nil
}

// addresses dumps the addresses of one interface, or (0) of all.
func (k *Kernel) addresses(ctx context.Context, index int) ([]address, error) {
	h := nl.NewIfAddrmsg(unix.AF_UNSPEC)
	h.Index = uint32(index)
	return dump(ctx, k, request(unix.RTM_GETADDR, 0, h), unix.RTM_NEWADDR, func(msg []byte) (address, bool, error) {
		a, ok, err := decodeAddress(msg)
		return a, ok && (index == 0 || a.index == index), err
	})
}

// entries dumps the neighbours (AF_UNSPEC) or FDB entries (AF_BRIDGE) of one
// interface.
func (k *Kernel) entries(ctx context.Context, family uint8, index int) ([]entry, error) {
	req := request(unix.RTM_GETNEIGH, 0, &netlink.Ndmsg{Family: family},
		nl.NewRtAttr(netlink.NDA_IFINDEX, nl.Uint32Attr(uint32(index))))
	return dump(ctx, k, req, unix.RTM_NEWNEIGH, func(msg []byte) (entry, bool, error) {
		if entryIndex(msg) != index {
			return entry{}, false, nil
		}
		return decodeEntry(msg)
	})
}
