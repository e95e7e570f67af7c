package nfnetlink_test

import (
	"context"
	"errors"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
	"github.com/twill-net/twill/backend/rulestest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStable(t *testing.T) {
	t.Parallel()
	other := errors.New("other")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx         context.Context
		generations []uint32 // the last one again and again
		reads       []error  // the last one again and again
		want        int      // readings
		err         error
	}{
		"at rest":                     {generations: []uint32{7}, reads: []error{nil}, want: 1},
		"changed once":                {generations: []uint32{7, 8}, reads: []error{nil}, want: 2},
		"gone in between":             {generations: []uint32{7, 8}, reads: []error{unix.ENOENT, nil}, want: 2},
		"interrupted":                 {generations: []uint32{7, 8}, reads: []error{unix.EINTR, nil}, want: 2},
		"not there":                   {generations: []uint32{7}, reads: []error{unix.ENOENT}, want: 1, err: unix.ENOENT},
		"an error is not waited for":  {generations: []uint32{7, 8}, reads: []error{other}, want: 1, err: other},
		"changed, and then cancelled": {ctx: ctx, generations: []uint32{7, 8}, reads: []error{nil}, want: 1, err: context.Canceled},
	} {
		if c.ctx == nil {
			c.ctx = t.Context()
		}
		asked, reads := 0, 0
		err := nfnetlink.Stable(c.ctx, func() (uint32, error) {
			asked++
			return c.generations[min(asked, len(c.generations))-1], nil
		}, func() error {
			reads++
			return c.reads[min(reads, len(c.reads))-1]
		})
		require.Equal(t, c.want, reads, name)
		require.ErrorIs(t, err, c.err, name)
	}

	generation := uint32(0)
	err := nfnetlink.Stable(t.Context(), func() (uint32, error) { generation++; return generation, nil }, func() error { return nil })
	require.ErrorContains(t, err, "the ruleset changed")
	err = nfnetlink.Stable(t.Context(), func() (uint32, error) { return 0, other }, func() error { panic("read") })
	require.ErrorIs(t, err, other)
}

// What is read is what nft has written.
func TestRead(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := rulestest.NewNamespace(t)
	table := nfnetlink.Table{Family: unix.NFPROTO_IPV6, Name: "t"}
	read := func(f func(*netlink.Conn) error) error { return nfnetlink.Read(t.Context(), ns.FD(), f) }
	require.ErrorIs(t, read(func(conn *netlink.Conn) error {
		_, err := nfnetlink.GetTable(conn, table)
		return err
	}), unix.ENOENT)
	ns.Pipe(t, `table ip6 t {
	flags dormant
	chain regular {
		counter drop comment "all"
	}
	chain base {
		type filter hook forward priority -5; policy drop;
		ip6 saddr fd00::1 accept
		jump regular
	}
}`, "nft", "-f", "-")
	require.NoError(t, read(func(conn *netlink.Conn) error {
		header, err := nfnetlink.GetTable(conn, table)
		require.NoError(t, err)
		require.NotZero(t, header.Handle)
		require.Equal(t, nfnetlink.Header{Handle: header.Handle, Flags: nfnetlink.Dormant, Use: 2}, header)

		base, err := nfnetlink.GetChain(conn, table, "base")
		require.NoError(t, err)
		require.NotZero(t, base.Handle)
		require.Equal(t, nfnetlink.Chain{
			Table: table, Name: "base", Handle: base.Handle,
			Hook: nfnetlink.Hook{Type: "filter", Number: unix.NF_INET_FORWARD, Priority: -5, Policy: 0},
		}, base)
		regular, err := nfnetlink.GetChain(conn, table, "regular")
		require.NoError(t, err)
		require.Zero(t, regular.Hook)
		_, err = nfnetlink.GetChain(conn, table, "none")
		require.ErrorIs(t, err, unix.ENOENT)

		rules, err := nfnetlink.ListRules(conn, table, "")
		require.NoError(t, err)
		require.Len(t, rules, 3)
		rules, err = nfnetlink.ListRules(conn, table, "regular")
		require.NoError(t, err)
		require.Len(t, rules, 1)
		r := rules[0]
		require.Equal(t, "regular", r.Chain)
		require.NotZero(t, r.Handle)
		require.Contains(t, string(r.Userdata), "all")
		require.Equal(t, []string{"counter", "immediate"}, []string{r.Expressions[0].Name, r.Expressions[1].Name})
		attrs, err := nfnetlink.Attributes(r.Expressions[1].Data)
		require.NoError(t, err)
		require.True(t, attrs.Next())
		require.EqualValues(t, unix.NFTA_IMMEDIATE_DREG, attrs.Type())
		require.EqualValues(t, unix.NFT_REG_VERDICT, attrs.Uint32())
		return nil
	}))
}

// A probe tells what the kernel does not take, and leaves nothing.
func TestProbe(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := rulestest.NewNamespace(t)
	chain := func(kind string) nfnetlink.Step {
		return nfnetlink.StepChain("a chain of type "+kind, nfnetlink.Chain{
			Table: nfnetlink.Table{Family: unix.NFPROTO_INET, Name: "t"}, Name: "c", Hook: nfnetlink.Hook{Type: kind, Number: unix.NF_INET_FORWARD, Priority: -1},
		})
	}
	table := nfnetlink.StepTable("a table", nfnetlink.Table{Family: unix.NFPROTO_INET, Name: "t"})
	require.NoError(t, nfnetlink.Probe(t.Context(), ns.FD(), table, chain("filter")))
	err := nfnetlink.Probe(t.Context(), ns.FD(), table, chain("unheard-of"))
	require.ErrorIs(t, err, unix.ENOENT)
	require.ErrorContains(t, err, "takes a chain of type unheard-of")
	table.Family = 99
	require.Error(t, nfnetlink.Probe(t.Context(), ns.FD(), table))
	require.Empty(t, ns.Run(t, "nft", "list", "ruleset"))
}

// FuzzDecode looks for messages that are too much for the decoders.
func FuzzDecode(f *testing.F) {
	rule, err := nfnetlink.Encode(func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_RULE_CHAIN, "c")
		e.Nested(unix.NFTA_RULE_EXPRESSIONS, func(list *netlink.AttributeEncoder) error {
			list.Nested(unix.NFTA_LIST_ELEM, func(x *netlink.AttributeEncoder) error {
				x.String(unix.NFTA_EXPR_NAME, "cmp")
				x.Bytes(unix.NFTA_EXPR_DATA, []byte{8, 0, 1, 0, 0, 0, 0, 1})
				return nil
			})
			return nil
		})
	})
	require.NoError(f, err)
	f.Add(append([]byte{2, 0, 0, 0}, rule...))
	f.Add([]byte{2, 0, 0, 0, 8, 0, 4, 0})
	f.Add([]byte{2})
	f.Fuzz(func(_ *testing.T, data []byte) {
		m := netlink.Message{Data: data}
		_, _ = nfnetlink.DecodeChain(m)
		_, _ = nfnetlink.DecodeRule(m)
		nfnetlink.TableOf(m)
	})
}
