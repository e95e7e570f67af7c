package lifecycle

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// The external interface becomes another while the daemon runs: it follows,
// and so does all that hangs on the interface.
func TestUnderlayChanges(t *testing.T) {
	t.Parallel()
	c, pods := deployed(t, netlab.Options{Nodes: 2})
	n := c.Node(1)
	want := ours(t, n)
	const address = `
		address() {
			ip address replace 192.168.77.11/24 dev $1; ip address replace fd77::11/64 dev $1 nodad
			ip route replace default via 192.168.77.1; ip -6 route replace default via fd77::1
		}
		`
	for _, tt := range []struct{ name, script, iface string }{
		{"a bridge is put over it", `
			ip link add br-up address 02:77:00:00:01:01 type bridge
			ip link set br-up up
			ip link set eth0 master br-up
			ip address flush dev eth0; ip -6 address flush dev eth0
			address br-up`, "br-up"},
		{"it is deleted, and our devices with it", `
			ip link del br-up
			address eth0`, "eth0"},
		{"it is renamed", `
			ip link set eth0 down
			ip link set eth0 name uplink0
			ip link set uplink0 up
			address uplink0`, "uplink0"},
		{"it is renamed back", `
			ip link set uplink0 down
			ip link set uplink0 name eth0
			ip link set eth0 up
			address eth0`, "eth0"},
		{"another of its name takes its place", `
			ip link set eth0 down
			ip address flush dev eth0
			ip link set eth0 name port0
			ip link add eth0 address 02:77:00:00:01:01 type bridge
			ip link set port0 master eth0 up
			ip link set eth0 up
			address eth0`, "eth0"},
		{"the former takes it back", `
			ip link del eth0
			ip link set port0 down
			ip link set port0 name eth0
			ip link set eth0 up
			address eth0`, "eth0"},
		{"it is enslaved to a bond", `
			ip link add bond0 type bond mode active-backup
			ip link set bond0 address 02:77:00:00:01:01 up
			ip link set eth0 down
			ip address flush dev eth0
			ip link set eth0 master bond0
			address bond0`, "bond0"},
		{"the bond is dissolved", `
			ip link del bond0
			ip link set eth0 up
			address eth0`, "eth0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if strings.Contains(tt.script, "bond0") {
				if out, err := c.Outside.Exec(t.Context(), "ip", "link", "add", "probe", "type", "bond"); err != nil {
					t.Skipf("the kernel lacks bonds: %v %s", err, out)
				}
				netlabtest.Run(t, c.Outside, "ip link del probe")
			}
			netlabtest.Run(t, &n.Host, address+tt.script)
			awaitStatus(t, n, "it has chosen "+tt.iface, func(s overlay.Status) bool {
				return s.Ready && s.Underlay.Interface == tt.iface && len(s.Underlay.PublicIPs) == 2 && len(s.Failing) == 0 && len(s.Problems) == 0
			})
			c.awaitWays(t, n)
			if tt.iface == "eth0" {
				awaitOurs(t, n, want)
			}
			requirePings(t, pods...)
		})
	}

	// The provider gives another prefix (RFC 4192), and the first one again. The
	// peer is no longer on link meanwhile.
	t.Run("IPv6 is renumbered", func(t *testing.T) {
		netlabtest.Run(t, c.Lan, "ip address add fd78::1/64 dev br0 nodad")
		for _, step := range []struct{ from, to string }{{"fd77::", "fd78::"}, {"fd78::", "fd77::"}} {
			netlabtest.Run(t, &n.Host, fmt.Sprintf(`
				ip address add %[2]s11/64 dev eth0 nodad
				ip -6 route replace default via %[2]s1
				ip address change %[1]s11/64 dev eth0 preferred_lft 0
				ip address del %[1]s11/64 dev eth0`, step.from, step.to))
			netlabtest.Eventually(t, "the new address is announced, and the old one of IPv4", func() error {
				r := c.record(t, n.Name)
				return equalLines([]string{"192.168.77.11", step.to + "11"}, []string{r.Announced(subnet.IPv4), r.Announced(subnet.IPv6)})
			})
			for _, n := range c.Nodes {
				c.awaitWays(t, n)
			}
			requirePings(t, pods...)
		}
		awaitOurs(t, n, want)
	})

	// What peers are told is what the operator said, behind NAT for example.
	t.Run("a public IP is given", func(t *testing.T) {
		netlabtest.Run(t, &n.Host, "ip address add 192.168.77.111/24 dev eth0")
		c.stop(t, n)
		c.start(t, n, "--public-ip=192.168.77.111")
		netlabtest.Eventually(t, "it is announced", func() error {
			return equalLines([]string{"192.168.77.111"}, []string{c.record(t, n.Name).PublicIP})
		})
		c.awaitWays(t, c.Node(2))
		awaitOurs(t, n, want)
		requirePings(t, pods...)
	})

	// Without any network the node waits, and says so; it keeps what it has.
	t.Run("it goes and comes", func(t *testing.T) {
		netlabtest.Run(t, &n.Host, "ip link set eth0 down")
		s := awaitStatus(t, n, "no interface", func(s overlay.Status) bool {
			return slices.ContainsFunc(s.Problems, func(p overlay.Problem) bool { return p.What == "underlay" })
		})
		require.NotNil(t, s.Lease)
		require.True(t, c.daemon(n).Running())
		netlabtest.Run(t, &n.Host, address+"ip link set eth0 up; address eth0")
		awaitStatus(t, n, "well again", func(s overlay.Status) bool { return s.Ready && len(s.Problems) == 0 && len(s.Failing) == 0 })
		c.awaitWays(t, n)
		awaitOurs(t, n, want)
		requirePings(t, pods...)
	})
}
