package subnet

import (
	"net/netip"
	"time"
)

// Lease is a subnet held by a node, with what its peers need to know. It is
// comparable: two equal leases ask for the same kernel state.
type Lease struct {
	Node        string // the holder's node name; "" in a flannel node's record
	MachineID   string // tells two machines of one name apart; "" when unknown
	Subnets     PerFamily[netip.Prefix]
	PublicIPs   PerFamily[netip.Addr] // the tunnel endpoints
	Sources     PerFamily[netip.Addr] // where its tunnel packets come from, if not from PublicIPs (NAT one way)
	BackendType string                // "" in a reservation nobody has taken yet
	BackendData PerFamily[string]     // compact JSON, by the tunnel's family; "" for none
	Extra       string                // members of the value that we do not know, as compact JSON object; "" for none
}

// ID returns the identity that peers go by: the node name, or for a record
// without one (a flannel node's) its public IP.
func (l Lease) ID() string {
	if l.Node != "" {
		return l.Node
	}
	for _, ip := range l.PublicIPs {
		if ip.IsValid() {
			return ip.String()
		}
	}
	return ""
}

// Active reports whether a node announced itself: a reservation that waits for
// its node is not active.
func (l Lease) Active() bool { return l.BackendType != "" }

// Record is what a store holds under one key.
type Record struct {
	Key      string // within the store, unique: "10.5.52.0-24", or a Node's name
	Lease    Lease
	Invalid  string // why the value cannot be used; Lease then has what could be read
	Created  int64  // seniority: smaller is older (etcd create revision, creation time)
	Modified int64  // grows with each write: of a node's records the last written counts
	Reserved bool   // does not expire
}

// Update is what a store tells of its leases: the full list, or what changed
// since.
type Update struct {
	Full     bool     // Put is all there is
	WentBack bool     // with Full: the store is older than it was, or another one: restored from a backup
	Put      []Record // new or changed
	Gone     []string // keys
}

// Claim is what a node asks of a store, and what it announces with it.
type Claim struct {
	Node        string
	MachineID   string
	Config      Config
	PublicIPs   PerFamily[netip.Addr]
	Sources     PerFamily[netip.Addr] // see Lease
	BackendType string
	BackendData PerFamily[string]
	Previous    PerFamily[netip.Prefix] // preferred while nobody holds them
	InUse       bool                    // Previous were ours until now, and pods have addresses of them
	Since       int64                   // with InUse: as of which of the store's revisions; 0: not known
}

// Announcement returns the lease that the claim makes of the subnets.
func (c Claim) Announcement(subnets PerFamily[netip.Prefix]) Lease {
	return Lease{
		Node: c.Node, MachineID: c.MachineID, Subnets: subnets, PublicIPs: c.PublicIPs, Sources: c.Sources,
		BackendType: c.BackendType, BackendData: c.BackendData,
	}
}

// Held is a lease of ours as the store granted it.
type Held struct {
	Lease   Lease
	Key     string
	Created int64     // as in Record
	Expires time.Time // when the store would let it go, as of the last renewal; zero for a reservation
}

// Reserved reports whether somebody else chose the subnets: an operator, or
// Kubernetes' controller-manager. They lie in the network, and SubnetLen, Min and
// Max do not count.
func (h Held) Reserved() bool { return h.Expires.IsZero() }

// NetworkState is what a node says of its network to its cluster.
type NetworkState struct {
	Up      bool
	Message string // why it is not up, or what it is
}

// Notice is what an operator of the cluster must know of a node.
type Notice struct {
	Warning bool
	Reason  string // one word in CamelCase, for programs
	Message string
}
