package underlay_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/underlay"
	"github.com/twill-net/twill/subnet"
)

func internal(list ...string) underlay.Node { return underlay.Node{Internal: addresses(list...)} }

func local(list ...string) underlay.Node { return underlay.Node{Local: addresses(list...)} }

func TestSelectByNode(t *testing.T) {
	t.Parallel()
	byDefault := routes("default dev eth0 via 192.0.2.254")
	three := interfaces("eth0 192.0.2.1/24 192.0.2.2/24 2001:db8::1/64 2001:db8::2/64", "eth1 198.51.100.1/24 198.51.100.2/24", "eth2 down 203.0.113.1/24")
	dummy := interfaces("eth0 192.0.2.1/24", "dum0 kind=dummy 203.0.113.9/32")
	for _, tt := range []struct {
		name    string
		options underlay.Options
		node    underlay.Node
		links   []backend.Interface
		routes  []backend.HostRoute
		want    string
		public  subnet.PerFamily[netip.Addr] // another than what is on the interface
		by      string
		notes   []string
		err     string
	}{
		{name: "nothing is said", links: three, routes: byDefault, want: "eth0 192.0.2.1 2001:db8::1", by: "the default route"},
		{name: "InternalIP before the default route", node: internal("198.51.100.2"), links: three, routes: byDefault, want: "eth1 198.51.100.2", by: "the Node's InternalIP 198.51.100.2"},
		{name: "InternalIPs of both families", node: internal("192.0.2.2", "2001:db8::2"), links: three, routes: byDefault, want: "eth0 192.0.2.2 2001:db8::2", by: "the Node's InternalIP 192.0.2.2"},
		{name: "InternalIP of IPv6 alone, and the other family's", node: internal("2001:db8::2"), links: three, want: "eth0 192.0.2.1 2001:db8::2", by: "the Node's InternalIP 2001:db8::2"},
		{
			name: "InternalIPs on two interfaces", node: internal("198.51.100.1", "2001:db8::2"), links: interfaces("eth0 192.0.2.1/24 2001:db8::2/64", "eth1 198.51.100.1/24 2001:db8:1::1/64"),
			want: "eth1 198.51.100.1 2001:db8:1::1", by: "the Node's InternalIP 198.51.100.1",
			notes: []string{"peers are told 2001:db8:1::1, not the Node's InternalIP 2001:db8::2, which is on eth0: the interface is chosen by the Node's InternalIP 198.51.100.1"},
		},
		{
			name: "InternalIP behind NAT", node: internal("203.0.113.77"), links: three, routes: byDefault, want: "eth0 192.0.2.1 2001:db8::1",
			public: addresses("203.0.113.77", "2001:db8::1"), by: "the default route",
			notes: []string{"the Node's InternalIP 203.0.113.77 is on no interface: it is taken for one behind NAT, peers are told it, packets leave from 192.0.2.1"},
		},
		{
			name: "InternalIP behind NAT of a family without an address", node: internal("192.0.2.2", "2001:db8:9::1"), links: interfaces("eth0 192.0.2.2/24"),
			want: "eth0 192.0.2.2", by: "the Node's InternalIP 192.0.2.2",
		},
		{
			name: "--public-ip before InternalIP", options: underlay.Options{PublicIPs: addresses("203.0.113.5")}, node: internal("192.0.2.2"), links: three, routes: byDefault,
			want: "eth0 192.0.2.2 2001:db8::1", public: addresses("203.0.113.5", "2001:db8::1"), by: "the Node's InternalIP 192.0.2.2",
			notes: []string{"peers are told 203.0.113.5 by flag, not the Node's InternalIP 192.0.2.2"},
		},
		{
			name: "--iface before InternalIP", options: underlay.Options{Interfaces: []string{"eth1"}}, node: internal("192.0.2.2"), links: three, routes: byDefault, want: "eth1 198.51.100.1",
			by: "--iface eth1", notes: []string{"peers are told 198.51.100.1, not the Node's InternalIP 192.0.2.2, which is on eth0: the interface is chosen by --iface eth1"},
		},
		{
			name: "--iface, and an InternalIP behind NAT", options: underlay.Options{Interfaces: []string{"eth1"}}, node: internal("203.0.113.77"), links: three, routes: byDefault, want: "eth1 198.51.100.1",
			by: "--iface eth1", notes: []string{"peers are told 198.51.100.1, not the Node's InternalIP 203.0.113.77, which is on no interface: the interface is chosen by --iface eth1"},
		},
		{name: "--iface by name, and an InternalIP there", options: underlay.Options{Interfaces: []string{"eth1"}}, node: internal("198.51.100.2"), links: three, want: "eth1 198.51.100.2", by: "--iface eth1"},
		{
			name: "--iface by address, and an InternalIP there", options: underlay.Options{Interfaces: []string{"198.51.100.1"}}, node: internal("198.51.100.2"), links: three, want: "eth1 198.51.100.1",
			by: "--iface 198.51.100.1", notes: []string{"peers are told 198.51.100.1, not the Node's InternalIP 198.51.100.2, which is on eth1: the interface is chosen by --iface 198.51.100.1"},
		},
		{name: "InternalIP on a link that is down", node: internal("203.0.113.1"), links: three, routes: byDefault, err: "interface eth2, which has the Node's InternalIP 203.0.113.1, is down: waiting for it"},
		{name: "InternalIP on the loopback", node: internal("10.255.0.1"), links: three, routes: byDefault, want: "eth0 10.255.0.1 2001:db8::1", by: "the Node's InternalIP 10.255.0.1"},
		{name: "InternalIP on a dummy", node: internal("203.0.113.9"), links: dummy, routes: byDefault, want: "eth0 203.0.113.9", by: "the Node's InternalIP 203.0.113.9"},
		{
			name: "annotation before InternalIP", node: underlay.Node{Internal: addresses("192.0.2.1"), Local: addresses("198.51.100.2")}, links: three, routes: byDefault, want: "eth1 198.51.100.2",
			by: "the Node's annotation for 198.51.100.2", notes: []string{"peers are told 198.51.100.2, not the Node's InternalIP 192.0.2.1, which is on eth0: the interface is chosen by the Node's annotation for 198.51.100.2"},
		},
		{name: "annotations of both families", node: local("192.0.2.2", "2001:db8::2"), links: three, want: "eth0 192.0.2.2 2001:db8::2", by: "the Node's annotation for 192.0.2.2 or 2001:db8::2"},
		{
			name: "annotation of one family, InternalIP of the other", node: underlay.Node{Internal: addresses("192.0.2.1", "2001:db8::2"), Local: addresses("192.0.2.2")}, links: three, want: "eth0 192.0.2.2 2001:db8::2",
			by: "the Node's annotation for 192.0.2.2", notes: []string{"peers are told 192.0.2.2, not the Node's InternalIP 192.0.2.1, which is on eth0: the interface is chosen by the Node's annotation for 192.0.2.2"},
		},
		{
			name: "--iface before the annotation", options: underlay.Options{Interfaces: []string{"eth0"}}, node: local("198.51.100.2"), links: three, want: "eth0 192.0.2.1 2001:db8::1",
			by: "--iface eth0", notes: []string{"the address 198.51.100.2, which the Node's annotation says to use, is not used: the interface is chosen by --iface eth0"},
		},
		{name: "--iface by name, and the annotation's address there", options: underlay.Options{Interfaces: []string{"eth0"}}, node: underlay.Node{Internal: addresses("192.0.2.1"), Local: addresses("192.0.2.2")}, links: three, want: "eth0 192.0.2.2 2001:db8::1", by: "--iface eth0", notes: []string{"peers are told 192.0.2.2, not the Node's InternalIP 192.0.2.1, which is on eth0: the interface is chosen by --iface eth0"}},
		{
			name: "an annotation with an address of nobody's", node: underlay.Node{Internal: addresses("192.0.2.1"), Local: addresses("10.9.9.9"), LocalBy: subnet.PerFamily[string]{"example.com/node-public-ip"}}, links: three, routes: byDefault,
			err: "annotation example.com/node-public-ip=10.9.9.9: no interface that is up has 10.9.9.9 (there are eth0, eth1, eth2 (down))",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := tt.options
			o.Ours, o.Node = ours, tt.node
			host := backend.Host{Interfaces: tt.links, Routes: tt.routes}
			got, err := o.Select(host, noRoute, backend.Underlay{})
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, words(got))
			if tt.public == (subnet.PerFamily[netip.Addr]{}) {
				tt.public = got.Addresses
			}
			require.Equal(t, tt.public, got.PublicIPs)
			by, notes := o.Explain(host, got)
			require.Equal(t, tt.by, by)
			require.Equal(t, tt.notes, notes)
			again, err := o.Select(host, noRoute, got)
			require.NoError(t, err)
			require.Equal(t, got, again, "it settles")
		})
	}
}
