package iptables_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/iptables"
	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/backend/rulestest"
	"github.com/twill-net/twill/subnet"
)

// listing is what iptables-save 1.8.9 shows of rulestest.Dual, IPv4, in a
// namespace with the rules of busyHost.
const listing = `-A FORWARD -m comment --comment "twill forward" -j TWILL-FORWARD
-A TWILL-FORWARD -s 10.244.0.0/16 -m comment --comment "from the network" -j ACCEPT
-A TWILL-FORWARD -d 10.244.0.0/16 -m comment --comment "to the network" -j ACCEPT
-A POSTROUTING -m comment --comment "twill masquerade" -j TWILL-POSTRTG
-A TWILL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "masqueraded by kube-proxy" -j RETURN
-A TWILL-POSTRTG -s 10.244.1.0/24 -d 10.244.0.0/16 -m comment --comment "own pods inside the network" -j RETURN
-A TWILL-POSTRTG -d 10.244.1.0/24 -m comment --comment "own pods see their clients" -j RETURN
-A TWILL-POSTRTG -d 224.0.0.0/4 -m comment --comment multicast -j RETURN
-A TWILL-POSTRTG -s 10.244.0.0/16 -m comment --comment "pods to the outside" -j MASQUERADE --random-fully
-A TWILL-POSTRTG -d 10.244.0.0/16 -m comment --comment "the outside to peers\' pods" -j MASQUERADE --random-fully
`

func TestSyncRenders(t *testing.T) {
	each(t, func(t *testing.T, c chains) {
		require.True(t, rulestest.Sync(t, c, rulestest.Dual()))
		v6 := strings.NewReplacer("10.244.0.0/16", "fd00:244::/48", "10.244.1.0/24", "fd00:244:0:1::/64", "224.0.0.0/4", "ff00::/8").
			Replace(listing)
		var rules strings.Builder
		for l := range strings.Lines(c.save(t)) {
			if strings.HasPrefix(l, "-A ") {
				rules.WriteString(l)
			}
		}
		require.Equal(t, sections(listing+v6), sections(rules.String()))
		require.False(t, rulestest.Sync(t, c, rulestest.Dual()))
	})
}

// sections are rules by their chain and family, as tables are saved in any order.
func sections(rules string) map[string]string {
	m := map[string]string{}
	for l := range strings.Lines(rules) {
		family := "IPv4"
		if strings.Contains(l, "::/") {
			family = "IPv6"
		}
		m[family+" "+strings.Fields(l)[1]] += l
	}
	return m
}

// What the model can say and Plan never does reads back as well.
func TestSyncRendersOddRules(t *testing.T) {
	each(t, func(t *testing.T, c chains) {
		rules := masq.Rules{}
		for _, f := range subnet.Families {
			for _, s := range []string{"10.0.0.1/32", "10.0.0.0/7", "0.0.0.0/0", "fd00::1/128", "fc00::/9", "::/0"} {
				if p := netip.MustParsePrefix(s); subnet.FamilyOf(p.Addr()) == f {
					rules.Forward = append(rules.Forward, masq.Rule{Family: f, Source: p, Verdict: masq.Return})
				}
			}
			for _, m := range []masq.Mark{{Value: 0, Mask: 0x8000}, {Value: 7, Mask: 0xffffffff}, {Value: 0xffffffff, Mask: 0xffffffff}} {
				rules.Forward = append(rules.Forward, masq.Rule{Family: f, Mark: m, Verdict: masq.Accept, Comment: `a "quoted" \ one, it's`})
			}
			rules.Postrouting = append(rules.Postrouting, masq.Rule{Family: f, Verdict: masq.Masquerade, Comment: "one\n-A POSTROUTING -j DROP"})
		}
		_, err := c.Sync(t.Context(), rules)
		require.ErrorContains(t, err, "right after it was written", "a line break is no part of a comment")
		require.NotContains(t, c.save(t), "\n-A POSTROUTING -j DROP")
		for i := range rules.Postrouting {
			rules.Postrouting[i].Comment = ""
		}
		changed, err := c.Sync(t.Context(), rules)
		require.NoError(t, err)
		require.True(t, changed)
		changed, err = c.Sync(t.Context(), rules)
		require.NoError(t, err)
		require.False(t, changed)
	})
}

