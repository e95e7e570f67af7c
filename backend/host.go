package backend

import (
	"net/netip"
	"slices"
)

// Host is what the underlay is chosen from: the interfaces of this host and
// the routes of its main table that are not ours.
type Host struct {
	Interfaces []Interface // by index, ascending
	Routes     []HostRoute
}

// Interface is a network interface of the host.
type Interface struct {
	Name      string
	Kind      string // the driver's, "vxlan", "bridge", "veth"; "" for hardware
	MTU       int
	Up        bool // administratively up
	Loopback  bool
	Master    string // the bridge or bond that it belongs to
	Alias     string // free text that an administrator or a plugin left on it (ip link set alias)
	Addresses []InterfaceAddress
	// Of an interface that may face peers, with an IPv6 address and no Master:
	// its accept_ra (0, 1, 2) and whether it forwards IPv6, in which case 1
	// means that it takes no router advertisements (ip-sysctl).
	AcceptRA    int
	ForwardsIP6 bool
}

// InterfaceAddress is an address on an interface.
type InterfaceAddress struct {
	Prefix netip.Prefix
	// Usable: not tentative, deprecated, temporary or a failed duplicate, and
	// of more than link scope: an address that peers may be told.
	Usable bool
}

// HostRoute is a unicast route of the main table.
type HostRoute struct {
	Dst    netip.Prefix // a default route has length 0
	Via    netip.Addr   // invalid when Dst is on link
	Link   string
	Metric uint32
}

// Interface returns the interface with that name.
func (h Host) Interface(name string) (Interface, bool) {
	i := slices.IndexFunc(h.Interfaces, func(i Interface) bool { return i.Name == name })
	if i < 0 {
		return Interface{}, false
	}
	return h.Interfaces[i], true
}

// Event is a notification of the kernel. It says what to look at, not what to
// do: the reader compares it with what it wants. One event may say several
// things.
type Event struct {
	Key    Key    // unless zero: of an object that carries our mark, and
	Object Object // how it is now; nil when it is gone
	Resync bool   // notifications were lost, or something changed that has no Key: look at all
	Host   bool   // an interface or address of the host that is not ours changed
	Routes bool   // a route of the host's main table that is not ours changed
}
