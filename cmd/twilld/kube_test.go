package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

func TestNodeName(t *testing.T) {
	clear(t)
	hostname, err := os.Hostname()
	require.NoError(t, err)
	for _, c := range []struct {
		args []string
		env  map[string]string
		want string
	}{
		{nil, map[string]string{"NODE_NAME": "n1"}, hostname},
		{[]string{"--kube-subnet-mgr"}, map[string]string{"NODE_NAME": "n1"}, "n1"},
		{[]string{"--kube-subnet-mgr", "--node-name=n2"}, map[string]string{"NODE_NAME": "n1"}, "n2"},
		{[]string{"--kube-subnet-mgr", "--node-name=" + hostname}, map[string]string{"NODE_NAME": "n1"}, hostname},
		{nil, map[string]string{"NODE_NAME": "n1", "TWILLD_NODE_NAME": "n3", "TWILLD_KUBE_SUBNET_MGR": "true"}, "n3"},
	} {
		t.Setenv("TWILLD_NODE_NAME", "")
		t.Setenv("TWILLD_KUBE_SUBNET_MGR", "")
		for name, value := range c.env {
			t.Setenv(name, value)
		}
		var o options
		require.NoError(t, o.parse(o.flags(), c.args))
		require.Equal(t, c.want, o.nodeName, "%v %v", c.args, c.env)
	}
}

// A whole daemon on a real API server, in a network namespace of its own.
func TestKubernetes(t *testing.T) {
	api := cluster(t)
	if api == nil {
		return
	}
	join(t, api, "", "10.244.1.0/25")
	joinPeer(t, api)
	d := newDaemon(t, api, api.URL)
	source := d.write("conflist", `{"name":"cbr0","cniVersion":"1.0.0","plugins":[{"type":"twill"}]}`)
	d.args = append(d.args, "--cni-conf-install", source)
	d.start()
	d.eventually("the Node says that its network is there", func() bool {
		n := api.Node(t, "n1")
		return unavailable(n).Status == corev1.ConditionFalse && n.Annotations[prefix+"public-ip"] == "192.0.2.1" && n.Annotations[prefix+"kube-subnet-manager"] == "true"
	})
	require.Equal(t, "the default route", d.status().Underlay.ChosenBy, "the Node names no address")
	d.stop()
	env, err := os.ReadFile(d.path("run", "subnet.env"))
	require.NoError(t, err)
	require.Contains(t, string(env), "FLANNEL_SUBNET=10.244.1.1/25\n")
	require.FileExists(t, d.path("net.d", "10-twill.conflist"))
	var routes []struct{ Dev string }
	require.NoError(t, json.Unmarshal([]byte(ip(t, "-json", "route", "get", "10.244.2.7")), &routes))
	require.Equal(t, "twill.1", routes[0].Dev)
	state, err := os.ReadFile(d.path("state", "last-good.json"))
	require.NoError(t, err)
	require.Contains(t, string(state), fmt.Sprintf(`"store":"kubernetes %s %s"`, api.URL, prefix))

	var stderr bytes.Buffer
	require.Zero(t, run(append(d.args, "--cleanup"), &bytes.Buffer{}, &stderr), "%s", &stderr)
	require.NoDirExists(t, d.path("state"))
	require.NoFileExists(t, d.path("net.d", "10-twill.conflist"))
	_, err = net.InterfaceByName("twill.1")
	require.Error(t, err)
}

func unavailable(n *corev1.Node) corev1.NodeCondition {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			return c
		}
	}
	return corev1.NodeCondition{}
}

// The underlay is that of the Node's InternalIP, and follows it and the
// annotations without a restart; flags win.
func TestNodeAddresses(t *testing.T) {
	api := cluster(t)
	if api == nil {
		return
	}
	join(t, api, "198.51.100.1", "10.244.1.0/24")
	d := newDaemon(t, api, api.URL)
	d.start()
	d.ready()
	is := func(parent, local, public string) {
		t.Helper()
		d.eventually(public+" on "+parent, func() bool {
			p, l := tunnel(t)
			return p == parent && l == local && api.Node(t, "n1").Annotations[prefix+"public-ip"] == public
		})
	}
	is("eth1", "198.51.100.1", "198.51.100.1")
	annotate := func(name, value string) {
		api.PatchNode(t, "n1", fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, prefix+name, value))
	}
	internal := func(ip string) {
		api.PatchStatus(t, "n1", fmt.Sprintf(`{"status":{"addresses":[{"type":"InternalIP","address":%q}]}}`, ip))
	}
	internal("192.0.2.1")
	is("eth0", "192.0.2.1", "192.0.2.1")
	internal("203.0.113.7") // of nobody here: NAT
	is("eth0", "192.0.2.1", "203.0.113.7")
	require.Equal(t, "192.0.2.1", api.Node(t, "n1").Annotations[prefix+"source-ip"])
	require.Contains(t, d.status().Text(), "InternalIP 203.0.113.7 is on no interface")
	annotate("node-public-ip", `"198.51.100.1"`)
	is("eth1", "198.51.100.1", "198.51.100.1")
	annotate("public-ip-overwrite", `"203.0.113.9"`)
	is("eth1", "198.51.100.1", "203.0.113.9")
	require.Equal(t, "198.51.100.1", api.Node(t, "n1").Annotations[prefix+"source-ip"])
	annotate("public-ip-overwrite", "null")
	annotate("node-public-ip", `"10.9.9.9"`)
	d.eventually("it is told that nobody has it", func() bool { return strings.Contains(d.status().Text(), "no interface that is up has 10.9.9.9") })
	is("eth1", "198.51.100.1", "198.51.100.1")
	ip(t, "address", "add", "10.9.9.9/32", "dev", "eth0") // now somebody has
	is("eth0", "10.9.9.9", "10.9.9.9")
	annotate("node-public-ip", "null")
	is("eth0", "10.9.9.9", "203.0.113.7") // as good as the other one
	ip(t, "address", "delete", "10.9.9.9/32", "dev", "eth0")
	is("eth0", "192.0.2.1", "203.0.113.7")
	d.ready() // at no time did it need a restart
	d.stop()

	d.args = append(d.args, "--iface", "eth1", "--public-ip", "203.0.113.200")
	d.start()
	is("eth1", "198.51.100.1", "203.0.113.200")
	require.Contains(t, d.status().Text(), "peers are told 203.0.113.200 by flag, not the Node's InternalIP 203.0.113.7")
}