// Each way of tampering is undone, in both families, and others' rules survive it.
func TestSyncRepairs(t *testing.T) {
	const forward = `-m comment --comment "twill forward" -j TWILL-FORWARD`
	tests := map[string]string{
		"chain flushed":               `ipt -t nat -F TWILL-POSTRTG`,
		"both chains flushed":         `ipt -t nat -F TWILL-POSTRTG; ipt -F TWILL-FORWARD`,
		"jump deleted":                `ipt -D FORWARD ` + forward,
		"jump deleted, chain too":     `ipt -D FORWARD ` + forward + `; ipt -F TWILL-FORWARD; ipt -X TWILL-FORWARD`,
		"jump twice":                  `ipt -I FORWARD ` + forward,
		"jump another":                `ipt -A FORWARD -i lo -g TWILL-FORWARD`,
		"jump conditional":            `ipt -D FORWARD ` + forward + `; ipt -I FORWARD -i lo ` + forward,
		"jump without comment":        `ipt -D FORWARD ` + forward + `; ipt -I FORWARD -j TWILL-FORWARD`,
		"jump behind a drop":          `ipt -D FORWARD ` + forward + `; ipt -A FORWARD -j DROP; ipt -A FORWARD ` + forward,
		"drop before the jump":        `ipt -I FORWARD -j DROP`,
		"reject before the jump":      `ipt -I FORWARD 2 -m comment --comment "no \"way\"" -j REJECT --reject-with $reject`,
		"masquerade before the jump":  `ipt -t nat -I POSTROUTING -j MASQUERADE`,
		"chain of drops before it":    `ipt -N ufw-reject-forward; ipt -A ufw-reject-forward -j REJECT; ipt -I FORWARD -j ufw-reject-forward`,
		"nested drops before it":      `ipt -N a; ipt -N b; ipt -A a -j LOG; ipt -A a -g b; ipt -A b -j DROP; ipt -I FORWARD -j a`,
		"rule deleted":                `ipt -t nat -D TWILL-POSTRTG 2`,
		"rule added at the end":       `ipt -t nat -A TWILL-POSTRTG -d $net -j RETURN`,
		"rule added in front":         `ipt -I TWILL-FORWARD -s $own -j DROP`,
		"rule twice":                  `ipt -A TWILL-FORWARD -d $net -m comment --comment "to the network" -j ACCEPT`,
		"rules in another order":      `ipt -D TWILL-FORWARD 1; ipt -A TWILL-FORWARD -s $net -m comment --comment "from the network" -j ACCEPT`,
		"rule altered, address":       `ipt -R TWILL-FORWARD 1 -s $own -m comment --comment "from the network" -j ACCEPT`,
		"rule altered, direction":     `ipt -R TWILL-FORWARD 1 -d $net -m comment --comment "from the network" -j ACCEPT`,
		"rule altered, negated":       `ipt -R TWILL-FORWARD 1 ! -s $net -m comment --comment "from the network" -j ACCEPT`,
		"rule altered, interface":     `ipt -R TWILL-FORWARD 1 -s $net -i lo -m comment --comment "from the network" -j ACCEPT`,
		"rule altered, protocol":      `ipt -R TWILL-FORWARD 1 -s $net -p udp -m comment --comment "from the network" -j ACCEPT`,
		"rule altered, verdict":       `ipt -R TWILL-FORWARD 1 -s $net -m comment --comment "from the network" -j DROP`,
		"rule altered, goto":          `ipt -N x; ipt -R TWILL-FORWARD 1 -s $net -m comment --comment "from the network" -g x`,
		"rule altered, comment":       `ipt -R TWILL-FORWARD 1 -s $net -m comment --comment "from the net" -j ACCEPT`,
		"rule altered, no comment":    `ipt -R TWILL-FORWARD 1 -s $net -j ACCEPT`,
		"rule altered, no target":     `ipt -R TWILL-FORWARD 1 -s $net -m comment --comment "from the network"`,
		"rule altered, mark":          `ipt -t nat -R TWILL-POSTRTG 1 -m mark --mark 0x4000/0xc000 -m comment --comment "masqueraded by kube-proxy" -j RETURN`,
		"rule altered, mark negated":  `ipt -t nat -R TWILL-POSTRTG 1 -m mark ! --mark 0x4000/0x4000 -m comment --comment "masqueraded by kube-proxy" -j RETURN`,
		"rule altered, not random":    `ipt -t nat -R TWILL-POSTRTG 5 -s $net -m comment --comment "pods to the outside" -j MASQUERADE`,
		"rule altered, other options": `ipt -t nat -R TWILL-POSTRTG 5 -s $net -p udp -m comment --comment "pods to the outside" -j MASQUERADE --to-ports 1024-2048`,
		"iptables -F, one table":      `ipt -F`,
		"iptables -F and -X":          `for t in nat filter; do ipt -t $t -F; ipt -t $t -X; done`,
		"table replaced, by others":   `ipt_save | grep -v TWILL | ipt_restore`,
	}
	each(t, func(t *testing.T, c chains) {
		c.sh(t, busyHost)
		rulestest.Sync(t, c, rulestest.Dual())
		right := c.save(t)
		saved := t.TempDir()
		c.sh(t, `ipt_save >`+saved+`/$p`)
		for name, tamper := range tests {
			t.Run(name, func(t *testing.T) {
				c.sh(t, `ipt_restore <`+saved+`/$p`+"\n"+tamper)
				tampered := c.save(t)
				require.NotEqual(t, right, tampered, "not tampered with")
				require.True(t, rulestest.Sync(t, c, rulestest.Dual()))
				repaired := c.save(t)
				require.Equal(t, others(tampered), others(repaired))
				require.Equal(t, ours(right), ours(repaired))
				require.False(t, rulestest.Sync(t, c, rulestest.Dual()))
			})
		}
	})
}

