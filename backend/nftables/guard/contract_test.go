package guard_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
)

func TestNothingIsThereBeforeAndAfter(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	require.NoError(t, ns.tables().Supported(t.Context()))
	require.NoError(t, ns.tables().Remove(t.Context()))
	require.Empty(t, ns.observe(t))
	require.Empty(t, ns.Run(t, "nft", "list", "ruleset"), "a probe leaves nothing")
	ns.reach(t, whole())
	require.NoError(t, ns.tables().Remove(t.Context()))
	require.Empty(t, ns.observe(t))
	require.Empty(t, ns.Run(t, "nft", "list", "ruleset"))

	ns.reach(t, whole())
	ns.reach(t, state())
	require.Empty(t, ns.Run(t, "nft", "list", "ruleset"), "without the last object, the tables go too")
}

// foreign is a table of someone else, with our names in it.
const foreign = `table inet other {
	counter stranger {
		packets 0 bytes 0
	}

	set peers-ipv4 {
		type ipv4_addr
		elements = { 192.0.2.2 }
	}

	chain input {
		type filter hook input priority filter - 10; policy accept;
		ip saddr @peers-ipv4 counter name "stranger" drop
	}
}
table bridge other {
	chain prerouting {
		type filter hook prerouting priority dstnat - 10; policy accept;
	}
}
`

