package nftables_test

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/backend/nftables"
	"github.com/twill-net/twill/backend/rulestest"
	"github.com/twill-net/twill/subnet"
)

// listing is what nft 1.0.6 shows for rulestest.Dual.
const listing = `table inet twill {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		meta nfproto ipv4 meta mark & 0x00004000 == 0x00004000 return comment "masqueraded by kube-proxy"
		ip saddr 10.244.1.0/24 ip daddr 10.244.0.0/16 return comment "own pods inside the network"
		ip daddr 10.244.1.0/24 return comment "own pods see their clients"
		ip daddr 224.0.0.0/4 return comment "multicast"
		ip saddr 10.244.0.0/16 masquerade fully-random comment "pods to the outside"
		ip daddr 10.244.0.0/16 masquerade fully-random comment "the outside to peers' pods"
		meta nfproto ipv6 meta mark & 0x00004000 == 0x00004000 return comment "masqueraded by kube-proxy"
		ip6 saddr fd00:244:0:1::/64 ip6 daddr fd00:244::/48 return comment "own pods inside the network"
		ip6 daddr fd00:244:0:1::/64 return comment "own pods see their clients"
		ip6 daddr ff00::/8 return comment "multicast"
		ip6 saddr fd00:244::/48 masquerade fully-random comment "pods to the outside"
		ip6 daddr fd00:244::/48 masquerade fully-random comment "the outside to peers' pods"
	}
}
`

// foreign is a table of someone else, of our family and with our chain names.
const foreign = `table inet other {
	set postrouting {
		type ipv4_addr
		elements = { 192.0.2.1 }
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip daddr 192.0.2.1 return
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		ip daddr 192.0.2.2 drop
	}
}
`

func (ns namespace) table() *nftables.Table { return nftables.New(nftables.InNetNS(ns.FD())) }

func (ns namespace) sync(t *testing.T, c masq.Config) (changed bool) {
	t.Helper()
	return rulestest.Sync(t, ns.table(), c)
}

// generation reads the number that each transaction of a namespace raises.
func (ns namespace) generation(t *testing.T) uint32 {
	t.Helper()
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns.FD()})
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	reply, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   make([]byte, 4),
	})
	require.NoError(t, err)
	require.Len(t, reply, 1)
	attrs, err := netlink.NewAttributeDecoder(reply[0].Data[4:])
	require.NoError(t, err)
	attrs.ByteOrder = binary.BigEndian
	for attrs.Next() {
		if attrs.Type() == unix.NFTA_GEN_ID {
			return attrs.Uint32()
		}
	}
	require.Fail(t, "the kernel's answer has no generation")
	return 0
}

func TestSupportedChangesNothing(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	before := ns.generation(t)
	require.NoError(t, ns.table().Supported(t.Context()))
	require.Equal(t, before, ns.generation(t))
}

func TestSyncRendersWhatNFTReads(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := newNamespace(t)
	require.True(t, ns.sync(t, rulestest.Dual()))
	require.Equal(t, listing, ns.Run(t, "nft", "list", "table", "inet", "twill"))
}

// Prefixes that end inside an octet are masked, /0 matches all of the family,
// and host prefixes compare whole addresses.
func TestSyncRendersAnyPrefixLength(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := newNamespace(t)
	var rules masq.Rules
	var want []string
	for bits := 1; bits <= 128; bits++ {
		for _, f := range subnet.Families {
			if bits > f.Bits() {
				continue
			}
			address := subnet.PerFamily[string]{subnet.IPv4: "170.170.170.171", subnet.IPv6: "aaaa:aaaa:aaaa:aaaa:aaaa:aaaa:aaaa:aaab"}[f]
			p := netip.PrefixFrom(netip.MustParseAddr(address), bits).Masked()
			rules.Postrouting = append(rules.Postrouting, masq.Rule{Family: f, Source: p, Verdict: masq.Accept})
			text := p.String()
			if bits == f.Bits() {
				text = p.Addr().String()
			}
			want = append(want, subnet.PerFamily[string]{subnet.IPv4: "ip", subnet.IPv6: "ip6"}[f]+" saddr "+text+" accept")
		}
	}
	rules.Postrouting = append(rules.Postrouting, masq.Rule{Family: subnet.IPv6, Source: netip.MustParsePrefix("::/0"), Verdict: masq.Return})
	want = append(want, "meta nfproto ipv6 return")

	changed, err := ns.table().Sync(t.Context(), rules)
	require.NoError(t, err)
	require.True(t, changed)
	var have []string
	for line := range strings.Lines(ns.Run(t, "nft", "list", "chain", "inet", "twill", "postrouting")) {
		if strings.HasPrefix(line, "\t\t") && !strings.Contains(line, "type nat") {
			have = append(have, strings.TrimSpace(line))
		}
	}
	require.Equal(t, want, have)
	changed, err = ns.table().Sync(t.Context(), rules)
	require.NoError(t, err)
	require.False(t, changed)
}

func TestSyncTwiceWritesNothing(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	for _, c := range []masq.Config{rulestest.Dual(), {}} {
		ns.sync(t, c)
		before := ns.generation(t)
		require.False(t, ns.sync(t, c), "nothing differs")
		require.Equal(t, before, ns.generation(t), "a transaction was committed")
	}
}

