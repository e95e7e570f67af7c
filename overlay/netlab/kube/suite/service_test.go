//go:build cluster

package suite

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet"
)

// serve makes a Service in front of the pods of an app.
func serve(t *testing.T, namespace, name, app, spec string) {
	t.Helper()
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: %s}
spec: {ipFamilyPolicy: PreferDualStack, selector: {app: %s}, %s}
`, name, namespace, app, spec))
}

func TestServices(t *testing.T) {
	namespace := begin(t)
	servers := web(t, namespace, "web")
	clients := web(t, namespace, "client")
	serve(t, namespace, "any", "web", "type: NodePort, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]")
	serve(t, namespace, "local", "web", "type: NodePort, externalTrafficPolicy: Local, ports: [{port: 80, targetPort: 8080, nodePort: 30081}]")
	serve(t, namespace, "headless", "web", "clusterIP: None, ports: [{port: 8080}]")
	outside := cluster.Lab().Outside
	families(t, func(t *testing.T, f subnet.Family) {
		vip := serviceIP(t, namespace, "any", f)
		for _, p := range clients {
			client := host(t, p)
			require.Equal(t, client.Addrs[f], clientSeen(t, client, vip, 80), "a pod is itself behind a ClusterIP")
			for _, n := range cluster.Nodes {
				require.NotEmpty(t, fetched(t, client, n.Addrs[f], 30080, "hostname"), "NodePort of %s from a pod", n.Name)
			}
		}
		for i, n := range cluster.Nodes {
			require.NotEmpty(t, fetched(t, &n.Host, vip, 80, "hostname"), "ClusterIP from %s", n.Name)
			require.NotEmpty(t, fetched(t, outside, n.Addrs[f], 30080, "hostname"), "NodePort of %s from outside", n.Name)

			require.Equal(t, servers[i].Name, fetched(t, outside, n.Addrs[f], 30081, "hostname"), "ExternalTrafficPolicy Local")
			require.Equal(t, outside.Addrs[f], clientSeen(t, outside, n.Addrs[f], 30081), "the client keeps its address")
		}
		t.Run("headless", func(t *testing.T) {
			var want []netip.Addr
			for _, p := range servers {
				want = append(want, host(t, p).Addrs[f])
			}
			slices.SortFunc(want, netip.Addr.Compare)
			// The endpoints may come one after the other, and CoreDNS keeps what it
			// has told for some seconds.
			eventually(t, "each server is told of", func(context.Context) error {
				answers := lookUp(t, host(t, clients[0]), "headless."+namespace+".svc.cluster.local", f)
				slices.SortFunc(answers, netip.Addr.Compare)
				if !slices.Equal(want, answers) {
					return fmt.Errorf("there are %s, and not %s", answers, want)
				}
				return nil
			})
		})
	})
}

// A pod that speaks to its own Service may get itself: hairpin.
func TestPodReachesItselfByService(t *testing.T) {
	namespace := begin(t)
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: alone, namespace: %[1]s, labels: {app: alone}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: web, image: %[2]s, imagePullPolicy: Never, args: [netexec, --http-port=8080]}
`, namespace, agnhost))
	serve(t, namespace, "alone", "alone", "ports: [{port: 80, targetPort: 8080}]")
	pod := host(t, await(t, namespace, "app=alone", 1)[0])
	families(t, func(t *testing.T, f subnet.Family) {
		require.Equal(t, "alone", fetched(t, pod, serviceIP(t, namespace, "alone", f), 80, "hostname"))
	})
}

func TestHostPort(t *testing.T) {
	namespace := begin(t)
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: port, namespace: %[1]s, labels: {app: port}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  containers:
  - name: web
    image: %[2]s
    imagePullPolicy: Never
    args: [netexec, --http-port=8080]
    ports: [{containerPort: 8080, hostPort: 8088}]
`, namespace, agnhost))
	await(t, namespace, "app=port", 1)
	client := host(t, web(t, namespace, "client")[0])
	outside := cluster.Lab().Outside
	families(t, func(t *testing.T, f subnet.Family) {
		addr := cluster.Node(2).Addrs[f]
		require.Equal(t, "port", fetched(t, outside, addr, 8088, "hostname"))
		require.Equal(t, outside.Addrs[f], clientSeen(t, outside, addr, 8088), "the client keeps its address")
		require.Equal(t, "port", fetched(t, client, addr, 8088, "hostname"), "from a pod of another node")
		require.Equal(t, "port", fetched(t, &cluster.Node(2).Host, addr, 8088, "hostname"), "from the node itself")
	})
}

// CoreDNS answers pods on each node, by UDP and TCP.
func TestDNS(t *testing.T) {
	namespace := begin(t)
	pods := web(t, namespace, "web")
	for _, p := range pods {
		name := "kubernetes.default.svc.cluster.local"
		f := cluster.Stack().Families()[0]
		require.Equal(t, []netip.Addr{serviceIP(t, "default", "kubernetes", f)}, lookUp(t, host(t, p), name, f))
		out, err := cluster.Exec(within(t), namespace+"/"+p.Name, "dig", "+tcp", "+short", "+search", "kubernetes.default", record[f])
		require.NoError(t, err)
		require.Equal(t, serviceIP(t, "default", "kubernetes", f).String(), strings.TrimSpace(out))
	}
}

// record is the DNS type of a family's addresses.
var record = subnet.PerFamily[string]{"A", "AAAA"}

// lookUp asks the cluster's DNS for addresses from a pod, until there are any.
func lookUp(t *testing.T, from *netlab.Host, name string, f subnet.Family) (found []netip.Addr) {
	t.Helper()
	server := serviceIP(t, "kube-system", "kube-dns", cluster.Stack().Families()[0])
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return from.DialContext(ctx, network, netip.AddrPortFrom(server, 53).String())
	}}
	eventually(t, from.Name+" resolves "+name, func(ctx context.Context) (err error) {
		found, err = resolver.LookupNetIP(ctx, map[subnet.Family]string{subnet.IPv4: "ip4", subnet.IPv6: "ip6"}[f], name+".")
		for i := range found {
			found[i] = found[i].Unmap()
		}
		if err == nil && len(found) == 0 {
			err = errors.New("no address")
		}
		return err
	})
	return found
}