// What happens to a Node, and to the API server, and what the node says then.
func TestNodeComesAndGoes(t *testing.T) {
	api := cluster(t)
	if api == nil {
		return
	}
	joinPeer(t, api)
	d := newDaemon(t, api, api.URL)
	config := d.path("mount", "net-conf.json") // as a ConfigMap is mounted
	d.args = append(d.args, "--net-config-path", config)
	mount := func(version, content string) {
		d.write("mount/"+version+"/net-conf.json", content)
		require.NoError(t, os.Symlink(version, d.path("mount", "..next")))
		require.NoError(t, os.Rename(d.path("mount", "..next"), d.path("mount", "..data")))
	}
	mount("..1", `{"Network": "10.244.0.0/16"}`)
	require.NoError(t, os.Symlink("..data/net-conf.json", config))
	subnetIs := func(want string) func() bool {
		return func() bool {
			env, err := os.ReadFile(d.path("run", "subnet.env"))
			s := d.status()
			return s.Ready && s.Lease.Subnets[0] == want && err == nil && strings.Contains(string(env), strings.Replace(want, ".0/24", ".1/24", 1))
		}
	}
	event := func(reason, contains string) func() bool {
		return func() bool {
			for _, e := range api.Events(t) {
				if e.Reason == reason && e.InvolvedObject.Name == "n1" && strings.Contains(e.Message, contains) {
					return true
				}
			}
			return false
		}
	}

	d.start()
	d.notReady("no lease yet: Node n1: it does not exist")
	join(t, api, "192.0.2.1")
	d.notReady("no lease yet: Node n1: its spec.podCIDRs have no IPv4 subnet")
	d.eventually("the operator is told", event("TwillNotReady", "have no IPv4 subnet"))
	api.PatchNode(t, "n1", `{"spec":{"podCIDR":"10.244.1.0/24","podCIDRs":["10.244.1.0/24"]}}`)
	d.eventually("it has its subnet", subnetIs("10.244.1.0/24"))
	d.eventually("the operator is told", event("TwillReady", "up"))
	up := func() bool { return unavailable(api.Node(t, "n1")).Status == corev1.ConditionFalse }
	d.eventually("and the scheduler", up)

	api.DeleteNode(t, "n1")
	d.notReady("the lease is lost: Node n1: it does not exist")
	require.NoFileExists(t, d.path("run", "subnet.env"), "no pod gets an address of it")
	require.Contains(t, ip(t, "route"), "10.244.2.0/24", "packets flow on")
	join(t, api, "192.0.2.1", "10.244.7.0/24")
	d.eventually("it has the new one", subnetIs("10.244.7.0/24"))
	d.eventually("the scheduler is told of the new Node", up)
	require.Contains(t, ip(t, "address", "show", "dev", "twill.1"), "10.244.7.0/32")

	mount("..2", `{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "MTU": 1400}}`)
	d.eventually("the ConfigMap's change is taken", func() bool { return d.status().MTU == 1350 })

	// The API server goes, and the node is booted meanwhile.
	api.Kill()
	d.eventually("it is told", func() bool { s := d.status(); return s.Ready && s.Store.Degraded != nil })
	d.stop()
	ip(t, "link", "delete", "twill.1")
	require.NoError(t, os.Remove(d.path("run", "subnet.env")))
	d.start()
	d.notReady("the lease is what an earlier run knew: the store has not confirmed it")
	d.eventually("pods can be added, and reach others", func() bool {
		_, err := os.Stat(d.path("run", "subnet.env"))
		return err == nil && strings.Contains(ip(t, "route"), "10.244.2.0/24")
	})
	require.Contains(t, d.status().Text(), "going by what was known at")
	api.Restart()
	d.eventually("all is well", subnetIs("10.244.7.0/24"))
	d.eventually("the store answers all that is asked", func() bool { s := d.status(); return s.Ready && s.Store.Degraded == nil })
}
