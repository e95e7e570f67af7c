package netlab_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

const bridgeConf = `{
  "cniVersion": "1.0.0", "name": "cbr0",
  "plugins": [{
    "type": "bridge", "isGateway": true,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/29"}], [{"subnet": "fd09::/64"}]]}
  }]
}`

// Pods are wired by the plugins that the node's configuration names, on the
// node; an address is free again after DEL.
func TestPodsByPlainBridge(t *testing.T) {
	t.Parallel()
	_, err := os.Stat("/var/lib/cni/networks/cbr0") // of a cluster that this machine belongs to
	there := err == nil
	lab := netlabtest.New(t, netlab.Options{Nodes: 1})
	n := lab.Node(1)
	require.NoError(t, os.WriteFile(n.Path("/etc/cni/net.d/10-twill.conflist"), []byte(bridgeConf), 0o644))
	a, err := n.AddPod(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, "node1/a", a.Name)
	b, err := n.AddPod(t.Context(), "b")
	require.NoError(t, err)
	pingFull(t, &a.Host, &b.Host, 1500)
	mtu, err := a.MTU(t.Context(), "eth0")
	require.NoError(t, err)
	require.Equal(t, 1500, mtu)
	name, err := a.Exec(t.Context(), "hostname")
	require.NoError(t, err)
	require.Equal(t, "node1", strings.TrimSpace(name))
	require.FileExists(t, n.Path("/var/lib/cni/networks/cbr0/"+a.Addrs[subnet.IPv4].String()))

	require.NoError(t, n.DelPod(t.Context(), a))
	require.NoFileExists(t, n.Path("/var/lib/cni/networks/cbr0/"+a.Addrs[subnet.IPv4].String()))
	require.NoFileExists(t, n.Path("/run/netns/a"))
	_, err = b.Ping(t.Context(), a.Addrs[subnet.IPv4], 0)
	require.Error(t, err)

	// The range has room for five; what fails leaves no namespace.
	for _, name := range []string{"c", "d", "e", "f", "g", "h"} {
		if _, err = n.AddPod(t.Context(), name); err != nil {
			require.NoFileExists(t, n.Path("/run/netns/"+name))
			break
		}
	}
	require.ErrorContains(t, err, "adding pod node1/")
	require.ErrorContains(t, err, "no IP addresses available")
	_, err = os.Stat("/var/lib/cni/networks/cbr0")
	require.Equal(t, there, err == nil, "nothing of it is the machine's")
}
