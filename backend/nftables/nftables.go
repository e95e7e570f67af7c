// Package nftables keeps the kernel's table `inet twill` equal to the rules it
// is given, over netlink and without a binary. The table is ours alone: what
// is in it and not in the rules goes; other tables are not touched, but for the
// accepts that Foreign puts into chains which drop what is forwarded.
//
// Reading is done here on raw netlink, since github.com/google/nftables drops
// expressions and attributes it does not know (a rule altered by hand could
// look right) and the errno of failed reads. Writing is done by that library.
//
// An accept in one table cannot override a drop in another: every base chain
// on a hook sees the packet, and a drop is final (nft(8), "Statements,
// verdict"). So ours has no chain there. Where something drops (Docker,
// firewalld, ufw), the accepts must go there: Foreign puts them into other
// tables' chains.
//
// A nat chain switches connection tracking on for both families of the network
// namespace. So a chain without rules is not rendered, and a node that does not
// masquerade pays nothing.
//
// It imports neither vishvananda/netlink, etcd, Kubernetes nor a logger.
package nftables

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/backend/nftables/internal/nft"
)

// TableName is the name of our table, family inet.
const TableName = "twill"

// Table is the table `inet twill` of one network namespace.
type Table struct {
	netns   int // file descriptor, 0: the calling thread's namespace
	session *nft.Session
}

// Option alters a Table.
type Option func(*Table)

// InNetNS lets the Table work in the network namespace that fd refers to,
// which must stay open as long as the Table is in use.
func InNetNS(fd int) Option {
	return func(t *Table) { t.netns = fd }
}

// New returns the table. It does not ask the kernel for anything.
func New(options ...Option) *Table {
	t := &Table{}
	for _, o := range options {
		o(t)
	}
	t.session = nft.NewSession(t.netns)
	return t
}

// Generation returns a number that is the same while no table of this network
// namespace changes, those of iptables-nft among them.
func (t *Table) Generation(ctx context.Context) (uint32, error) { return t.session.Generation(ctx) }

// Sync makes the kernel's table equal to rules and reports whether it had to
// change anything. It reads what is there and writes only what differs, in one
// transaction, so that no packet meets half of the rules. Without any rules
// the table is removed.
//
// What was written is read back; a difference that remains is an error, so
// that a kernel that reads back differently never leads to endless writing.
func (t *Table) Sync(ctx context.Context, rules masq.Rules) (changed bool, err error) {
	want := render(rules)
	have, err := t.read(ctx, names(want))
	if err != nil {
		return false, err
	}
	todo := diff(want, have)
	if todo.nothing() {
		return false, nil
	}
	if err := t.write(ctx, todo); err != nil {
		return false, err
	}
	have, err = t.read(ctx, names(want))
	if err != nil {
		return true, err
	}
	if left := diff(want, have); !left.nothing() {
		return true, fmt.Errorf("checking table inet %s: it differs from what was just written: %s; "+
			"another program writes to it, or this kernel reads rules back in an unknown form (`nft list table inet %s` shows it)",
			TableName, left, TableName)
	}
	return true, nil
}

// Remove deletes our table, and nothing else. That it is absent is no error.
func (t *Table) Remove(ctx context.Context) error {
	err := t.session.Write(ctx, func(c *nftables.Conn) error {
		c.DelTable(inetTable())
		return nil
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("deleting table inet %s: %w%s", TableName, err, advice(err))
	}
	return nil
}

func inetTable() *nftables.Table {
	return &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
}

// advice says what to do about an error of the kernel, or nothing.
func advice(err error) string {
	if errors.Is(err, unix.ENOENT) { // what a chain or an expression is of
		return "; " + requirement
	}
	return nfnetlink.Advice(err, requirement)
}