// ours are all lines about our chains, in order.
func ours(save string) []string { return oursLine.FindAllString(save, -1) }

// others is all that is not.
func others(save string) string { return oursLine.ReplaceAllString(save, "") }

// `nft flush ruleset` takes the tables along, so that the handles of chains and
// rules begin at 1 again.
func TestSyncAfterFlushRuleset(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	c := newChains(t, iptables.NFT, rulestest.NewNamespace(t))
	rulestest.Sync(t, c, rulestest.Dual())
	before := c.save(t)
	c.ns.Run(t, "nft", "flush", "ruleset")
	require.True(t, rulestest.Sync(t, c, rulestest.Dual()))
	require.Equal(t, before, c.save(t))

	// Others' rules with the very handles that ours had.
	c.ns.Run(t, "nft", "flush", "ruleset")
	c.sh(t, `ipt_restore <<-EOF
		*filter
		:TWILL-FORWARD - [0:0]
		-A TWILL-FORWARD -j DROP
		-A TWILL-FORWARD -j DROP
		-A FORWARD -j TWILL-FORWARD
		COMMIT
	EOF
	`)
	require.True(t, rulestest.Sync(t, c, rulestest.Dual()))
	require.Equal(t, before, c.save(t))
}

// Others' rules are the same, to the byte, with ours and after ours.
func TestOthersAreNotTouched(t *testing.T) {
	each(t, func(t *testing.T, c chains) {
		c.sh(t, busyHost)
		before := c.save(t)
		rulestest.Sync(t, c, rulestest.Dual())
		require.NotEqual(t, before, c.save(t))
		require.Equal(t, before, others(c.save(t)))
		require.NoError(t, c.Remove(t.Context()))
		require.Equal(t, before, c.save(t))
		require.NoError(t, c.Remove(t.Context()), "twice")
		require.Equal(t, before, c.save(t))
	})
}

// Each variant minds its own rules.
func TestVariantsAreApart(t *testing.T) {
	t.Parallel()
	ns := rulestest.NewNamespace(t)
	nft, legacy := newChains(t, iptables.NFT, ns), newChains(t, iptables.Legacy, ns)
	rulestest.Sync(t, nft, rulestest.Dual())
	before := ours(nft.save(t))
	require.Empty(t, legacy.save(t), "a legacy table came about")
	rulestest.Sync(t, legacy, rulestest.Dual())
	require.Len(t, ours(legacy.save(t)), len(before))
	require.Equal(t, before, ours(nft.save(t)))
	require.NoError(t, nft.Remove(t.Context()))
	require.Empty(t, ours(nft.save(t)))
	require.Len(t, ours(legacy.save(t)), len(before))
	require.NoError(t, legacy.Remove(t.Context()))
	require.Empty(t, ours(legacy.save(t)))
}

