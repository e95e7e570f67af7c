//go:build cluster

package suite

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet"
)

// A pod gets and sends no more than its annotations allow, but for the burst
// that containerd asks for: 21 MB at this rate.
func TestBandwidth(t *testing.T) {
	if testing.Short() {
		t.Skip("the plugin's own work, which overlay/cni/chain sees without a cluster")
	}
	namespace := begin(t)
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata:
  name: slow
  namespace: %[1]s
  labels: {app: slow}
  annotations: {kubernetes.io/ingress-bandwidth: 1M, kubernetes.io/egress-bandwidth: 1M}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  containers: [{name: pause, image: "registry.k8s.io/pause:3.10.1", imagePullPolicy: Never}]
`, namespace))
	slow := host(t, await(t, namespace, "app=slow", 1)[0])
	free := hosts(t, web(t, namespace, "free"))
	near, far := free[1], free[0] // on the slow pod's node, and on another
	for _, h := range []*netlab.Host{slow, far} {
		server, err := h.Start("iperf", "iperf", "--server", "--ipv6_domain") // both
		require.NoError(t, err)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			_ = server.Kill(ctx)
		})
	}
	const much, little = 8_000_000, 1_000_000 // bytes in a second
	families(t, func(t *testing.T, f subnet.Family) {
		eventually(t, "pods without annotations are not held back", func(ctx context.Context) error {
			n, err := carried(ctx, near, far.Addrs[f])
			if err == nil && n < much {
				err = fmt.Errorf("%d bytes in a second", n)
			}
			return err
		})
		for way, ends := range map[string][2]*netlab.Host{"gets": {near, slow}, "sends": {slow, far}} {
			eventually(t, "the limit of what it "+way, func(ctx context.Context) error {
				n, err := carried(ctx, ends[0], ends[1].Addrs[f])
				if err == nil && n > little {
					err = fmt.Errorf("%d bytes in a second", n)
				}
				return err
			})
		}
	})
}

// carried returns how many bytes go to an iperf server in a second.
func carried(ctx context.Context, from *netlab.Host, to netip.Addr) (int, error) {
	// A small window: what is in the socket after that second is waited for, too.
	args := []string{"iperf", "--client", to.String(), "--time", "1", "--window", "64K", "--reportstyle", "C"}
	if to.Is6() {
		args = append(args, "--ipv6_domain")
	}
	out, err := from.Exec(ctx, args...)
	if err != nil {
		return 0, err
	}
	// time,source,port,destination,port,id,interval,bytes,bits a second
	fields := strings.Split(strings.TrimSpace(out), ",")
	if len(fields) != 9 {
		return 0, fmt.Errorf("iperf says %q", out)
	}
	return strconv.Atoi(fields[7])
}
