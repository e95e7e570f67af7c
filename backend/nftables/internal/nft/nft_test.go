package nft_test

import (
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
	"github.com/twill-net/twill/backend/nftables/internal/nft"
	"github.com/twill-net/twill/backend/rulestest"
)

// What Put and In write is what ReadChains reads, but for what the decoder does
// not know.
func TestReadChains(t *testing.T) {
	t.Parallel()
	ns := rulestest.NewNamespace(t)
	cmp := &expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{unix.NFPROTO_IPV4}}
	load := &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1}
	want := nft.BaseChain("base", nftables.ChainTypeFilter, nftables.ChainHookForward, -5,
		nft.Rule{Exprs: []expr.Any{load, cmp, &expr.Verdict{Kind: expr.VerdictJump, Chain: "regular"}}, Userdata: nft.Userdata("a comment")},
		nft.Rule{Exprs: []expr.Any{&expr.Counter{}, &expr.Immediate{Register: unix.NFT_REG_1, Data: []byte{1, 2, 3, 4}}, &expr.Verdict{Kind: expr.VerdictDrop}}},
	)
	regular := nft.Chain{Name: "regular"}
	table := &nftables.Table{Name: "t", Family: nftables.TableFamilyINet}
	session := nft.NewSession(ns.FD())
	t.Cleanup(func() { require.NoError(t, session.Close()) })
	write := func(chains ...nft.Chain) {
		require.NoError(t, session.Write(t.Context(), func(conn *nftables.Conn) error {
			conn.AddTable(table)
			for _, c := range chains {
				at := c.Put(conn, table)
				for _, r := range c.Rules {
					conn.AddRule(r.In(table, at))
				}
			}
			return nil
		}))
	}
	read := func() (have map[string]nft.Chain) {
		require.NoError(t, session.Read(t.Context(), func(conn *netlink.Conn) (err error) {
			have, err = nft.Decoder(nft.Known).ReadChains(conn, nfnetlink.Table{Family: unix.NFPROTO_INET, Name: "t"},
				[]string{"base", "regular", "none"})
			return err
		}))
		return have
	}
	write(regular, want)
	write(want) // in place of the rules that there are
	require.Equal(t, "a comment", read()["base"].Rules[0].Comment())
	want.Rules[1].Exprs[0], want.Rules[1].Exprs[1] = nil, nil
	require.Equal(t, map[string]nft.Chain{"base": want, "regular": regular}, read())
}