// Between any two states one Diff is enough, whichever they are, and nobody
// else's tables are touched.
func TestConverges(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("replay with SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	ns := newNamespace(t)
	ns.Pipe(t, foreign, "nft", "-f", "-")
	for range 60 {
		ns.reach(t, randomState(random))
	}
	ns.reach(t, whole()) // the tables go with the guard
	ns.reach(t, state())
	require.Equal(t, foreign, ns.Run(t, "nft", "list", "ruleset"))
}

func randomState(random *rand.Rand) backend.State {
	s := backend.State{}
	put := func(o backend.Object) {
		if random.IntN(3) > 0 {
			s[o.Key()] = o
		}
	}
	g := hygiene.Guard{VNI: random.Uint32N(1 << 24), Port: uint16(random.Uint32()), Networks: dual.Networks, Routed: random.IntN(2) == 0}
	if f := random.IntN(3); f < len(g.Networks) {
		g.Networks[f] = netip.Prefix{}
	}
	put(g)
	for _, outer := range []string{"192.0.2.2", "192.0.2.3", "2001:db8::2"} {
		put(permit(outer))
		for _, inner := range []string{"10.244.2.0/24", "10.244.3.0/25", "10.244.4.7/32", "10.0.0.0/8", "fd00:244:0:2::/64", "fd00:244::/55", "::/0"} {
			put(permit(outer, inner))
		}
	}
	for _, link := range []string{"veth1", "veth23456789012"} {
		addresses := []string{"10.244.1.2", "fd00:244:0:1::2", "10.244.1.3"}
		put(pod(link, addresses[:random.IntN(4)]...))
	}
	return s
}

// A host pays for pods on no bridge while there are some.
func TestRouted(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	hooks := func() int {
		return strings.Count(ns.Run(t, "nft", "list", "table", "inet", "twill-vtep"), "hook prerouting")
	}
	bridged := dual
	bridged.Routed = false
	for range 2 {
		ns.reach(t, state(dual, permit("192.0.2.2")))
		require.Equal(t, 1, hooks())
		ns.reach(t, state(bridged, permit("192.0.2.2")))
		require.Zero(t, hooks())
	}
	for _, tamper := range []string{
		"nft add chain inet twill-vtep pod",
		"nft add chain inet twill-vtep prerouting '{ type filter hook prerouting priority -310; }'",
		"nft add chain inet twill-vtep prerouting '{ type filter hook prerouting priority -310; policy drop; }'",
		"nft add chain inet twill-vtep prerouting",
	} {
		ns.Run(t, "sh", "-ec", tamper)
		require.NotEqual(t, hygiene.Whole, ns.observe(t)[bridged.Key()].(hygiene.Guard).Condition, tamper)
		ns.reach(t, state(bridged, permit("192.0.2.2")))
		require.Zero(t, hooks(), tamper)
	}
}

// Each way of tampering is seen, undone, and leaves the rest as it was.
func TestRepairs(t *testing.T) {
	t.Parallel()
	handle := func(pattern string) string { // of the first rule that holds the pattern
		return `h=$(nft -a list table inet twill-vtep | grep -m1 '` + pattern + `' | sed 's/.*handle //'); `
	}
	const altered, broken, element = hygiene.Altered, hygiene.Broken, hygiene.Whole
	for name, c := range map[string]struct {
		tamper string
		want   hygiene.Condition
	}{
		"rule deleted":             {handle("no peer") + `nft delete rule inet twill-vtep peer handle $h`, altered},
		"rule added":               {`nft insert rule inet twill-vtep input accept`, altered},
		"rule with a set added":    {`nft add rule inet twill-vtep inner ip saddr { 192.0.2.7, 192.0.2.8 } accept`, altered},
		"rule with others' things": {`nft insert rule inet twill-vtep input ct state new accept`, altered},
		"rule altered, port":       {handle("udp dport.*goto vtep") + `nft replace rule inet twill-vtep input handle $h udp dport 8473 goto vtep comment '"vni 1 port 8472 network 10.244.0.0/16 fd00:244::/48"'`, altered},
		"rule altered, comment":    {handle("udp dport.*goto vtep") + `nft replace rule inet twill-vtep input handle $h udp dport 8472 goto vtep comment '"vni 2 port 8472 network 10.244.0.0/16 fd00:244::/48"'`, altered},
		"rule altered, verdict":    {handle("foreign VNI") + `nft replace rule inet twill-vtep vtep handle $h @th,96,32 '&' 0xffffff00 != 0x100 drop comment '"foreign VNI"'`, altered},
		"rule altered, mask":       {handle("not from a pod") + `nft replace rule inet twill-vtep inner-ipv4 handle $h @th,336,32 '&' 0xff000000 != 0xa000000 accept comment '"not from a pod"'`, altered},
		"rules in another order":   {handle("foreign VNI") + `nft "delete rule inet twill-vtep vtep handle $h; add rule inet twill-vtep vtep @th,96,32 & 0xffffff00 != 0x100 accept comment \"foreign VNI\""`, altered},
		"chain flushed":            {`nft flush chain inet twill-vtep input`, altered},
		"chain deleted":            {`nft "flush chain bridge twill-pods prerouting; delete chain bridge twill-pods prerouting"`, altered},
		"table flushed":            {`nft flush table inet twill-vtep`, altered},
		"policy":                   {`nft 'chain inet twill-vtep forward { policy drop; }'`, broken},
		"priority":                 {`nft 'flush chain inet twill-vtep input; delete chain inet twill-vtep input; add chain inet twill-vtep input { type filter hook input priority 7; }'`, broken},
		"chain added":              {`nft 'add chain inet twill-vtep extra { type filter hook input priority 0; policy drop; }'`, broken},
		"set added":                {`nft 'add set inet twill-vtep extra { type ipv4_addr; }'`, broken},
		"counter added":            {`nft add counter bridge twill-pods extra`, broken},
		"set of another kind":      {`nft 'flush chain inet twill-vtep peer; flush chain inet twill-vtep pod-to-vtep; delete set inet twill-vtep peers-ipv4; add set inet twill-vtep peers-ipv4 { type ipv4_addr; flags interval; }'`, broken},
		"all may pass":             {`nft 'add element inet twill-vtep peers-ipv4 { * }'`, broken},
		"counter deleted":          {`nft flush table bridge twill-pods && nft delete counter bridge twill-pods spoofed-source`, altered},
		"table dormant":            {`nft add table inet twill-vtep '{ flags dormant; }'`, broken},
		"one table deleted":        {`nft delete table bridge twill-pods`, altered},
		"the other table deleted":  {`nft delete table inet twill-vtep`, altered},
		"element added":            {`nft add element inet twill-vtep peers-ipv6 '{ 2001:db8::bad }'`, element},
		"mapped element added":     {`nft add element inet twill-vtep peers-ipv6 '{ ::ffff:192.0.2.2 }'`, element},
		"inner element added":      {`nft add element inet twill-vtep ipv4-24-in-ipv4 '{ 192.0.2.2 . 10.244.9.77 }'`, element},
		"element deleted":          {`nft delete element inet twill-vtep peers-ipv4 '{ 192.0.2.2 }'`, element},
		"set flushed":              {`nft flush set inet twill-vtep ipv6-64-in-ipv6`, element},
		"pod's address added":      {`nft add element bridge twill-pods pods-ipv4 '{ "veth1" . 10.244.1.9 }'`, element},
		"pod's address deleted":    {`nft delete element inet twill-vtep pods-ipv4 '{ "veth1" . 10.244.1.2 }'`, element},
		"pod's port deleted":       {`nft delete element bridge twill-pods pod-ports '{ "veth2" }'`, element},
		"pods added":               {`nft add element bridge twill-pods pod-ports '{ "veth9" }'`, element},
		"all sets flushed":         {`nft flush set bridge twill-pods pod-ports && nft flush set bridge twill-pods pods-ipv4 && nft flush set bridge twill-pods pods-ipv6`, element},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			ns.reach(t, whole())
			before, raw := listing(ns, t), ns.Run(t, "nft", "-s", "list", "ruleset")
			right := ns.generation(t)
			ns.observe(t)
			require.Equal(t, right, ns.generation(t), "to read changes nothing")
			ns.Run(t, "sh", "-ec", c.tamper)
			require.NotEqual(t, right, ns.generation(t), "else nobody would look")
			require.False(t, raw == ns.Run(t, "nft", "-s", "list", "ruleset"), "not tampered with")
			have := ns.observe(t)
			require.NotEqual(t, whole(), have)
			require.Equal(t, c.want, have[dual.Key()].(hygiene.Guard).Condition)
			ns.reach(t, whole())
			require.Equal(t, before, listing(ns, t))
			require.Empty(t, backend.Diff(whole(), ns.observe(t)))
		})
	}
}

