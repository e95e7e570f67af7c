package iptables_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
	"github.com/twill-net/twill/backend/iptables"
	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/backend/rulestest"
	"github.com/twill-net/twill/subnet"
)

// logging are Chains whose binaries write down each run.
func logging(t *testing.T, v iptables.Variant) (chains, logged) {
	t.Helper()
	h, l := detectLogged(t, "iptables=iptables"+suffix(v), "ip6tables=ip6tables"+suffix(v))
	return chains{Chains: iptables.New(h, v), ns: rulestest.NewNamespace(t)}, l
}

// generation is the number that each transaction of nf_tables raises.
func (c chains) generation(t *testing.T) (id uint32) {
	t.Helper()
	conn, err := nfnetlink.Dial(t.Context(), c.ns.FD())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	id, err = nfnetlink.Generation(conn)
	require.NoError(t, err)
	return id
}

// In the nf_tables variant a steady state costs no process, also while others
// write, and a change of our chains one transaction for each table.
func TestSteadyNFT(t *testing.T) {
	c, l := logging(t, iptables.NFT)
	quiet := func(what string, call func()) {
		t.Helper()
		before := c.generation(t)
		call()
		require.Empty(t, l.take(t), what)
		require.Equal(t, before, c.generation(t), what)
	}
	quiet("nothing of ours, to be removed", func() { require.NoError(t, c.Remove(t.Context())) })
	quiet("ForwardDrops", func() { _, _ = c.ForwardDrops(t.Context()) })

	c.sh(t, busyHost)
	before := c.generation(t)
	require.True(t, rulestest.Sync(t, c, rulestest.Dual()))
	require.Equal(t, before+4, c.generation(t), "one transaction per table and family")
	require.Equal(t, 4, strings.Count(l.take(t), "-restore"))
	quiet("nothing changed", func() { require.False(t, rulestest.Sync(t, c, rulestest.Dual())) })
	quiet("nothing changed, again", func() { require.False(t, rulestest.Sync(t, c, rulestest.Dual())) })

	// kube-proxy writes its own chains all the time, and counters count.
	c.sh(t, `ipt -t nat -N KUBE-SERVICES; ipt -t nat -A KUBE-SERVICES -j RETURN; ipt -N KUBE-X`)
	c.ns.Run(t, "ping", "-c", "1", "127.0.0.1")
	quiet("others' chains changed", func() { require.False(t, rulestest.Sync(t, c, rulestest.Dual())) })

	c.sh(t, `ipt -I FORWARD -i lo -j ACCEPT`)
	before = c.generation(t)
	require.False(t, rulestest.Sync(t, c, rulestest.Dual()))
	require.NotContains(t, l.take(t), "-restore", "FORWARD changed, which is looked at")
	require.Equal(t, before, c.generation(t))
	quiet("nothing changed since", func() { require.False(t, rulestest.Sync(t, c, rulestest.Dual())) })

	before = c.generation(t)
	c.sh(t, `[ $p = ip6tables ] || ipt -F TWILL-FORWARD`)
	require.Equal(t, before+1, c.generation(t))
	require.True(t, rulestest.Sync(t, c, rulestest.Dual()))
	require.Equal(t, before+2, c.generation(t))
	require.Equal(t, 1, strings.Count(l.take(t), "-restore"), "only what differs")

	before = c.generation(t)
	require.NoError(t, c.Remove(t.Context()))
	require.Equal(t, before+4, c.generation(t))
	l.take(t)
	quiet("removed", func() { require.NoError(t, c.Remove(t.Context())) })
}

// In the legacy variant it is read, and not written; and where we want nothing,
// no table comes about.
func TestSteadyLegacy(t *testing.T) {
	c, l := logging(t, iptables.Legacy)
	tables := func() string {
		return c.ns.Run(t, "sh", "-c", "cat /proc/thread-self/net/ip_tables_names /proc/thread-self/net/ip6_tables_names")
	}
	drops, err := c.ForwardDrops(t.Context())
	require.NoError(t, err)
	require.Zero(t, drops)
	require.NoError(t, c.Remove(t.Context()))
	require.Empty(t, tables())
	require.Empty(t, l.take(t))

	only := rulestest.Dual()
	only.Masquerade = subnet.PerFamily[bool]{}
	require.True(t, rulestest.Sync(t, c, only))
	require.Equal(t, "filter\nfilter\n", tables(), "no masquerade, no table nat")
	require.NotContains(t, l.take(t), "nat")

	require.True(t, rulestest.Sync(t, c, rulestest.Dual()))
	require.Equal(t, 2, strings.Count(l.take(t), "-restore"), "one commit per family, for table nat")
	require.False(t, rulestest.Sync(t, c, rulestest.Dual()))
	runs := l.take(t)
	require.NotContains(t, runs, "-restore")
	require.Equal(t, 8, strings.Count(runs, "\n"), runs)
	for run := range strings.Lines(runs) {
		require.Regexp(t, `-t \w+ -S (TWILL-POSTRTG|TWILL-FORWARD|POSTROUTING|FORWARD) --wait \d+$`, strings.TrimSpace(run))
	}
}

