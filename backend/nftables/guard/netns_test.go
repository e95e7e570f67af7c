package guard_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/backend/nftables/guard"
	"github.com/twill-net/twill/backend/rulestest"
	"github.com/twill-net/twill/subnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// namespace is one with our tables in it.
type namespace struct{ rulestest.Namespace }

func newNamespace(t testing.TB) namespace {
	t.Helper()
	rulestest.NeedNFT(t)
	return namespace{rulestest.NewNamespace(t)}
}

func (ns namespace) tables() *guard.Tables { return guard.New(guard.Config{NetNS: ns.FD()}) }

func (ns namespace) observe(t testing.TB) backend.State {
	t.Helper()
	s, err := ns.tables().Observe(t.Context())
	require.NoError(t, err)
	return s
}

// reach makes the kernel's state the one wanted.
func (ns namespace) reach(t testing.TB, want backend.State) {
	t.Helper()
	changes := backend.Diff(want, ns.observe(t))
	for i, err := range ns.tables().Apply(t.Context(), changes) {
		require.NoError(t, err, changes[i])
	}
	require.Equal(t, want, ns.observe(t))
}

func state(objects ...backend.Object) backend.State { return backend.NewState(objects...) }

func permit(outer string, inner ...string) backend.Object {
	p := hygiene.Permit{Outer: addr(outer)}
	for _, i := range inner {
		p.Inner = prefix(i)
	}
	return p
}

func pod(link string, addresses ...string) backend.Object {
	p := hygiene.Pod{Link: link}
	for _, a := range addresses {
		p.Addresses[subnet.FamilyOf(addr(a))] = addr(a)
	}
	return p
}

var dual = hygiene.Guard{
	VNI: 1, Port: 8472, Routed: true, Networks: subnet.PerFamily[netip.Prefix]{prefix("10.244.0.0/16"), prefix("fd00:244::/48")},
}

// whole is a state with something of everything.
func whole() backend.State {
	return state(dual,
		permit("192.0.2.2"), permit("192.0.2.2", "10.244.2.0/24"), permit("192.0.2.2", "fd00:244:0:2::/64"),
		permit("2001:db8::2"), permit("2001:db8::2", "10.244.2.0/24"), permit("2001:db8::2", "fd00:244:0:2::/64"),
		pod("veth1", "10.244.1.2", "fd00:244:0:1::2"), pod("veth2", "10.244.1.3"),
	)
}

func (ns namespace) generation(t *testing.T) uint32 {
	t.Helper()
	tables := ns.tables()
	defer tables.Close()
	n, err := tables.Generation(t.Context())
	require.NoError(t, err)
	return n
}