// listing is the ruleset, its lines sorted, since a new element or chain may
// have another place.
func listing(ns namespace, t *testing.T) []string {
	lines := slices.Collect(strings.Lines(ns.Run(t, "nft", "-s", "list", "ruleset")))
	slices.Sort(lines)
	return lines
}

// While all rules are written again, or a subnet of a new length comes, the
// permits stay, and so do the counters.
func TestRewriteKeepsPermits(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	stranger := func() { n.outside.send(t, at[0].stranger, at[0].uplink, 8472, vxlan(1, nil)) }
	n.dropped(t, hygiene.ReasonStranger, stranger)
	want := n.node.observe(t)
	n.node.Run(t, "nft", "flush", "chain", "inet", "twill-vtep", "input")
	n.node.reach(t, want)
	n.dropped(t, hygiene.ReasonStranger, stranger)
	require.Equal(t, uint64(2), n.drops(t)[string(hygiene.ReasonStranger)])

	device := n.node.tap(t, "twill.1")
	narrow := permit("192.0.2.2", "10.244.3.0/30")
	send := func(text, from string) func() {
		return func() {
			n.outside.send(t, at[0].peer, at[0].uplink, 8472, vxlan(1, inner(addr(from), at[0].pod1, text)))
		}
	}
	n.dropped(t, hygiene.ReasonInnerSource, send("", "10.244.3.1"))
	require.Equal(t, []error{nil}, n.node.tables().Apply(t.Context(), []backend.Change{{Want: narrow}}))
	n.passes(t, device, "a new length", send("a new length", "10.244.3.1"))
	n.dropped(t, hygiene.ReasonInnerSource, send("", "10.244.3.4"))
	require.Equal(t, []error{nil}, n.node.tables().Apply(t.Context(), []backend.Change{{Have: narrow}}))
	n.dropped(t, hygiene.ReasonInnerSource, send("", "10.244.3.1"))
	require.Equal(t, want, n.node.observe(t))
}

