// Package acquire decides which subnets a node takes, from what it claims and
// a list of all leases. It is pure: it imports neither a store nor a logger,
// so that every store with an allocation of its own decides alike.
package acquire

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/twill-net/twill/subnet"
)

// Choice is what a node has to write in order to hold its lease. The store
// writes all of it at once or none.
type Choice struct {
	Key    string       // where the lease goes
	Lease  subnet.Lease // what stands there then
	Own    subnet.Record
	Taken  bool            // Own is the record under Key: ours already, or a flannel's on this machine
	Undone subnet.Record   // another's under Key that is undone again; its Key is "" where nobody's is
	Delete []subnet.Record // further records of ours, or undone again
	Park   []subnet.Record // reservations of ours that cannot serve: they stay, without an announcement
	Unused []error         // why those, and reservations parked already, cannot serve
}

// Reserved reports whether the lease is to stay without renewal.
func (c Choice) Reserved() bool { return c.Taken && c.Own.Reserved }

// Written reports whether the store holds all this already.
func (c Choice) Written() bool {
	return c.Taken && c.Own.Invalid == "" && c.Own.Lease == c.Lease && len(c.Delete) == 0 && len(c.Park) == 0
}

// Parked returns a reservation as it is before its node announces itself: for
// the node, and for the public IPs where only those name it.
func Parked(l subnet.Lease) subnet.Lease {
	p := subnet.Lease{Node: l.Node, Subnets: l.Subnets, Extra: l.Extra}
	if p.Node == "" {
		p.PublicIPs = l.PublicIPs
	}
	return p
}

// Choose decides from a complete list: the node's own record again, a
// reservation first, if its subnets serve the config; else new subnets,
// c.Previous preferred. While c.Previous are in use, and free, they come before
// a record of ours with others: a store that was restored from a backup has
// what we held once. Nor do records of others count there that were written before
// Previous became ours: they had gone by then, and are undone again, but for
// reservations, which an operator made. The node's own are the records with its name; without
// a name those with one of its public IPs (a flannel's on this machine, or a
// reservation made for one); and of another name those with its machine ID and
// public IP (this node before it was renamed).
//
// It fails with a *DuplicateError, or wraps subnet.ErrExhausted.
func Choose(c subnet.Claim, records []subnet.Record) (Choice, error) {
	var own []subnet.Record
	for i := range records { // many, and large: not copied
		switch r := &records[i]; {
		case !owns(&c, r):
		case r.Lease.Node == c.Node && foreign(c, r.Lease):
			return Choice{}, &DuplicateError{Claim: c, Other: *r}
		default:
			own = append(own, *r)
		}
	}
	others := func(yield func(*subnet.Record) bool) {
		for i := range records {
			if r := &records[i]; !owns(&c, r) && !undone(&c, r) && !yield(r) {
				return
			}
		}
	}
	slices.SortFunc(own, func(a, b subnet.Record) int { return preference(c, a, b) })

	keep := false
	if c.InUse {
		got, err := subnet.Allocate(c.Config, c.Node, c.Previous, subnets(others))
		keep = err == nil && got == c.Previous
	}
	var choice Choice
	for _, r := range own {
		err := serves(c, r, others)
		switch {
		case err == nil && !choice.Taken && (!keep || r.Reserved || r.Lease.Subnets == c.Previous):
			choice.Taken, choice.Own, choice.Key = true, r, r.Key
			choice.Lease = c.Announcement(r.Lease.Subnets)
			choice.Lease.Extra = r.Lease.Extra
		case !r.Reserved:
			choice.Delete = append(choice.Delete, r)
		default:
			if err != nil {
				choice.Unused = append(choice.Unused, fmt.Errorf("the reservation %s cannot be used: %w", r.Key, err))
			}
			if r.Lease.Active() {
				choice.Park = append(choice.Park, r)
			}
		}
	}
	if choice.Taken {
		return choice, nil
	}
	subnets, err := subnet.Allocate(c.Config, c.Node, previous(c, own), subnets(others))
	if err != nil {
		return Choice{}, err
	}
	choice.Lease = c.Announcement(subnets)
	choice.Key = subnet.EncodeKey(subnets)
	for i := range records {
		switch r := &records[i]; {
		case owns(&c, r) || !undone(&c, r) || !Overlap(r.Lease, choice.Lease):
		case r.Key == choice.Key:
			choice.Undone = *r
		default:
			choice.Delete = append(choice.Delete, *r)
		}
	}
	return choice, nil
}

