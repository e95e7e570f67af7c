package chain

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

const hostPort, podPort = 8080, 80

func ports(more ...map[string]any) map[string]any {
	all := []map[string]any{}
	for _, protocol := range []string{"tcp", "udp"} {
		all = append(all, map[string]any{"hostPort": hostPort, "containerPort": podPort, "protocol": protocol})
	}
	return map[string]any{"portMappings": append(all, more...)}
}

// A host port is reached from everywhere, over both protocols and families, and
// the pod sees who asks, whatever portmap writes its rules with.
func TestHostPort(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, c := range []struct {
		name, backend, prepare, undo string
		rules                        string // where they are then
		neighbour                    bool   // seen by its own address
	}{
		{name: "the host's iptables", rules: "iptables"},
		{name: "iptables asked for", backend: "iptables", rules: "iptables"},
		{name: "nftables asked for", backend: "nftables", rules: "nftables", neighbour: true},
		{
			name: "a host without iptables", rules: "nftables", neighbour: true,
			prepare: "for p in iptables ip6tables; do mv /etc/alternatives/$p /etc/alternatives/$p.away; done",
			undo:    "for p in iptables ip6tables; do mv /etc/alternatives/$p.away /etc/alternatives/$p; done",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.prepare != "" {
				sh(t, &l.one.Host, c.prepare)
			}
			l.backend(t, c.backend)
			p, err := l.addPod(t, "web", ports())
			require.NoError(t, err)
			server := p.start(t, serveArg, fmt.Sprint(podPort))
			if c.rules == "nftables" {
				require.Contains(t, sh(t, &l.one.Host, "nft list table ip cni_hostport"), "dnat")
			} else {
				require.Contains(t, sh(t, &l.one.Host, "iptables -t nat -S"), "CNI-HOSTPORT-DNAT")
			}
			for _, f := range subnet.Families {
				l.askAll(t, p, f, c.neighbour)
			}
			_, err = p.cnitool(t.Context(), "check")
			require.NoError(t, err)
			p.del(t)
			_ = server.Kill(t.Context())
			if c.undo != "" {
				sh(t, &l.one.Host, c.undo)
			}
			left := sh(t, &l.one.Host, "nft list ruleset; iptables-legacy-save; ip6tables-legacy-save")
			for _, a := range p.addrs {
				require.NotContains(t, left, a.String())
			}
			require.NotContains(t, left, "CNI-DN-")
			require.NotContains(t, left, fmt.Sprint(hostPort))
		})
	}
}

// askAll asks the pod by its host port from everywhere.
func (l *lab) askAll(t *testing.T, p *pod, f subnet.Family, neighbour bool) {
	t.Helper()
	node, gateway := l.one.Addrs[f], l.gateway[f]
	seenAs := map[bool]netip.Addr{true: l.neighbour.Addrs[f], false: gateway}[neighbour]
	for _, c := range []struct {
		name   string
		from   *netlab.Host
		prefix []string
		to     netip.Addr
		want   netip.Addr
	}{
		{name: "from outside", from: l.Outside, to: node, want: l.Outside.Addrs[f]},
		{name: "from another node", from: &l.two.Host, to: node, want: l.two.Addrs[f]},
		{name: "from a pod of another node", from: &l.remote.Host, to: node, want: l.two.Addrs[f]},
		{name: "from a pod of this node", from: &l.neighbour.Host, to: node, want: seenAs},
		{name: "from a pod of this node, by the gateway", from: &l.neighbour.Host, to: gateway, want: seenAs},
		{name: "from the pod itself", from: &l.one.Host, prefix: []string{"ip", "netns", "exec", p.name}, to: node, want: gateway},
		{name: "from the node", from: &l.one.Host, to: node, want: node},
		{name: "from the node, by localhost", from: &l.one.Host, to: netip.MustParseAddr("127.0.0.1"), want: gateway},
		{name: "past the host port", from: &l.neighbour.Host, to: p.addrs[f], want: l.neighbour.Addrs[f]},
	} {
		if f == subnet.IPv6 && c.to.Is4() {
			continue // the kernel does not route ::1
		}
		port := hostPort
		if c.to == p.addrs[f] {
			port = podPort
		}
		for _, network := range []string{"tcp", "udp"} {
			what := fmt.Sprintf("%s %s, %s", network, c.name, f)
			netlabtest.Eventually(t, what, func() error {
				got, err := asks(t.Context(), network, netip.AddrPortFrom(c.to, uint16(port)).String(), c.from, c.prefix...)
				if err == nil && got != c.want.String() {
					t.Fatalf("%s: the pod sees %s, want %s", what, got, c.want)
				}
				return err
			})
		}
	}
}