// Whatever is left of ours goes.
func TestRemoveHalfMade(t *testing.T) {
	t.Parallel()
	for name, left := range map[string]string{
		"empty chain":        `ipt -N TWILL-FORWARD`,
		"chain, no jump":     `ipt -N TWILL-FORWARD; ipt -A TWILL-FORWARD -j DROP`,
		"jump, empty chain":  `ipt -t nat -N TWILL-POSTRTG; ipt -t nat -A POSTROUTING -j TWILL-POSTRTG`,
		"jumps of all kinds": `ipt -N TWILL-FORWARD; ipt -A FORWARD -g TWILL-FORWARD; ipt -I FORWARD -i lo -m comment --comment "a \"b\"" -j TWILL-FORWARD`,
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, c chains) {
				c.sh(t, busyHost)
				before := c.save(t)
				c.sh(t, left)
				require.NoError(t, c.Remove(t.Context()))
				require.Equal(t, before, c.save(t))
			})
		})
	}
}

// A chain that others' chains lead to cannot be removed; the error says so, and
// the other places are seen to.
func TestRemoveOfAChainInUse(t *testing.T) {
	each(t, func(t *testing.T, c chains) {
		rulestest.Sync(t, c, rulestest.Dual())
		c.sh(t, `ipt -N mine; ipt -A mine -j TWILL-FORWARD`)
		err := c.Remove(t.Context())
		require.ErrorContains(t, err, "if a rule of another chain leads to TWILL-FORWARD, delete it")
		require.NotContains(t, c.save(t), "TWILL-POSTRTG")
		c.sh(t, `ipt -F mine`)
		require.NoError(t, c.Remove(t.Context()))
		require.NotContains(t, c.save(t), "TWILL")
	})
}

// From any state of the rules to any other, also by way of tampering and
// with a fresh Chains, which remembers nothing.
func TestTransitions(t *testing.T) {
	each(t, func(t *testing.T, c chains) {
		c.sh(t, busyHost)
		before := c.save(t)
		states := map[string]masq.Config{"nothing": {}, "dual": rulestest.Dual()}
		add := func(name string, change func(*masq.Config)) {
			s := rulestest.Dual()
			change(&s)
			states[name] = s
		}
		for _, f := range subnet.Families {
			add("without "+f.String(), func(s *masq.Config) { s.Networks[f] = nil })
			add("no masquerade for "+f.String(), func(s *masq.Config) { s.Masquerade[f] = false })
		}
		add("no forward", func(s *masq.Config) { s.Forward = false })
		add("not random", func(s *masq.Config) { s.RandomFully = false })
		add("excluding", func(s *masq.Config) {
			s.Exclude = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
		})
		expected := map[string]string{}
		var names []string
		for name, s := range states { // each from nothing
			fresh := newChains(t, c.Variant(), c.ns)
			rulestest.Sync(t, fresh, s)
			expected[name] = c.save(t)
			names = append(names, name)
			require.NoError(t, fresh.Remove(t.Context()))
		}
		require.Equal(t, before, c.save(t))
		for range 12 {
			name := names[rand.IntN(len(names))]
			what := "to " + name
			switch rand.IntN(6) {
			case 0:
				c.sh(t, `ipt -t nat -F TWILL-POSTRTG 2>/dev/null || :`)
				what += ", flushed"
			case 1:
				c = newChains(t, c.Variant(), c.ns)
				what += ", restarted"
			}
			rulestest.Sync(t, c, states[name])
			require.Equal(t, sorted(expected[name]), sorted(c.save(t)), what)
			require.Equal(t, before, others(c.save(t)), what)
			require.False(t, rulestest.Sync(t, c, states[name]), what)
		}
	})
}

// sorted are the lines of a listing, of which the chains' come in the order in
// which they were made.
func sorted(save string) []string {
	lines := strings.Split(save, "\n")
	slices.SortStableFunc(lines, func(a, b string) int { return strings.Compare(chainOf(a), chainOf(b)) })
	return lines
}

func chainOf(line string) string {
	words := strings.Fields(line + " . .")
	return words[0][:1] + words[1]
}