// While the rules are written again and again, no packet of a peer is dropped
// and none of a stranger gets in.
func TestRewriteUnderTraffic(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	device := n.node.tap(t, "twill.1")
	before := n.drops(t)
	done := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < 100 && err == nil; i++ {
			g := dual
			if i%2 == 0 {
				g.Networks[0] = prefix("10.244.0.0/15")
			}
			err = n.node.tables().Apply(context.Background(), []backend.Change{{Want: g}})[0]
		}
		done <- err
	}()
	strangers := uint64(0)
	for i := 0; ; i++ {
		text := fmt.Sprintf("packet %d.", i)
		n.outside.send(t, at[0].peer, at[0].uplink, 8472, vxlan(1, inner(at[0].remote, at[0].pod1, text)))
		n.outside.send(t, at[0].stranger, at[0].uplink, 8472, vxlan(1, nil))
		strangers++
		device.awaits(t, text)
		select {
		case err := <-done:
			require.NoError(t, err)
			before[string(hygiene.ReasonStranger)] += strangers
			n.counted(t, before)
			return
		default:
		}
	}
}

// While somebody flushes the ruleset again and again, and all is put back, no
// packet of a peer is dropped: permits are there before the guard.
func TestFlushUnderTraffic(t *testing.T) {
	t.Parallel()
	n := newTopology(t)
	device := n.node.tap(t, "twill.1")
	want := n.node.observe(t)
	maps.Copy(want, many(1500)) // several transactions
	want[dual.Key()] = dual
	tables := n.node.tables()
	done := make(chan error, 1)
	go func() {
		for range 15 {
			if err := n.node.Do(func() error { return exec.Command("nft", "flush", "ruleset").Run() }); err != nil {
				done <- err
				return
			}
			have, err := tables.Observe(context.Background())
			if err = errors.Join(append(tables.Apply(context.Background(), backend.Diff(want, have)), err)...); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for i := 0; ; i++ {
		text := fmt.Sprintf("packet %d.", i)
		n.outside.send(t, at[0].peer, at[0].uplink, 8472, vxlan(1, inner(at[0].remote, at[0].pod1, text)))
		device.awaits(t, text)
		select {
		case err := <-done:
			require.NoError(t, err)
			require.Equal(t, want, n.node.observe(t))
			return
		default:
		}
	}
}

// One that cannot be applied keeps no other out, and what is so already is no
// error.
func TestErrorsAreOnesOwn(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	ns.reach(t, whole())
	var changes []backend.Change
	for i := range 40 {
		o := permit(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String())
		changes = append(changes, backend.Change{Want: o}, backend.Change{Have: permit("198.51.100.1", "10.9.8.0/29")}, backend.Change{Have: permit("2001:db8::99")})
	}
	changes = slices.Insert(changes, 17, backend.Change{Want: backend.Link{Name: "twill.1"}})
	for i, err := range ns.tables().Apply(t.Context(), changes) {
		if i == 17 {
			require.ErrorContains(t, err, "the guard holds no link")
			continue
		}
		require.NoError(t, err)
	}
	want := whole()
	for i := range 40 {
		o := permit(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String())
		want[o.Key()] = o
	}
	require.Equal(t, want, ns.observe(t))

	// A guard that someone saw was there with its permits.
	ns.Run(t, "nft", "flush", "ruleset")
	seen := dual
	seen.Condition = hygiene.Altered
	errs := ns.tables().Apply(t.Context(), []backend.Change{{Have: seen, Want: dual}})
	require.ErrorContains(t, errs[0], "observe it again")
	require.Empty(t, ns.observe(t))
}

func TestWithoutBridge(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	tables := ns.tables().WithoutBridge()
	for _, want := range []backend.State{whole(), {}} {
		have, err := tables.Observe(t.Context())
		require.NoError(t, err)
		for _, err := range tables.Apply(t.Context(), backend.Diff(want, have)) {
			require.NoError(t, err)
		}
		have, err = tables.Observe(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, have)
		require.NotContains(t, ns.Run(t, "nft", "list", "ruleset"), "table bridge")
	}
}

// All come back, however many there are.
func TestManyAfterFlush(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	want := many(2000)
	for range 2 {
		ns.reach(t, want)
		ns.Run(t, "nft", "flush", "ruleset")
	}
}

// A set may have more new elements than fit in a message.
func TestLongLists(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	want := state(dual)
	for i := range 5000 {
		p := hygiene.Permit{
			Outer: netip.AddrFrom16([16]byte{0x20, 1, 14: byte(i >> 8), 15: byte(i)}), Inner: prefix("fd00:244:0:2::/64"),
		}
		want[p.Key()] = p
	}
	ns.reach(t, want)
	ns.reach(t, state(dual))
	ns.reach(t, want)
}
