package nftables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/backend/nftables/internal/nft"
	"github.com/twill-net/twill/subnet"
)

// mark leads the comment of each rule that we put into a chain of others.
const mark = "twill: "

// Foreign puts accepts into other programs' chains, where what is forwarded
// would be dropped: an accept in our own table cannot keep it from that.
//
// A chain counts as one that drops when it is a base chain of type filter and
// hook forward, of family ip, ip6 or inet, in a table that is not dormant, and
// its policy is drop or one of its own rules drops or rejects every packet. What
// it jumps to is not looked into. The accepts stand at its head, and nothing
// else in it is ever touched; ours are known by their comment, which begins
// with "twill: ". They are there exactly as long as the chain drops: a chain
// that drops no more has no need of them.
//
// At the head, since others tell packets apart by interface (firewalld's zones)
// long before their last rule. It is where firewalld puts the sources of a
// trusted zone.
type Foreign struct {
	netns   int
	session *nft.Session

	mu    sync.Mutex
	bases map[Chain]bool // base chains of hook forward; see Watch
}

// Chain names a chain of nf_tables.
type Chain struct {
	Family      byte // unix.NFPROTO_*
	Table, Name string
}

// String returns the chain as nft names it, such as "inet firewalld
// filter_FORWARD".
func (c Chain) String() string {
	return familyNames[c.Family] + " " + c.Table + " " + c.Name
}

func (c Chain) table() nfnetlink.Table { return nfnetlink.Table{Family: c.Family, Name: c.Table} }

// familyNames are those families whose forward hook routed packets pass.
var familyNames = map[byte]string{unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet"}

// ours reports whether the chain is in a table of Twill's.
func (c Chain) ours() bool {
	return c.Family == unix.NFPROTO_INET && (c.Table == TableName || strings.HasPrefix(c.Table, TableName+"-"))
}

// iptables reports whether iptables-nft shows the chain: tables of its names,
// its chain FORWARD.
func (c Chain) iptables() bool {
	return c.Family != unix.NFPROTO_INET && c.Name == "FORWARD" && slices.Contains([]string{"filter", "mangle", "security"}, c.Table)
}

// left reports whether the chain is iptables' business: its FORWARD of table
// filter where its binary is there, which can write it in the form it reads.
func (c Chain) left(iptables subnet.PerFamily[bool]) bool {
	for _, f := range subnet.Families {
		if iptables[f] && c.Family == nfproto[f] && c.Table == "filter" && c.Name == "FORWARD" {
			return true
		}
	}
	return false
}

// NewForeign returns what Foreign does, in one network namespace.
func NewForeign(options ...Option) *Foreign {
	t := New(options...)
	return &Foreign{netns: t.netns, session: t.session, bases: map[Chain]bool{}}
}

// syncAttempts bounds how often a chain is written again that others changed
// in between.
const syncAttempts = 3

// Sync puts rules, accepts of either family, into the chains that drop, takes
// them out of all others, and reports what it did. Families for which iptables
// is true have their FORWARD of iptables-nft seen to by that.
//
// A chain that cannot be written is in the report as blocked and does not keep
// others from being written; err is about the kernel, which could not be read.
// Without rules all accepts go.
func (f *Foreign) Sync(ctx context.Context, rules []masq.Rule, iptables subnet.PerFamily[bool]) (masq.Report, error) {
	var report masq.Report
	for range syncAttempts {
		chains, err := f.list(ctx)
		if err != nil {
			return report, fmt.Errorf("reading other programs' chains of hook forward: %w", err)
		}
		again := false
		report.Forward, report.Blocked = nil, nil
		for _, c := range chains {
			want := c.wanted(rules)
			if c.left(iptables) {
				want = nil // also what we put there before iptables was installed
			}
			wrote, err := f.sync(ctx, c, want, rules)
			report.Changed = report.Changed || wrote
			again = again || errors.Is(err, unix.ENOENT)
			switch {
			case errors.Is(err, errOpen):
			case err != nil:
				report.Blocked = append(report.Blocked, masq.Blocked{Chain: c.String(), Reason: err.Error()})
			case len(want) > 0:
				report.Forward = append(report.Forward, c.String())
			}
		}
		if !again {
			break
		}
	}
	return report, ctx.Err()
}

// errOpen says that a chain lets our networks through without us.
var errOpen = errors.New("not needed")

// sync brings one chain's accepts up to date in one transaction.
func (f *Foreign) sync(ctx context.Context, c foreignChain, want []nft.Rule, rules []masq.Rule) (changed bool, err error) {
	if c.right(want) {
		return false, nil
	}
	if c.iptables() && len(want) > 0 && c.Table != "filter" {
		return false, fmt.Errorf("it drops what is forwarded, and is iptables' own: accept %s there (iptables -t %s -I FORWARD -s … -j ACCEPT, and the same with -d)",
			strings.Join(sources(rules), " and "), c.Table)
	}
	err = f.session.Write(ctx, func(conn *nftables.Conn) error {
		table := &nftables.Table{Name: c.Table, Family: nftables.TableFamily(c.Family)}
		chain := &nftables.Chain{Name: c.Name, Table: table}
		for _, r := range c.rules {
			if r.ours() {
				if err := conn.DelRule(&nftables.Rule{Table: table, Chain: chain, Handle: r.handle}); err != nil {
					return err
				}
			}
		}
		for _, r := range slices.Backward(want) { // each goes before all others
			conn.InsertRule(r.In(table, chain))
		}
		return nil
	})
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, unix.EPERM) || !c.owned {
		return false, fmt.Errorf("writing our accepts into it: %w%s", err, advice(err))
	}
	if open, errRead := f.letsThrough(ctx, c.Chain, rules); open || errRead != nil {
		return false, cmp.Or(errRead, errOpen)
	}
	return false, fmt.Errorf("it drops what is forwarded, and its table has an owner (flag owner), who alone may write to it: %w; %s", err, c.remedy(rules))
}

