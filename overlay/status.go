package overlay

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/twill-net/twill/subnet"
)

// Status is what the daemon says of itself on its socket, as JSON.
type Status struct {
	Node      string        `json:"node"`
	Version   string        `json:"version"`
	Started   time.Time     `json:"started"`
	Ready     bool          `json:"ready"`
	NotReady  []string      `json:"notReady,omitempty"` // why, when Ready is false
	Live      bool          `json:"live"`
	Config    *ConfigStatus `json:"config,omitempty"`
	Lease     *LeaseStatus  `json:"lease,omitempty"`
	Underlay  *UnderStatus  `json:"underlay,omitempty"`
	MTU       int           `json:"mtu,omitempty"` // of pods: subnet.env's
	Store     StoreStatus   `json:"store"`
	Firewall  *FireStatus   `json:"firewall,omitempty"`
	Problems  []Problem     `json:"problems,omitempty"` // what does not work now
	Peers     []PeerStatus  `json:"peers"`
	Refused   []Refused     `json:"refused,omitempty"`   // records that do not count
	Failing   []Failing     `json:"failing,omitempty"`   // objects that cannot be programmed
	Contended []Contended   `json:"contended,omitempty"` // objects that something else keeps undoing
	OtherCNI  []string      `json:"otherCNI,omitempty"`  // CNI configs of others behind ours; those before it are a problem
	Stranded  []string      `json:"stranded,omitempty"`  // pods with an address outside of our subnet
	Repairs   RepairStatus  `json:"repairs"`
	// Packets that hygiene dropped, by reason; absent where it is off.
	Dropped map[string]uint64 `json:"dropped,omitempty"`
}

// ConfigStatus is the network config at work.
type ConfigStatus struct {
	Networks []string `json:"networks"`
	Backend  string   `json:"backend"`
	VNI      uint32   `json:"vni,omitempty"`
	Port     uint16   `json:"port,omitempty"`
	Refused  string   `json:"refused,omitempty"` // why the newest config in the store is not at work
}

// LeaseStatus is this node's lease.
type LeaseStatus struct {
	Subnets []string   `json:"subnets"`
	Expires *time.Time `json:"expires,omitempty"` // as of the last renewal; none for a reservation
}

// UnderStatus is the external interface.
type UnderStatus struct {
	Interface string   `json:"interface"`
	MTU       int      `json:"mtu"`
	PublicIPs []string `json:"publicIPs"`
	ChosenBy  string   `json:"chosenBy,omitempty"` // a flag, the Node's InternalIP, the default route
	Notes     []string `json:"notes,omitempty"`    // where the Node's addresses are not what peers are told
}

// FireStatus says where our rules are.
type FireStatus struct {
	Mode          string    `json:"mode"`                    // nftables, iptables-nft, iptables-legacy
	MasqueradeOff []string  `json:"masqueradeOff,omitempty"` // families of the network that twilld does not masquerade: the CNI plugin, or nobody
	Forward       []string  `json:"forward,omitempty"`       // other programs' chains that have our accepts
	Blocked       []Blocked `json:"blocked,omitempty"`       // chains that drop what is forwarded, and cannot be given our accepts
}

// Blocked is such a chain. It does not undo readiness: it is another program's
// policy, which no restart of ours mends.
type Blocked struct {
	Chain  string `json:"chain"`
	Reason string `json:"reason"` // why, and what to do about it
}

// StoreStatus says how it stands with the store. Degraded is set while it does
// not answer; the data path is not touched by that.
type StoreStatus struct {
	InSync   bool       `json:"inSync"`                 // the first full list has arrived
	Recalled *time.Time `json:"recalledFrom,omitempty"` // until InSync: when what we go by was written to disk
	Degraded *time.Time `json:"degradedSince,omitempty"`
	Error    string     `json:"error,omitempty"`
}

// Problem is a part of the daemon that is not well.
type Problem struct {
	What  string    `json:"what"`
	Error string    `json:"error"`
	Since time.Time `json:"since"`
}

// PeerStatus is a peer and the way to it.
type PeerStatus struct {
	Node      string   `json:"node"`
	Subnets   []string `json:"subnets"`
	PublicIPs []string `json:"publicIPs"`
	Error     string   `json:"error,omitempty"` // why it cannot be reached wholly
}

// Refused is a record of the store that does not count.
type Refused struct {
	Key    string `json:"key"`
	Node   string `json:"node,omitempty"`
	Reason string `json:"reason"`
}

// Failing is an object of the kernel that cannot be made as it must be.
type Failing struct {
	Object string    `json:"object"`
	Error  string    `json:"error"`
	Since  time.Time `json:"since"`
}

// Contended is an object that something else keeps undoing.
type Contended struct {
	Object string `json:"object"`
	Times  int    `json:"times"` // repairs lately
}

// RepairStatus counts what was found changed behind our back and mended.
type RepairStatus struct {
	Total  int            `json:"total"`
	ByKind map[string]int `json:"byKind,omitempty"`
	Recent []Repair       `json:"recent,omitempty"` // the last ones, oldest first
}