// One family without binaries does not keep the other from its rules.
func TestOneFamilyWithoutBinaries(t *testing.T) {
	for _, v := range iptables.Variants {
		t.Run(v.String(), func(t *testing.T) {
			h, _ := detectLogged(t, "iptables=iptables"+suffix(v))
			require.True(t, h.Has(v, subnet.IPv4))
			require.False(t, h.Has(v, subnet.IPv6))
			c := chains{Chains: iptables.New(h, v), ns: rulestest.NewNamespace(t)}
			for _, want := range []bool{true, false} {
				changed, err := c.Sync(t.Context(), masq.Plan(rulestest.Dual()))
				require.Equal(t, want, changed)
				require.ErrorContains(t, err, "ip6tables"+suffix(v)+", with its -restore, is in PATH; install it")
				require.NotContains(t, err.Error(), "of iptables table")
				require.Len(t, ours(c.save(t)), 2+10)
			}
			require.NoError(t, c.Remove(t.Context()))
			require.Empty(t, ours(c.save(t)))
			only := rulestest.Dual()
			only.Networks[subnet.IPv6] = nil
			require.True(t, rulestest.Sync(t, c, only), "what is not wanted needs no binaries")
		})
	}
}

// A Host without any binary is good for looking at nf_tables.
func TestNoBinaries(t *testing.T) {
	t.Parallel()
	c := chains{Chains: iptables.New(iptables.Host{}, iptables.NFT), ns: rulestest.NewNamespace(t)}
	drops, err := c.ForwardDrops(t.Context())
	require.NoError(t, err)
	require.Zero(t, drops)
	require.NoError(t, c.Remove(t.Context()))
	_, err = c.Sync(t.Context(), masq.Plan(rulestest.Dual()))
	require.ErrorContains(t, err, "neither iptables (nf_tables) nor iptables-nft, with its -restore, is in PATH; install it")

	full := newChains(t, iptables.NFT, c.ns)
	full.sh(t, `ipt -P FORWARD DROP`)
	drops, err = c.ForwardDrops(t.Context())
	require.NoError(t, err)
	require.Equal(t, subnet.PerFamily[bool]{true, true}, drops)
	rulestest.Sync(t, full, rulestest.Dual())
	require.ErrorContains(t, c.Remove(t.Context()), "is in PATH", "ours, and no binary to remove it")

	legacy := chains{Chains: iptables.New(iptables.Host{}, iptables.Legacy), ns: c.ns}
	require.NoError(t, legacy.Remove(t.Context()))
	drops, err = legacy.ForwardDrops(t.Context())
	require.NoError(t, err)
	require.Zero(t, drops)
	newChains(t, iptables.Legacy, c.ns).sh(t, `ipt -P FORWARD DROP`)
	require.NoError(t, legacy.Remove(t.Context()), "others' table: nothing of it can be ours")
	_, err = legacy.ForwardDrops(t.Context())
	require.ErrorContains(t, err, "nor iptables-legacy")
}

// Without the capability the errors say so.
func TestWithoutCapability(t *testing.T) {
	each(t, func(t *testing.T, c chains) {
		rulestest.Sync(t, c, rulestest.Dual())
		for name, call := range map[string]func() error{
			"Sync":         func() error { _, err := c.Chains.Sync(t.Context(), masq.Plan(rulestest.Dual())); return err },
			"Remove":       func() error { return c.Chains.Remove(t.Context()) },
			"ForwardDrops": func() error { _, err := c.Chains.ForwardDrops(t.Context()); return err },
		} {
			var err error
			require.NoError(t, c.ns.Do(func() error {
				// A child of root has all that the bounding set allows.
				for _, capability := range []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW} {
					if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
						return err
					}
				}
				header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
				data := [2]unix.CapUserData{}
				if err := unix.Capget(&header, &data[0]); err != nil {
					return err
				}
				for _, set := range []*uint32{&data[0].Effective, &data[0].Permitted, &data[0].Inheritable} {
					*set &^= 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW
				}
				if err := unix.Capset(&header, &data[0]); err != nil {
					return err
				}
				err = call()
				return nil
			}))
			require.ErrorContains(t, err, "this needs CAP_NET_ADMIN", name)
		}
	})
}

// A table that iptables cannot show is an error that says so, and is left alone.
func TestIncompatibleTable(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	c := newChains(t, iptables.NFT, rulestest.NewNamespace(t))
	const theirs = `table ip filter {
	chain FORWARD {
		type filter hook forward priority filter + 5; policy drop;
		ip saddr 192.0.2.1 accept
	}
}
`
	c.ns.Pipe(t, theirs, "nft", "-f", "-")
	drops, err := c.ForwardDrops(t.Context())
	require.NoError(t, err)
	require.Equal(t, subnet.PerFamily[bool]{subnet.IPv4: true}, drops)
	changed, err := c.Sync(t.Context(), masq.Plan(rulestest.Dual()))
	require.True(t, changed, "the other tables")
	require.ErrorContains(t, err, "another program has in that table what is none of iptables'")
	require.Contains(t, err.Error(), "chain TWILL-FORWARD of iptables table filter")
	require.NotContains(t, err.Error(), "ip6tables")
	require.Equal(t, theirs, c.ns.Run(t, "nft", "list", "table", "ip", "filter"))
}