func TestSyncInOneTransaction(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := newNamespace(t)
	step := func(what string, change func()) {
		change()
		before := ns.generation(t)
		require.True(t, ns.sync(t, rulestest.Dual()), what)
		require.Equal(t, before+1, ns.generation(t), what)
	}
	step("first", func() {})
	step("rules", func() { ns.Run(t, "nft", "flush", "chain", "inet", "twill", "postrouting") })
	step("whole table", func() { ns.Run(t, "nft", "add", "chain", "inet", "twill", "extra") })
}

// Each way of tampering is undone, and the foreign table survives it.
func TestSyncRepairs(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	handle := func(pattern string) string { // of the first rule that holds the pattern
		return `h=$(nft -a list table inet twill | grep -m1 '` + pattern + `' | sed 's/.*handle //'); `
	}
	tests := map[string]string{
		"rule deleted":                            handle("ip saddr 10.244.1.0/24") + `nft delete rule inet twill postrouting handle $h`,
		"rule added at the end":                   `nft add rule inet twill postrouting ip daddr 192.0.2.9 masquerade`,
		"rule added in front":                     `nft insert rule inet twill postrouting ip daddr 192.0.2.9 drop`,
		"rule twice":                              `nft add rule inet twill postrouting ip6 daddr ff00::/8 return comment '"multicast"'`,
		"rule altered, length":                    handle("ip daddr 10.244.1.0/24") + `nft replace rule inet twill postrouting handle $h ip daddr 10.244.1.0/25 return comment '"own pods see their clients"'`,
		"rule altered, address":                   handle("ip daddr 10.244.1.0/24") + `nft replace rule inet twill postrouting handle $h ip daddr 10.244.2.0/24 return comment '"own pods see their clients"'`,
		"rule altered, direction":                 handle("ip daddr 10.244.1.0/24") + `nft replace rule inet twill postrouting handle $h ip saddr 10.244.1.0/24 return comment '"own pods see their clients"'`,
		"rule altered, negated":                   handle("ip daddr 10.244.1.0/24") + `nft replace rule inet twill postrouting handle $h ip daddr != 10.244.1.0/24 return comment '"own pods see their clients"'`,
		"rule altered, mark":                      handle("mark") + `nft replace rule inet twill postrouting handle $h meta nfproto ipv4 meta mark and 0x4000 == 0 return comment '"masqueraded by kube-proxy"'`,
		"rule altered, verdict":                   handle("ip daddr 224") + `nft replace rule inet twill postrouting handle $h ip daddr 224.0.0.0/4 drop comment '"multicast"'`,
		"rule altered, not random":                handle("pods to the outside") + `nft replace rule inet twill postrouting handle $h ip saddr 10.244.0.0/16 masquerade comment '"pods to the outside"'`,
		"rule altered, persistent":                handle("pods to the outside") + `nft replace rule inet twill postrouting handle $h ip saddr 10.244.0.0/16 masquerade fully-random,persistent comment '"pods to the outside"'`,
		"rule altered, counter":                   handle("pods to the outside") + `nft replace rule inet twill postrouting handle $h ip saddr 10.244.0.0/16 counter masquerade fully-random comment '"pods to the outside"'`,
		"rule altered, by an expression not ours": handle("ip daddr 224") + `nft replace rule inet twill postrouting handle $h ip daddr 224.0.0.0/4 rt ip nexthop 192.0.2.1 return comment '"multicast"'`,
		"rule altered, comment":                   handle("ip daddr 224") + `nft replace rule inet twill postrouting handle $h ip daddr 224.0.0.0/4 return`,
		"rules in another order":                  handle("ip daddr 224") + `nft "delete rule inet twill postrouting handle $h; add rule inet twill postrouting ip daddr 224.0.0.0/4 return comment \"multicast\""`,
		"chain flushed":                           `nft flush chain inet twill postrouting`,
		"chain deleted":                           `nft "flush chain inet twill postrouting; delete chain inet twill postrouting"`,
		"chain with another policy":               `nft 'chain inet twill postrouting { policy drop; }'`,
		"chain with another priority":             `nft 'flush chain inet twill postrouting; delete chain inet twill postrouting; add chain inet twill postrouting { type nat hook postrouting priority 7; }'`,
		"chain without a hook":                    `nft 'flush chain inet twill postrouting; delete chain inet twill postrouting; add chain inet twill postrouting'`,
		"chain added":                             `nft 'add chain inet twill input { type filter hook input priority 0; policy drop; }'`,
		"chain added with rules":                  `nft 'add chain inet twill extra; add rule inet twill extra drop'`,
		"chain renamed":                           `nft rename chain inet twill postrouting renamed`,
		"set added":                               `nft 'add set inet twill s { type ipv4_addr; }'`,
		"table dormant":                           `nft 'add table inet twill { flags dormant; }'`,
		"table flushed":                           `nft flush table inet twill`,
		"table deleted":                           `nft delete table inet twill`,
	}
	for name, tamper := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			ns.Pipe(t, foreign, "nft", "-f", "-")
			ns.sync(t, rulestest.Dual())
			before := ns.Run(t, "nft", "list", "table", "inet", "twill")
			ns.Run(t, "sh", "-ec", tamper)
			require.NotEqual(t, before, ns.Run(t, "sh", "-c", "nft list table inet twill || :"), "not tampered with")

			require.True(t, ns.sync(t, rulestest.Dual()))
			require.Equal(t, before, ns.Run(t, "nft", "list", "table", "inet", "twill"))
			require.Equal(t, foreign, ns.Run(t, "nft", "list", "table", "inet", "other"))
			require.False(t, ns.sync(t, rulestest.Dual()))
		})
	}
}
