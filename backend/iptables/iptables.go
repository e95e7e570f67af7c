// Package iptables keeps the chains TWILL-POSTRTG (table nat) and
// TWILL-FORWARD (table filter) of iptables and ip6tables equal to the rules it
// is given, and one jump to each of them in POSTROUTING and FORWARD. Chains of
// that name are ours alone; all others are only read, as far as our jump's place
// depends on them, and never written.
//
// There are two variants of iptables, which know nothing of each other's rules:
// the one that writes into nf_tables (tables `ip filter` and so on), and legacy
// with its own tables in the kernel. A packet passes both, and what either drops
// is dropped. A Chains works on one of them; Detect says which the host has.
//
// # Where the jumps stand
//
// Both stand at the end of their chain when we put them in, or before the first
// rule which ends the way of every packet: in FORWARD one which drops it (an
// unconditional DROP or REJECT, or a jump to a chain which holds one, as
// ufw-reject-forward does), in POSTROUTING also MASQUERADE, SNAT and ACCEPT.
// There they may stay: whoever inserts rules before them does no harm, and a jump
// is moved only when such an end comes to lie before it. A chain that lets some
// packets RETURN, or go to another chain, before such a rule is no end: it is
// somebody's list of what may pass, and ours goes behind. Nor is ours put before
// a rule of FORWARD which accepts everything, or has it inspected (NFQUEUE):
// where all live, nothing needs us, and pods would slip past the inspection.
//
// In FORWARD that is late enough to leave alone what others decide about some
// packets: kube-proxy rejects what goes to services without endpoints and drops
// packets which conntrack finds invalid, network policies (Calico, kube-router)
// drop what they forbid, Docker has DOCKER-USER for the administrator (who may
// let some sources return and drop the rest: that is for pods too). An accept
// before them would undo all that. And it is early enough, since what follows is
// the policy (DROP with Docker and ufw) or the final REJECT (firewalld). Docker
// puts its own jumps at the top whenever it starts; its chains drop only what
// concerns its bridges and return the rest, so our jump stays where it is, and
// there is no war about the first place with those who insist on it (Calico,
// kube-router).
//
// In POSTROUTING the place matters less, as the first rule that translates a
// connection settles it. kube-proxy's and Docker's rules take what is theirs by
// mark or by source and return the rest; an administrator's SNAT for an uplink goes before our
// MASQUERADE, and is meant to.
//
// # Writing
//
// What a release of iptables can do is known to github.com/coreos/go-iptables. Its
// listings cannot be interrupted, and it has no iptables-restore, which alone
// changes a table in one commit, chain and jump together; so `iptables -S` of
// single chains and iptables-restore are run here. The nf_tables variant is first
// looked at over netlink: as long as its chains are what they were when they were
// last found right, no process is run.
//
// It works in the network namespace of the calling thread. It imports neither
// vishvananda/netlink, google/nftables, etcd, Kubernetes nor a logger.
package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/subnet"
)

// Names of our chains.
const (
	PostroutingChain = "TWILL-POSTRTG" // in table nat
	ForwardChain     = "TWILL-FORWARD" // in table filter
)

// Variant is a kind of iptables.
type Variant uint8

// The variants.
const (
	NFT    Variant = iota // iptables-nft: rules live in nf_tables
	Legacy                // iptables-legacy: rules live in tables of their own
)

// Variants are both, for loops.
var Variants = [...]Variant{NFT, Legacy}

// String returns the variant as `iptables --version` spells it: "nf_tables" or "legacy".
func (v Variant) String() string {
	if v == Legacy {
		return "legacy"
	}
	return "nf_tables"
}

// place is one of our chains, and where the jump to it belongs.
type place struct {
	family  subnet.Family
	table   string
	hook    string // the built-in chain that jumps to ours
	chain   string // ours
	comment string // of the jump
}

// places are all of ours, masquerade first: what is forwarded should not leave
// with a pod's address.
func places() []place {
	var list []place
	for _, f := range subnet.Families {
		list = append(list,
			place{f, "nat", "POSTROUTING", PostroutingChain, "twill masquerade"},
			place{f, "filter", "FORWARD", ForwardChain, "twill forward"})
	}
	return list
}

func (p place) String() string {
	return fmt.Sprintf("chain %s of %s table %s", p.chain, programs[p.family], p.table)
}

// want returns the rules of r that belong into p's chain, in the form in which
// they are read back: a prefix of length 0 matches all, as none does.
func (p place) want(r masq.Rules, randomFully bool) []masq.Rule {
	all := r.Postrouting
	if p.chain == ForwardChain {
		all = r.Forward
	}
	var rules []masq.Rule
	for _, rule := range all {
		if rule.Family == p.family {
			rules = append(rules, canonical(rule, randomFully))
		}
	}
	return rules
}

// Chains are our chains, of both families, in one variant. Sync and Remove
// must not run at the same time; ForwardDrops may run at any.
type Chains struct {
	variant  Variant
	commands subnet.PerFamily[command]
	settled  map[place]settled
}