// undone reports whether a record of another node comes from a backup that is
// older than our hold on Previous: while that was so, nothing of theirs was there.
func undone(c *subnet.Claim, r *subnet.Record) bool {
	return c.InUse && !r.Reserved && r.Modified < c.Since && Overlap(r.Lease, subnet.Lease{Subnets: c.Previous})
}

func owns(c *subnet.Claim, r *subnet.Record) bool {
	switch r.Lease.Node {
	case c.Node:
		return true
	case "":
		return share(c.PublicIPs, r.Lease.PublicIPs)
	}
	return !r.Reserved && c.MachineID != "" && r.Lease.MachineID == c.MachineID && share(c.PublicIPs, r.Lease.PublicIPs)
}

// foreign reports whether a lease with our name is another machine's. One that
// was installed anew keeps its address, one that moved keeps its machine ID.
func foreign(c subnet.Claim, l subnet.Lease) bool {
	return l.MachineID != "" && c.MachineID != "" && l.MachineID != c.MachineID && !share(c.PublicIPs, l.PublicIPs)
}

func share(a, b subnet.PerFamily[netip.Addr]) bool {
	for _, f := range subnet.Families {
		if a[f].IsValid() && a[f] == b[f] {
			return true
		}
	}
	return false
}

// preference orders our own records: reservations, then the previous subnets,
// then the one written last, which is where peers see us.
func preference(c subnet.Claim, a, b subnet.Record) int {
	rank := func(r subnet.Record) int {
		switch {
		case r.Reserved:
			return 0
		case r.Lease.Subnets == c.Previous:
			return 1
		}
		return 2
	}
	return cmp.Or(rank(a)-rank(b), cmp.Compare(b.Modified, a.Modified), cmp.Compare(a.Key, b.Key))
}

// serves says why a record of ours cannot be the lease. Where two overlap, the
// older counts, unless it is out of the network and so nobody's.
func serves(c subnet.Claim, r subnet.Record, others iter.Seq[*subnet.Record]) error {
	if err := Fits(c.Config, r); err != nil {
		return err
	}
	for o := range others {
		if o.Created < r.Created && Overlap(o.Lease, r.Lease) && c.Config.Covers(o.Lease) == nil {
			return fmt.Errorf("it overlaps %s of node %s, which is older", o.Key, o.Lease.ID())
		}
	}
	return nil
}

// Fits says why a node could not hold a record under the config. A reservation
// may lie outside SubnetMin to SubnetMax, and be of another length: an operator
// chose it.
func Fits(c subnet.Config, r subnet.Record) error {
	for _, f := range subnet.Families {
		p, network := r.Lease.Subnets[f], c.Networks[f]
		switch {
		case p.IsValid() != network.Enabled():
			return fmt.Errorf("the network config wants %s, the lease has %s", families(c.Networks), families(r.Lease.Subnets))
		case !network.Enabled(), network.Contains(p):
		case r.Reserved:
			if err := c.Covers(r.Lease); err != nil {
				return err
			}
		default:
			return fmt.Errorf("its subnet %s is none of the /%d that %s leases from %s to %s",
				p, network.SubnetLen, network.Network, network.Min, network.Max)
		}
	}
	return nil
}

// Overlap reports whether two leases have an address in common.
func Overlap(a, b subnet.Lease) bool {
	for _, f := range subnet.Families {
		if p, q := a.Subnets[f], b.Subnets[f]; p.IsValid() && q.IsValid() && p.Overlaps(q) {
			return true
		}
	}
	return false
}

// families names those whose element is not the zero value.
func families[T comparable](of subnet.PerFamily[T]) string {
	var zero T
	switch {
	case of[subnet.IPv4] == zero && of[subnet.IPv6] == zero:
		return "no subnet"
	case of[subnet.IPv6] == zero:
		return "IPv4"
	case of[subnet.IPv4] == zero:
		return "IPv6"
	}
	return "IPv4 and IPv6"
}

// previous returns the subnets to prefer: the claim's, else those of the
// records that we give up, so that a family which is switched on or off leaves
// the other's subnet as it is.
func previous(c subnet.Claim, own []subnet.Record) subnet.PerFamily[netip.Prefix] {
	p := c.Previous
	for _, f := range subnet.Families {
		for _, r := range own {
			if c.Config.Networks[f].Contains(p[f]) {
				break
			}
			p[f] = r.Lease.Subnets[f]
		}
	}
	return p
}

func subnets(records iter.Seq[*subnet.Record]) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for r := range records {
			for _, p := range r.Lease.Subnets {
				if p.IsValid() && !yield(p) {
					return
				}
			}
		}
	}
}
