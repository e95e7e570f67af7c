// Package guard renders backend/hygiene into nftables: who may speak to our
// VTEP (table `inet twill-vtep`) and which source addresses pods may use (table
// `bridge twill-pods`, and for pods on no bridge `inet twill-vtep` again). Both
// tables are ours alone; others are neither listed nor touched.
//
// Objects and what they are in the kernel:
//   - hygiene.Permit: one element of a hash set. There is one set, and one rule,
//     for each pair of families and each length of subnet that occurs, so that a
//     packet costs the same for two peers and for 20 000, and so does a change.
//   - hygiene.Guard: all chains and rules of both tables, with named counters,
//     which outlive them. It is the Guard that drops; permits alone do nothing.
//   - hygiene.Pod: an element that says that a veth is guarded, and one for each
//     of its addresses, in both tables.
//
// What a set has been made for stays when its last element goes: an empty set
// drops nothing that the others let through. The tables go with the Guard, if
// nothing else is left, or by Remove.
//
// The check is made on the input hook, not before: there the kernel has put
// IPv4 fragments together (ip_local_deliver), so that nothing can be hidden
// behind the first 8 octets. IPv6 fragments come to it as they are, unless
// connection tracking is on (nf_defrag_ipv6), so the first one must hold all the
// headers that are looked at; it decides for the others, since the kernel takes
// no fragments that overlap (RFC 5722). A packet that is too short for what is
// checked is matched by no rule that accepts, and those that drop come last.
//
// Aggregated packets (GRO) are looked at once: the kernel aggregates only what
// has the same outer and inner addresses (vxlan_gro_receive,
// inet_gro_receive), so that the first headers are those of all.
//
// Pods' packets are stopped from reaching peers on the forward hook, behind
// destination NAT and before masquerading. What is masqueraded there is never a
// fragment: NAT needs connection tracking, which puts fragments together.
//
// Reading, and writing elements, is done on raw netlink; tables, sets and rules
// are written by github.com/google/nftables. It imports neither
// vishvananda/netlink, etcd, Kubernetes nor a logger.
package guard

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
	"github.com/twill-net/twill/backend/nftables/internal/nft"
)

// Config says where the tables are.
type Config struct {
	NetNS int // file descriptor of a network namespace; 0: the calling thread's
}

// Tables is what is ours of nf_tables, for hygiene, in one network namespace.
// Its methods may be called at the same time, but for Apply and Remove.
type Tables struct {
	cfg     Config
	session *nft.Session

	mu     sync.Mutex
	probed bool
	bridge bool // the kernel has nf_tables for bridges
	memory
}

// New returns the tables. It does not ask the kernel for anything.
func New(cfg Config) *Tables { return &Tables{cfg: cfg, session: nft.NewSession(cfg.NetNS)} }

// Close closes the socket by which the kernel is spoken to. The next use opens
// it again.
func (t *Tables) Close() error { return t.session.Close() }

// The names of our tables.
const (
	VTEPTable = "twill-vtep" // family inet
	PodsTable = "twill-pods" // family bridge
)

// vtep and pods are the tables as netlink names them.
func vtep() nfnetlink.Table { return nfnetlink.Table{Family: unix.NFPROTO_INET, Name: VTEPTable} }
func pods() nfnetlink.Table { return nfnetlink.Table{Family: unix.NFPROTO_BRIDGE, Name: PodsTable} }

// tables returns those that this kernel can hold.
func (t *Tables) tables(ctx context.Context) ([]nfnetlink.Table, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.probed {
		switch err := t.probe(ctx, pods()); {
		case err == nil:
			t.bridge = true
		case !unsupported(err):
			return nil, err
		}
		t.probed = true
	}
	if t.bridge {
		return []nfnetlink.Table{vtep(), pods()}, nil
	}
	return []nfnetlink.Table{vtep()}, nil
}

// Remove deletes our tables, and nothing else. That they are absent is no
// error.
func (t *Tables) Remove(ctx context.Context) error {
	var errs []error
	for _, table := range []nfnetlink.Table{vtep(), pods()} {
		there := false
		err := t.session.Do(ctx, func(conn *netlink.Conn) error {
			_, err := nfnetlink.GetTable(conn, table)
			if there = err == nil; errors.Is(err, unix.ENOENT) {
				return nil
			}
			return err
		})
		if there {
			err = t.session.Write(ctx, func(c *nftables.Conn) error {
				c.DelTable(tableOf(table))
				return nil
			})
		}
		if err != nil && !errors.Is(err, unix.ENOENT) && !unsupported(err) {
			errs = append(errs, fmt.Errorf("deleting table %s: %w%s", describe(table), err, advice(err)))
		}
	}
	if len(errs) == 0 {
		t.observed(nil, 0)
	}
	return errors.Join(errs...)
}

func tableOf(t nfnetlink.Table) *nftables.Table {
	return &nftables.Table{Name: t.Name, Family: nftables.TableFamily(t.Family)}
}

// describe names a table as nft does.
func describe(t nfnetlink.Table) string {
	if t.Family == unix.NFPROTO_BRIDGE {
		return "bridge " + t.Name
	}
	return "inet " + t.Name
}
