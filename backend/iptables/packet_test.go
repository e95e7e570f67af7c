package iptables_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/iptables"
	"github.com/twill-net/twill/backend/rulestest"
	"github.com/twill-net/twill/subnet"
)

// The same tests that nftables passes.
func TestPackets(t *testing.T) {
	t.Parallel()
	for _, v := range iptables.Variants {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			rulestest.Packets(t, func(t *testing.T, node rulestest.Namespace) rulestest.Firewall {
				return newChains(t, v, node)
			})
		})
	}
}

// Firewalls that drop what is forwarded, as they write their rules at a start.
// OpenPort is what their administrators let through.
const (
	letOpenPortThrough = `
		ipt -I FORWARD -p udp --dport 9003 -j ACCEPT
		ipt -I FORWARD -p udp --sport 9003 -j ACCEPT
	`
	docker = `
		ipt -P FORWARD DROP
		for c in DOCKER-USER DOCKER-FORWARD DOCKER DOCKER-CT; do ipt -N $c 2>/dev/null || ipt -F $c; done
		ipt -A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
		ipt -A DOCKER ! -i docker0 -o docker0 -j DROP
		ipt -A DOCKER-FORWARD -j DOCKER-CT
		ipt -A DOCKER-FORWARD -o docker0 -j DOCKER
		ipt -A DOCKER-FORWARD -i docker0 -j ACCEPT
		ipt -D FORWARD -j DOCKER-FORWARD 2>/dev/null || :
		ipt -I FORWARD -j DOCKER-FORWARD
		ipt -D FORWARD -j DOCKER-USER 2>/dev/null || :
		ipt -I FORWARD -j DOCKER-USER
	`
	ufw = `
		ipt -P FORWARD DROP
		for c in ufw-before-forward ufw-after-forward ufw-reject-forward; do
			ipt -N $c 2>/dev/null || ipt -F $c
			ipt -C FORWARD -j $c 2>/dev/null || ipt -A FORWARD -j $c
		done
		ipt -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
	`
	ufwReject = ufw + `
		ipt -P FORWARD ACCEPT
		ipt -A ufw-reject-forward -j REJECT
	`
	firewalld = `
		for t in nat filter; do ipt -t $t -F; ipt -t $t -X; done
		ipt_restore <<-EOF
			*filter
			:FWD_public - [0:0]
			:FORWARD_IN_ZONES - [0:0]
			-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT
			-A FORWARD -i lo -j ACCEPT
			-A FORWARD -j FORWARD_IN_ZONES
			-A FORWARD -m conntrack --ctstate INVALID -j DROP
			-A FORWARD -j REJECT --reject-with $reject
			-A FORWARD_IN_ZONES -g FWD_public
			-A FWD_public -p tcp --dport 22 -j ACCEPT
			COMMIT
		EOF
	`
)

func TestForwardDrop(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]string{
		"policy": `ipt -P FORWARD DROP`, "docker": docker, "ufw": ufw, "ufw reject": ufwReject, "firewalld": firewalld,
	} {
		for _, v := range iptables.Variants {
			t.Run(name+", "+v.String(), func(t *testing.T) {
				t.Parallel()
				testForwardDrop(t, v, start)
			})
		}
	}
}

func testForwardDrop(t *testing.T, v iptables.Variant, start string) {
	n := rulestest.NewTopology(t)
	c := newChains(t, v, n.Node)
	dropped := func(when string) {
		t.Helper()
		drops, err := c.ForwardDrops(t.Context())
		require.NoError(t, err, when)
		require.Equal(t, subnet.PerFamily[bool]{true, true}, drops, when)
	}
	through := func() {
		t.Helper()
		for _, f := range subnet.Families {
			n.Check(t, n.Matrix(f))
		}
	}
	c.sh(t, start+letOpenPortThrough)
	dropped("before our rules")
	for _, f := range subnet.Families {
		a := rulestest.At[f]
		n.Blocked(t, rulestest.Path{What: "dropped", From: n.Outside, Source: a.Outside, To: a.Pod})
		n.Blocked(t, rulestest.Path{What: "dropped", From: n.Pod, Source: a.Pod, To: a.Outside})
	}
	rulestest.Sync(t, c, rulestest.Dual())
	dropped("our own rules do not count")
	through()

	c.sh(t, start) // again, after us
	rulestest.Sync(t, c, rulestest.Dual())
	through()
	require.False(t, rulestest.Sync(t, c, rulestest.Dual()), "no war")

	require.NoError(t, c.Remove(t.Context()))
	dropped("after our rules")
}

// What starts after us and puts itself in front does no harm, and is left there.
func TestOthersInFront(t *testing.T) {
	each(t, func(t *testing.T, c chains) {
		const jump = `-m comment --comment "twill forward" -j TWILL-FORWARD`
		rulestest.Sync(t, c, rulestest.Dual())
		for range 2 {
			c.sh(t, docker)
			require.False(t, rulestest.Sync(t, c, rulestest.Dual()), "Docker's jumps in front")
			require.Equal(t, []string{"-j DOCKER-USER", "-j DOCKER-FORWARD", jump}, c.hook(t, "filter", "FORWARD"))
		}
		c.sh(t, `ipt -A FORWARD -j DROP; ipt -I FORWARD 2 -i eth7 -j DROP`)
		require.False(t, rulestest.Sync(t, c, rulestest.Dual()), "an administrator's rule in front, a drop behind")

		// A chain of which ours is behind comes to drop everything.
		c.sh(t, `ipt -I DOCKER-USER -j DROP`)
		require.True(t, rulestest.Sync(t, c, rulestest.Dual()))
		require.Equal(t, []string{jump, "-j DOCKER-USER", "-i eth7 -j DROP", "-j DOCKER-FORWARD", "-j DROP"},
			c.hook(t, "filter", "FORWARD"))
		c.sh(t, `ipt -F DOCKER-USER`)
		require.False(t, rulestest.Sync(t, c, rulestest.Dual()), "it may stay there")
	})
}

// What others decide about some packets holds for pods as well: kube-proxy
// rejects what goes to a service without endpoints.
func TestOthersDecideFirst(t *testing.T) {
	t.Parallel()
	for _, v := range iptables.Variants {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			n := rulestest.NewTopology(t)
			c := newChains(t, v, n.Node)
			c.sh(t, `ipt -N KUBE-SERVICES; ipt -A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
				ipt -A KUBE-SERVICES -p udp --dport 9000 -j DROP`)
			rulestest.Sync(t, c, rulestest.Dual())
			for _, f := range subnet.Families {
				a := rulestest.At[f]
				n.Blocked(t, rulestest.Path{What: "decided by others", From: n.Pod, Source: a.Pod, To: a.Outside})
			}
		})
	}
}
