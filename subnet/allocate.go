package subnet

import (
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"math/big"
	"net/netip"

	"github.com/gaissmai/bart"
)

// ErrExhausted is wrapped when a network has no free subnet left.
var ErrExhausted = errors.New("no free subnet is left")

// ErrNoLease is wrapped where somebody else assigns the subnets, and has not
// assigned this node one that it could hold.
var ErrNoLease = errors.New("no subnet is assigned to this node")

// ErrDenied is wrapped where a store answers that this node lacks a right: waiting
// does not help, an operator does.
var ErrDenied = errors.New("a right to the store is missing")

// ErrDuplicate is wrapped when another machine holds a lease under our node's
// name.
var ErrDuplicate = errors.New("another machine has this node's name")

// Allocate chooses a free subnet in each enabled family of cfg: the previous
// one when it lies in the range and nobody overlaps it, else the first free
// one after a place which the node's name decides. So nodes that start at once
// rarely want the same, and a node whose lease ran out comes back to its own.
// taken lists the subnets that others hold, of any length; one that is larger
// than the network counts for nothing, as no config could have leased it.
func Allocate(cfg Config, node string, previous PerFamily[netip.Prefix], taken iter.Seq[netip.Prefix]) (PerFamily[netip.Prefix], error) {
	var held bart.Lite
	for p := range taken {
		if p.IsValid() && p.Bits() >= cfg.Networks[FamilyOf(p.Addr())].Network.Bits() {
			held.Insert(p)
		}
	}
	var got PerFamily[netip.Prefix]
	for _, f := range Families {
		r := cfg.Networks[f]
		if !r.Enabled() {
			continue
		}
		p, err := r.allocate(node, previous[f], &held)
		if err != nil {
			return PerFamily[netip.Prefix]{}, fmt.Errorf("allocating an %s subnet of /%d in %s: %w", f, r.SubnetLen, r.Network, err)
		}
		got[f] = p
	}
	return got, nil
}

// Contains reports whether p is one of the subnets that the range leases.
func (r Range) Contains(p netip.Prefix) bool {
	return r.Enabled() && p.IsValid() && p.Bits() == r.SubnetLen && p == p.Masked() &&
		r.Network.Contains(p.Addr()) && r.Min.Compare(p.Addr()) <= 0 && p.Addr().Compare(r.Max) <= 0
}

// Covers reports whether p lies in the network, whatever its length: what
// somebody else assigns need not be one that the range leases.
func (r Range) Covers(p netip.Prefix) bool {
	return r.Enabled() && p.IsValid() && p.Bits() >= r.Network.Bits() && r.Network.Contains(p.Addr())
}

// Capacity returns how many subnets the range leases; IPv6 ranges hold more
// than 64 bits count.
func (r Range) Capacity() *big.Int {
	if !r.Enabled() {
		return new(big.Int)
	}
	d := new(big.Int).Sub(toInt(r.Max), toInt(r.Min))
	d.Rsh(d, r.hostBits())
	return d.Add(d, big.NewInt(1))
}

func (r Range) allocate(node string, previous netip.Prefix, held *bart.Lite) (netip.Prefix, error) {
	if r.Contains(previous) && !held.OverlapsPrefix(previous) {
		return previous, nil
	}
	start := r.place(node)
	p, ok := r.firstFree(start, r.Max, held)
	if !ok {
		p, ok = r.firstFree(r.Min, start, held)
	}
	if !ok {
		return p, fmt.Errorf("%w: all %d are held; release some or widen the network", ErrExhausted, r.Capacity())
	}
	return p, nil
}

// place returns the subnet at which the search for a node's begins.
func (r Range) place(node string) netip.Addr {
	h := fnv.New128a()
	h.Write([]byte(node))
	i := new(big.Int).SetBytes(h.Sum(nil))
	i.Mod(i, r.Capacity()).Lsh(i, r.hostBits())
	i.Add(i, toInt(r.Min))
	a, _ := netip.AddrFromSlice(i.FillBytes(make([]byte, r.Min.BitLen()/8)))
	return a
}

// firstFree returns the first subnet from one to another, both included, that
// nobody overlaps. Each step passes one that is held, however large the range.
func (r Range) firstFree(from, to netip.Addr, held *bart.Lite) (netip.Prefix, bool) {
	for a := from; a.IsValid() && a.Compare(to) <= 0; {
		p := netip.PrefixFrom(a, r.SubnetLen)
		if !held.OverlapsPrefix(p) {
			return p, true
		}
		last := lastAddr(p)
		for larger := range held.Supernets(p) { // the longest first
			last = lastAddr(larger)
		}
		a = last.Next() // the zero Addr after the last of all addresses
	}
	return netip.Prefix{}, false
}

// hostBits returns how many bits of an address are the pod's.
func (r Range) hostBits() uint { return uint(r.Network.Addr().BitLen() - r.SubnetLen) }

func toInt(a netip.Addr) *big.Int { return new(big.Int).SetBytes(a.AsSlice()) }

// lastAddr returns the highest address of p.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