// settled is what was there when a place was last found right.
type settled struct {
	want   []masq.Rule
	looked []string // the chains that were looked at
	print  string   // of them, see fingerprint
}

// New returns the chains of one variant. It runs and asks nothing. Binaries that
// h lacks are an error only of what needs them.
func New(h Host, v Variant) *Chains {
	return &Chains{variant: v, commands: h.commands[v], settled: map[place]settled{}}
}

// Variant returns the one that the chains are in.
func (c *Chains) Variant() Variant { return c.variant }

// Sync makes our chains equal to rules, sees to the jumps, and reports whether
// it had to change anything. It reads what is there and writes only what
// differs, in one commit per family and table, so that no packet meets half of
// the rules. A chain without rules is removed together with its jump, and a
// legacy table in which we have none is neither read nor brought about by that.
//
// Fully random masquerade becomes plain masquerade where iptables is older than
// 1.6.2, which has no --random-fully.
//
// What was written is read back; a difference that remains is an error. One
// family's or table's failure does not keep the others from being written; all
// are in err. Such errors may pass (the xtables lock held by another program,
// rules changed by others at the same time), so try again. A held lock is waited
// for once, 1 s before a look and 5 s before a write. The end of ctx ends it.
func (c *Chains) Sync(ctx context.Context, rules masq.Rules) (changed bool, err error) {
	var failed []error
	for _, p := range places() {
		wrote, err := c.bring(ctx, p, rules)
		changed = changed || wrote
		failed = append(failed, err)
		if ctx.Err() != nil || locked(err) { // the lock is one for all
			break
		}
	}
	return changed, errors.Join(failed...)
}

// Remove deletes our chains and the jumps to them, in both tables of both
// families, and nothing else. That they are absent is no error. Built-in chains
// that iptables-nft made for our jump stay, empty.
func (c *Chains) Remove(ctx context.Context) error {
	_, err := c.Sync(ctx, masq.Rules{})
	return err
}

func (c *Chains) sync(ctx context.Context, p place, want []masq.Rule) (changed bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	before := c.settled[p]
	if before.print != "" && slices.Equal(before.want, want) {
		if now, err := fingerprint(ctx, p, before.looked); err == nil && now == before.print {
			return false, nil
		}
	}
	delete(c.settled, p)
	todo, err := c.compare(ctx, p, want)
	if err != nil || todo.nothing() {
		return false, err
	}
	if err := c.commands[p.family].restore(ctx, todo.script(p, want)); err != nil {
		if todo.remove && !locked(err) { // EBUSY, which the legacy variant does not say
			err = fmt.Errorf("%w; if a rule of another chain leads to %s, delete it", err, p.chain)
		}
		return false, fmt.Errorf("writing it, since %s: %w", todo, err)
	}
	left, err := c.compare(ctx, p, want)
	if err == nil && !left.nothing() {
		err = fmt.Errorf("checking it: %s, right after it was written; another program writes to it, "+
			"or this version of iptables lists rules in an unknown form (`%s -t %s -S %s` shows it)",
			left, c.commands[p.family].path, p.table, p.chain)
	}
	return true, err
}

// compare reads what is there and says what to do. Where that is nothing, it
// takes down the chains' fingerprint, so that the next look needs no process.
func (c *Chains) compare(ctx context.Context, p place, want []masq.Rule) (change, error) {
	if c.variant == Legacy {
		o, err := c.read(ctx, p, len(want) > 0)
		if err != nil {
			return change{}, err
		}
		return diff(p, want, o), nil
	}
	looked := []string{p.chain, p.hook}
	before, err := fingerprint(ctx, p, looked)
	if err != nil {
		return change{}, err
	}
	o, err := c.read(ctx, p, len(want) > 0)
	if err != nil {
		return change{}, err
	}
	todo := diff(p, want, o)
	if !todo.nothing() {
		return todo, nil
	}
	// Only now is it known which other chains matter. They are gone through
	// again between two looks, so that no change in the meantime is missed.
	settled := settled{want: want, looked: append(looked, o.visited...)}
	if settled.print, err = fingerprint(ctx, p, settled.looked); err != nil {
		return todo, err
	}
	again, visited, err := end(p, o.policy, o.hook, c.reader(ctx, p))
	if err != nil || again != o.end || !slices.Equal(visited, o.visited) {
		return todo, err
	}
	for _, look := range []struct {
		chains []string
		want   string
	}{{looked, before}, {settled.looked, settled.print}} {
		if now, err := fingerprint(ctx, p, look.chains); err != nil || now != look.want {
			return todo, err
		}
	}
	c.settled[p] = settled
	return todo, nil
}

// families are nf_tables' numbers of ours.
var families = subnet.PerFamily[byte]{subnet.IPv4: unix.NFPROTO_IPV4, subnet.IPv6: unix.NFPROTO_IPV6}

// programs are the names of the binaries.
var programs = subnet.PerFamily[string]{subnet.IPv4: "iptables", subnet.IPv6: "ip6tables"}