// Two pods have one port, on different addresses of the node and with
// different protocols, as the e2e tests of Kubernetes have it.
func TestHostIP(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	at := func(hostIP, protocol string) map[string]any {
		return map[string]any{"portMappings": []map[string]any{{"hostPort": hostPort, "containerPort": podPort, "protocol": protocol, "hostIP": hostIP}}}
	}
	node := l.one.Addrs[subnet.IPv4].String()
	for _, backend := range []string{"", "nftables"} {
		l.backend(t, backend)
		pods := map[string]*pod{}
		for name, caps := range map[string]map[string]any{"local": at("127.0.0.1", "tcp"), "node": at(node, "tcp"), "udp": at(node, "udp")} {
			p, err := l.addPod(t, name, caps)
			require.NoError(t, err)
			pods[name] = p
		}
		server := pods["local"].start(t, serveArg, fmt.Sprint(podPort))
		netlabtest.Eventually(t, "by localhost", func() error {
			_, err := asks(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", hostPort), &l.one.Host)
			return err
		})
		_, err := asks(t.Context(), "tcp", fmt.Sprintf("%s:%d", node, hostPort), &l.one.Host)
		require.Error(t, err, "nobody listens in the pod with that address")
		for _, p := range pods {
			p.del(t)
		}
		_ = server.Kill(t.Context())
	}
}

// UDP clients that go on asking find the next pod: what conntrack knows of the
// former one is forgotten.
func TestUDPFindsTheNextPod(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, backend := range []string{"", "nftables"} {
		l.backend(t, backend)
		for _, f := range subnet.Families {
			conn, err := l.Outside.DialContext(t.Context(), "udp", netip.AddrPortFrom(l.one.Addrs[f], hostPort).String())
			require.NoError(t, err)
			for _, name := range []string{"first", "second"} {
				require.Error(t, answered(conn)) // conntrack knows this client before the port is there
				p, err := l.addPod(t, name, ports())
				require.NoError(t, err)
				server := p.start(t, serveArg, fmt.Sprint(podPort))
				netlabtest.Eventually(t, fmt.Sprintf("%s, %s, %q", name, f, backend), func() error { return answered(conn) })
				p.del(t)
				_ = server.Kill(t.Context())
			}
			require.NoError(t, conn.Close())
		}
	}
}

func answered(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := conn.Write([]byte("who am I?"))
	if err == nil {
		_, err = conn.Read(make([]byte, 64))
	}
	return err
}

// A host that has neither iptables nor nft makes pods without ports, and says
// what is missing for those with one: at DEL too, as portmap then cannot know
// whether it has left rules.
func TestNoFirewallTools(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	sh(t, &l.one.Host, `rm /etc/alternatives/iptables /etc/alternatives/ip6tables
		mount --bind /etc/hostname "$(readlink -f "$(command -v nft)")"`)
	plain, err := l.addPod(t, "plain", nil)
	require.NoError(t, err)
	plain.del(t)
	web, err := l.addPod(t, "web", ports())
	require.ErrorContains(t, err, "iptables")
	sh(t, &l.one.Host, `umount "$(readlink -f /usr/sbin/nft)"`)
	web.del(t)
	require.Equal(t, l.neighbour.Addrs[subnet.IPv4].String(), strings.TrimSpace(sh(t, &l.one.Host, `ls /var/lib/cni/networks/cbr0 | grep '^10\.'`)), "nothing is left of them")
}