// remedy says what the administrator can do about a table with an owner.
func (c Chain) remedy(rules []masq.Rule) string {
	if c.Table != "firewalld" {
		return "make that program accept " + strings.Join(sources(rules), " and ")
	}
	add := ""
	for _, s := range sources(rules) {
		add += " --add-source=" + s
	}
	return "tell firewalld: firewall-cmd --permanent --zone=trusted" + add + ", and the same without --permanent"
}

// sources returns the networks whose packets rules accept.
func sources(rules []masq.Rule) []string {
	var list []string
	for _, r := range rules {
		if r.Source.IsValid() {
			list = append(list, r.Source.String())
		}
	}
	return list
}

// wanted returns the rules that belong into the chain: none if it drops
// nothing.
func (c foreignChain) wanted(rules []masq.Rule) []nft.Rule {
	var list []nft.Rule
	for _, r := range rules {
		w := nft.Rule{Userdata: nft.Userdata(mark + r.Comment)}
		switch c.Family {
		case unix.NFPROTO_INET:
			w.Exprs = exprs(r)
		case nfproto[r.Family]:
			w.Exprs = familyExprs(r)
		default:
			continue
		}
		list = append(list, w)
	}
	if !c.drops {
		return nil
	}
	return list
}

// right reports whether exactly these rules are ours in the chain, at its head.
func (c foreignChain) right(want []nft.Rule) bool {
	for i, r := range c.rules {
		if i < len(want) && !sameRule(r.Rule, want[i]) || i >= len(want) && r.ours() {
			return false
		}
	}
	return len(c.rules) >= len(want)
}

func (r foreignRule) ours() bool {
	return strings.HasPrefix(r.Comment(), mark)
}

// letsThrough reports whether rules of the table itself, as those of firewalld's
// trusted zone, take the packets of each of our networks and send them some
// other way than to their end.
func (f *Foreign) letsThrough(ctx context.Context, c Chain, rules []masq.Rule) (bool, error) {
	have, err := f.tableRules(ctx, c)
	if err != nil {
		return false, err
	}
	for _, r := range rules {
		if !r.Source.IsValid() || c.Family != unix.NFPROTO_INET && c.Family != nfproto[r.Family] {
			continue
		}
		from := matchPrefix(r.Source, sourceOffset[r.Family])
		if !slices.ContainsFunc(have, func(h foreignRule) bool { return h.sends(from) }) {
			return false, nil
		}
	}
	return true, nil
}

// sends reports whether a rule matches these expressions and then accepts or
// goes to another chain.
func (r foreignRule) sends(from []expr.Any) bool {
	n := len(r.Exprs)
	if n < len(from)+1 {
		return false
	}
	v, ok := r.Exprs[n-1].(*expr.Verdict)
	if !ok || v.Kind == expr.VerdictDrop {
		return false
	}
	for i := range n - len(from) {
		if reflect.DeepEqual(r.Exprs[i:i+len(from)], from) {
			return true
		}
	}
	return false
}

// Remove takes our accepts out of all chains.
func (f *Foreign) Remove(ctx context.Context) error {
	report, err := f.Sync(ctx, nil, subnet.PerFamily[bool]{})
	if nfnetlink.Absent(err) {
		return nil // no nf_tables, no chains
	}
	for _, b := range report.Blocked {
		err = errors.Join(err, fmt.Errorf("taking our accepts out of chain %s: %s", b.Chain, b.Reason))
	}
	return err
}
