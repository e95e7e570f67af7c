package netlabtest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet"
)

func TestCounters(t *testing.T) {
	t.Parallel()
	require.Equal(t, map[string]uint64{"IpForwarding": 1, "IpInDiscards": 3, "UdpInErrors": 4},
		parsePairs("Ip: Forwarding InDiscards\nIp: 1 3\nUdp: InErrors RcvbufErrors\nUdp: 4 -1\n"))
	require.Equal(t, map[string]uint64{"Ip6InReceives": 12}, parseList("Ip6InReceives   \t12\n"))
	require.Equal(t, map[string]uint64{"eth0 rx errors": 3, "eth0 rx dropped": 4, "eth0 tx errors": 11, "eth0 tx dropped": 12},
		parseDev("Inter-|   Receive | Transmit\n face |bytes packets|\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"))
	require.Equal(t, map[string]uint64{"arp_cache allocs": 0x30, "arp_cache table_fulls": 3},
		parseStat("arp_cache")("entries  allocs table_fulls\n0000000a 00000010 00000001\n0000000a 00000020 00000002\n"))
	require.Equal(t, map[string]uint64{"softnet dropped": 17}, parseSoftnet("00000001 00000010 00000000\n00000001 00000001\n"))
	require.Equal(t, map[string]uint64{"guard twill-vtep stranger": 7},
		parseNFT(`{"nftables": [{"metainfo": {}}, {"counter": {"family": "inet", "name": "stranger", "table": "twill-vtep", "handle": 1, "packets": 7, "bytes": 8}}]}`))
}

func TestCountersSince(t *testing.T) {
	t.Parallel()
	before := Counters{"node1: Ip6InDiscards": 1, "node1: Ip6InReceives": 1, "node1: guard twill-vtep stranger": 9, "the machine: ndisc_cache table_fulls": 3}
	now := Counters{"node1: Ip6InDiscards": 3, "node1: Ip6InReceives": 9, "node1: guard twill-vtep stranger": 1, "the machine: ndisc_cache table_fulls": 3}
	require.Equal(t, "node1: Ip6InDiscards +2\nnode1: guard twill-vtep stranger 1, anew", now.Since(before))
	require.False(t, now.Overflowed(before))
	require.Equal(t, "no counter of lost packets has grown", now.Since(now))
	now["the machine: ndisc_cache table_fulls"]++
	require.True(t, now.Overflowed(before))
}

// What a host was not let answer is told from what has not come to it.
func TestRefused(t *testing.T) {
	t.Parallel()
	h := &netlab.Host{Name: "node1/a"}
	before := Counters{"node1/a: IcmpOutErrors": 3}
	now := Counters{"node1/a: IcmpOutErrors": 5, "node1/a: Icmp6OutErrors": 1, "node1/b: Icmp6OutErrors": 7}
	require.Equal(t, 2, now.Refused(before, h, subnet.IPv4))
	require.Equal(t, 1, now.Refused(before, h, subnet.IPv6), "of a pod that came meanwhile")
	require.Zero(t, before.Refused(now, h, subnet.IPv4), "made anew")
}