// Repair is one of them.
type Repair struct {
	Time   time.Time `json:"time"`
	Object string    `json:"object"`
	Before string    `json:"before"`
	After  string    `json:"after"`
	Times  int       `json:"times"` // how often lately
}

func addrs(a subnet.PerFamily[netip.Addr]) []string {
	out := []string{}
	for _, ip := range a {
		if ip.IsValid() {
			out = append(out, ip.String())
		}
	}
	return out
}

func prefixes(p subnet.PerFamily[netip.Prefix]) []string {
	out := []string{}
	for _, s := range p {
		if s.IsValid() {
			out = append(out, s.String())
		}
	}
	return out
}

// Text writes the status for people.
func (s Status) Text() string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("node", "%s (twilld %s, up %s)", s.Node, s.Version, time.Since(s.Started).Round(time.Second))
	if s.Ready {
		line("ready", "yes")
	} else {
		line("ready", "no: %s", strings.Join(s.NotReady, "; "))
	}
	if c := s.Config; c != nil {
		line("network", "%s, backend %s", strings.Join(c.Networks, ", "), c.Backend)
		if c.Refused != "" {
			line("", "newest config refused, see problem")
		}
	}
	if l := s.Lease; l != nil {
		until := "reserved"
		if l.Expires != nil {
			until = "until " + l.Expires.Format(time.RFC3339) + " unless renewed"
		}
		line("lease", "%s, %s", strings.Join(l.Subnets, ", "), until)
	}
	if u := s.Underlay; u != nil {
		pods := ""
		if s.MTU != 0 {
			pods = fmt.Sprintf(" (pods %d)", s.MTU)
		}
		line("underlay", "%s, %s, MTU %d%s, chosen by %s", u.Interface, strings.Join(u.PublicIPs, ", "), u.MTU, pods, u.ChosenBy)
		for _, n := range u.Notes {
			line("", "%s", n)
		}
	}
	switch {
	case s.Store.Degraded != nil:
		line("store", "degraded since %s: %s", s.Store.Degraded.Format(time.RFC3339), s.Store.Error)
	case s.Store.InSync:
		line("store", "in sync")
	default:
		line("store", "waiting for the first list")
	}
	if f := s.Firewall; f != nil {
		line("firewall", "%s%s", f.Mode, s.unmasqueraded())
		for _, c := range f.Forward {
			line("", "accepts in %s", c)
		}
	}
	if at := s.Store.Recalled; at != nil {
		line("", "going by what was known at %s, %s ago", at.Format(time.RFC3339), time.Since(*at).Round(time.Second))
	}
	if n := len(s.Repairs.Recent); n < s.Repairs.Total {
		line("repairs", "%d, the last %d:", s.Repairs.Total, n)
	} else {
		line("repairs", "%d", s.Repairs.Total)
	}
	for _, r := range s.Repairs.Recent {
		line("", "%s %s: %s -> %s", r.Time.Format(time.RFC3339), r.Object, r.Before, r.After)
	}
	for _, reason := range slices.Sorted(maps.Keys(s.Dropped)) {
		if n := s.Dropped[reason]; n > 0 {
			line("dropped", "%d packets: %s", n, reason)
		}
	}
	line("peers", "%d", len(s.Peers))
	for _, p := range s.Peers {
		line("", "%-20s %-40s %s", p.Node, strings.Join(p.Subnets, ", "), strings.Join(p.PublicIPs, ", "))
		if p.Error != "" {
			line("", "  %s", p.Error)
		}
	}
	for _, p := range s.Problems {
		line("problem", "%s since %s: %s", p.What, p.Since.Format(time.RFC3339), p.Error)
	}
	for _, r := range s.Refused {
		line("refused", "%s (node %s): %s", r.Key, r.Node, r.Reason)
	}
	for _, f := range s.Failing {
		line("problem", "%s since %s: %s", f.Object, f.Since.Format(time.RFC3339), f.Error)
	}
	for _, p := range s.Stranded {
		line("stranded", "pod %s: not in this node's subnet, must be made anew", p)
	}
	for _, c := range s.OtherCNI {
		line("other CNI", "%s, behind ours", c)
	}
	for _, c := range s.Contended {
		line("contended", "%s, repaired %d times lately", c.Object, c.Times)
	}
	return b.String()
}

// unmasqueraded says what twilld does not masquerade, as a clause.
func (s Status) unmasqueraded() string {
	off := s.Firewall.MasqueradeOff
	switch {
	case len(off) == 0:
		return ""
	case s.Config != nil && len(off) < len(s.Config.Networks):
		return ", masquerade off for " + strings.Join(off, " and ")
	}
	return ", masquerade off"
}

// sortedProblems orders by what is wrong.
func sortedProblems(m map[string]Problem) []Problem {
	out := make([]Problem, 0, len(m))
	for _, p := range m {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Problem) int { return strings.Compare(a.What, b.What) })
	return out
}
