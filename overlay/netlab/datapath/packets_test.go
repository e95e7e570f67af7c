package datapath

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// headers is what an ICMP echo adds to its payload: IP header and ICMP header.
var headers = subnet.PerFamily[int]{20 + 8, 40 + 8}

// largest checks that a packet of size bytes passes both ways in one piece,
// and one with a byte more in neither.
func (c *cluster) largest(a, b *netlab.Host, f subnet.Family, size int) {
	c.t.Helper()
	c.answers(a, b.Addrs[f])
	for _, way := range [][2]*netlab.Host{{a, b}, {b, a}} {
		c.fits(way[0], way[1].Addrs[f], size)
	}
}

// fits checks that a packet of size bytes reaches an address in one piece, and
// one with a byte more does not. It returns how many of the former it has sent:
// a machine that is busy may have no room for an answer, nor for an error.
func (c *cluster) fits(from *netlab.Host, to netip.Addr, size int) (sent int) {
	c.t.Helper()
	c.eventually(func() error {
		sent++
		_, err := from.Ping(c.t.Context(), to, size)
		return err
	})
	// Host.Ping would wait for an answer for longer.
	payload := size + 1 - headers[subnet.FamilyOf(to)]
	c.eventually(func() error {
		out, err := from.Exec(c.t.Context(), "ping", "-n", "-c", "1", "-W", "0.1", "-M", "do", "-s", strconv.Itoa(payload), to.String())
		require.Error(c.t, err, "%d bytes from %s to %s: %s", size+1, from.Name, to, out)
		if !tooLong.MatchString(out + err.Error()) {
			return fmt.Errorf("%d bytes from %s to %s: %w: %s", size+1, from.Name, to, err, out)
		}
		return nil
	})
	return sent
}

// tooLong is what ping says of a packet that is too long for a link, here or on
// the way.
var tooLong = regexp.MustCompile("message too long|Frag needed|Packet too big")

// answers waits until an address answers.
func (c *cluster) answers(from *netlab.Host, to netip.Addr) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	flow, err := from.PingContinuously(ctx, to, 20*time.Millisecond)
	require.NoError(c.t, err)
	err = flow.Await(ctx, 1)
	_, errStop := flow.Stop()
	require.NoError(c.t, err, "from %s to %s", from.Name, to)
	require.NoError(c.t, errStop)
}

// traffic starts pings.
func (c *cluster) traffic(pairs ...netlabtest.Pair) *netlabtest.Traffic {
	c.t.Helper()
	return netlabtest.StartTraffic(c.t, c.t.Name(), pairs...)
}

// unharmed does something, which ends where it began, while pods ping each
// other, and fails the test if a packet is lost. One that is lost while the
// machine's neighbour table overflows, which other labs may have filled, says
// nothing: then all is done again.
func (c *cluster) unharmed(pairs []netlabtest.Pair, do func(*netlabtest.Traffic)) {
	c.t.Helper()
	for attempt := 1; ; attempt++ {
		before, traffic := netlabtest.Count(c.t.Context(), c.Lan), c.traffic(pairs...)
		do(traffic)
		if traffic.Lost(c.t) == 0 {
			return
		}
		c.excused(before, attempt)
	}
}

// excused fails the test unless the machine's neighbour table has overflowed
// since before.
func (c *cluster) excused(before netlabtest.Counters, attempt int) {
	c.t.Helper()
	overflowed := netlabtest.Count(c.t.Context(), c.Lan).Overflowed(before)
	require.True(c.t, overflowed && attempt < 3, "packets were lost, see above; attempt %d", attempt)
}

// counters are the packets that a node has sent.
type counters struct {
	tunnel    subnet.PerFamily[int] // outer packets, by their family
	full      int                   // outer packets of the underlay's MTU
	oversized int                   // and of more: they will be fragmented
	plain     int                   // of pods, unencapsulated, to the underlay
}

// probe makes a table that counts what leaves a node by the links named like
// pattern, with the outer MTU and the VXLAN port.
func (c *cluster) probe(n *netlab.Node, pattern string, mtu, port int) {
	c.t.Helper()
	var rules strings.Builder
	for _, f := range []string{"ipv4", "ipv6"} {
		fmt.Fprintf(&rules, "udp dport %d meta nfproto %s counter name %s\n", port, f, f)
	}
	fmt.Fprintf(&rules, "udp dport %d meta length %d counter name full\n", port, mtu)
	fmt.Fprintf(&rules, "udp dport %d meta length > %d counter name oversized\n", port, mtu)
	rules.WriteString("ip daddr 10.244.0.0/16 counter name plain\n")
	rules.WriteString("ip6 daddr fd00:244::/48 counter name plain\n")
	_, err := n.ExecInput(c.t.Context(), fmt.Sprintf(`table inet probe
delete table inet probe
table inet probe {
	counter ipv4 {}
	counter ipv6 {}
	counter full {}
	counter oversized {}
	counter plain {}
	chain postrouting {
		type filter hook postrouting priority 300;
		oifname != "%s" return
		%s
	}
}`, pattern, rules.String()), "nft", "-f", "-")
	require.NoError(c.t, err)
}

// count reads what the probe has counted since it was made.
func (c *cluster) count(n *netlab.Node) counters {
	c.t.Helper()
	var list struct {
		Nftables []struct {
			Counter *struct {
				Name    string
				Packets int
			}
		}
	}
	require.NoError(c.t, json.Unmarshal([]byte(c.on(&n.Host, "nft", "-j", "list", "counters", "table", "inet", "probe")), &list))
	by := map[string]int{}
	for _, o := range list.Nftables {
		if o.Counter != nil {
			by[o.Counter.Name] = o.Counter.Packets
		}
	}
	require.Len(c.t, by, 5)
	return counters{subnet.PerFamily[int]{by["ipv4"], by["ipv6"]}, by["full"], by["oversized"], by["plain"]}
}

// nothingFragmented checks that no packet was cut or put together anywhere on
// the underlay since the lab was made.
func (c *cluster) nothingFragmented() {
	c.t.Helper()
	hosts := []*netlab.Host{c.Lan}
	for _, n := range c.Nodes {
		hosts = append(hosts, &n.Host)
	}
	for _, h := range hosts {
		seen := 0
		for line := range strings.Lines(c.on(h, "nstat", "-asz", "IpFragCreates", "IpReasmReqds", "Ip6FragCreates", "Ip6ReasmReqds")) {
			fields := strings.Fields(line)
			if len(fields) < 2 || !strings.HasPrefix(fields[0], "Ip") {
				continue
			}
			seen++
			require.Equal(c.t, "0", fields[1], "%s on %s", fields[0], h.Name)
		}
		require.Equal(c.t, 4, seen)
	}
}
