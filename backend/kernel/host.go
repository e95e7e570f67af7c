package kernel

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
)

// Host returns the host's interfaces, their addresses, and the unicast routes
// of the main table which are not ours. That table may be long: who wants no
// routes asks for Interfaces.
func (k *Kernel) Host(ctx context.Context) (backend.Host, error) {
	interfaces, names, err := k.interfaces(ctx)
	if err != nil {
		return backend.Host{}, err
	}
	if err := k.readRA(interfaces); err != nil {
		return backend.Host{}, err
	}
	host := backend.Host{Interfaces: interfaces}
	routes, err := k.routes(ctx, others)
	if err != nil {
		return backend.Host{}, err
	}
	for _, r := range routes {
		if r.kind != unix.RTN_UNICAST {
			continue
		}
		for _, h := range r.hops {
			host.Routes = append(host.Routes, backend.HostRoute{Dst: r.dst, Via: h.via, Link: names[h.link], Metric: r.metric})
		}
	}
	return host, nil
}

// Interfaces returns the host's interfaces, by index, and their addresses;
// AcceptRA and ForwardsIP6 are left out.
func (k *Kernel) Interfaces(ctx context.Context) ([]backend.Interface, error) {
	all, _, err := k.interfaces(ctx)
	return all, err
}

// interfaces is Interfaces, and returns the names by index, too.
func (k *Kernel) interfaces(ctx context.Context) (all []backend.Interface, names map[int]string, err error) {
	devices, err := k.devices(ctx)
	if err != nil {
		return nil, nil, err
	}
	slices.SortFunc(devices, func(a, b device) int { return cmp.Compare(a.index, b.index) })
	names = map[int]string{}
	for _, d := range devices {
		names[d.index] = d.name
	}
	addresses, err := k.addresses(ctx, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("reading addresses: %w", err)
	}
	on := map[int][]backend.InterfaceAddress{}
	for _, a := range addresses {
		on[a.index] = append(on[a.index], backend.InterfaceAddress{Prefix: a.prefix, Usable: a.usable()})
	}
	for _, d := range devices {
		all = append(all, backend.Interface{
			Name: d.name, Kind: d.kind, MTU: d.mtu, Up: d.up(), Loopback: d.flags&unix.IFF_LOOPBACK != 0,
			Master: names[d.master], Alias: d.alias, Addresses: on[d.index],
		})
	}
	return all, names, nil
}

// readRA fills in how the interfaces that may face peers stand to router
// advertisements; see backend.Interface.
func (k *Kernel) readRA(interfaces []backend.Interface) error {
	return k.inside(func() error {
		for n := range interfaces {
			i := &interfaces[n]
			ip6 := slices.ContainsFunc(i.Addresses, func(a backend.InterfaceAddress) bool { return a.Prefix.Addr().Is6() })
			if i.Loopback || i.Master != "" || !ip6 {
				continue
			}
			conf := filepath.Join(k.cfg.SysctlRoot, "net/ipv6/conf", i.Name)
			accept, err := readSysctl(filepath.Join(conf, "accept_ra"))
			if err != nil {
				continue // the interface has gone, which a notification tells
			}
			forwards, err := readSysctl(filepath.Join(conf, "forwarding"))
			if err != nil {
				continue
			}
			i.AcceptRA, _ = strconv.Atoi(accept)
			i.ForwardsIP6 = forwards == "1"
		}
		return nil
	})
}

// usable: see backend.InterfaceAddress. IFA_F_TEMPORARY has the value of
// IFA_F_SECONDARY, which for IPv4 says nothing against an address.
func (a address) usable() bool {
	bad := uint32(unix.IFA_F_TENTATIVE | unix.IFA_F_DEPRECATED | unix.IFA_F_DADFAILED)
	if a.prefix.Addr().Is6() {
		bad |= unix.IFA_F_TEMPORARY
	}
	return a.flags&bad == 0 && a.scope < unix.RT_SCOPE_LINK
}

// RouteGet returns the link over which the host reaches addr, and the source
// address that it would use.
func (k *Kernel) RouteGet(ctx context.Context, addr netip.Addr) (link string, src netip.Addr, err error) {
	if err := ctx.Err(); err != nil {
		return "", netip.Addr{}, err
	}
	h := &nl.RtMsg{RtMsg: unix.RtMsg{Family: family(addr), Dst_len: uint8(addr.BitLen())}}
	msgs, err := k.get(request(unix.RTM_GETROUTE, 0, h, nl.NewRtAttr(unix.RTA_DST, addr.AsSlice())), unix.RTM_NEWROUTE)
	if err != nil {
		return "", netip.Addr{}, fmt.Errorf("finding the route to %s: %w", addr, err)
	}
	for _, msg := range msgs {
		r, ok, err := decodeRoute(msg)
		if err != nil || !ok || len(r.hops) == 0 {
			continue
		}
		d, err := k.device(byIndex(r.hops[0].link))
		if err != nil {
			return "", netip.Addr{}, fmt.Errorf("finding the link of the route to %s: %w", addr, err)
		}
		return d.name, r.src, nil
	}
	return "", netip.Addr{}, fmt.Errorf("finding the route to %s: the kernel named no link", addr)
}

// byName and byIndex ask for one interface in a RTM_GETLINK request.
func byName(name string) []nl.NetlinkRequestData {
	return []nl.NetlinkRequestData{nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name))}
}

func byIndex(index int) []nl.NetlinkRequestData {
	h := nl.NewIfInfomsg(unix.AF_UNSPEC)
	h.Index = int32(index)
	return []nl.NetlinkRequestData{h}
}

// device reads one interface. Its error is unix.ENODEV when there is none.
func (k *Kernel) device(by []nl.NetlinkRequestData) (device, error) {
	msgs, err := k.get(request(unix.RTM_GETLINK, 0, by...), unix.RTM_NEWLINK)
	if err != nil {
		return device{}, err
	}
	for _, msg := range msgs {
		if d, ok, err := k.decodeDevice(msg); ok || err != nil {
			return d, err
		}
	}
	return device{}, unix.ENODEV
}
