package nftables_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/rulestest"
	"github.com/twill-net/twill/subnet"
)

func open(_ *testing.T, node rulestest.Namespace) rulestest.Firewall {
	return namespace{node}.table()
}

func TestPackets(t *testing.T) {
	t.Parallel()
	rulestest.Packets(t, open)
}

// What the package's documentation warns of: our accept does not end a
// packet's way, another table's drop is still met.
func TestAcceptDoesNotOverrideForeignDrop(t *testing.T) {
	t.Parallel()
	n := rulestest.NewTopology(t)
	rulestest.Sync(t, open(t, n.Node), rulestest.Dual())
	n.Node.Pipe(t, `table inet other {
	chain forward {
		type filter hook forward priority filter + 10; policy accept;
		udp dport 9000 counter drop comment "dropped"
	}
}
`, "nft", "-f", "-")
	conn := n.Pod.Listen(t, netip.AddrPortFrom(rulestest.At[subnet.IPv4].Pod, 0))
	require.Eventually(t, func() bool {
		_, err := conn.WriteToUDPAddrPort([]byte("?"), netip.AddrPortFrom(rulestest.At[subnet.IPv4].Outside, rulestest.EchoPort))
		require.NoError(t, err)
		dropped := n.Node.Run(t, "sh", "-c", `nft list table inet other | grep dropped`)
		return !strings.Contains(dropped, "counter packets 0 ")
	}, time.Minute, 20*time.Millisecond)
}
