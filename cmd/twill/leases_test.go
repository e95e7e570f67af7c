package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/twill-net/twill/subnet/etcd"
	"github.com/twill-net/twill/subnet/etcd/etcdtest"
)

// twill runs the command as main does, and returns what it prints.
func twill(t *testing.T, stdin string, args ...string) (stdout string, err error) {
	t.Helper()
	root := newRoot()
	var out bytes.Buffer
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err = root.ExecuteContext(t.Context())
	return out.String(), err
}

const wide = `{"Network": "10.5.0.0/16"}`

// The whole of it against one etcd, which is named by the environment.
func TestLeasesAndReservations(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Options{})
	client := server.Client(t)
	t.Setenv("TWILLD_ETCD_ENDPOINTS", server.Endpoint)
	t.Setenv("TWILLD_ETCD_PREFIX", "/elsewhere")
	flags := []string{"--etcd-prefix", "/x"} // a flag wins
	run := func(args ...string) (string, error) { return twill(t, "", append(args, flags...)...) }

	out, err := run("leases")
	require.NoError(t, err)
	require.Equal(t, "SUBNET  NODE  PUBLIC IP  BACKEND  EXPIRES  NOTE\n", out)
	out, err = run("leases", "-o", "json")
	require.NoError(t, err)
	require.JSONEq(t, "[]", out)

	grant, err := client.Grant(t.Context(), 7200)
	require.NoError(t, err)
	for key, value := range map[string]string{
		"10.5.3.0-24":              `{"PublicIP":"192.168.0.3","BackendType":"vxlan"}`,
		"10.5.1.0-24&fd00:5::1-64": `{"PublicIP":"192.168.0.1","PublicIPv6":"fd00::1","BackendType":"vxlan","NodeName":"n1"}`,
		"10.5.2.0-24":              `rubbish`,
	} {
		_, err := client.Put(t.Context(), "/x/subnets/"+key, value, clientv3.WithLease(grant.ID))
		require.NoError(t, err)
	}
	out, err = run("reserve", "--node", "n4", "10.5.4.0/24")
	require.NoError(t, err)
	require.Equal(t, "reserved 10.5.4.0/24 for n4\n", out)

	out, err = run("leases")
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 5)
	require.Regexp(t, `^10.5.1.0-24&fd00:5::1-64 +n1 +192.168.0.1,fd00::1 +vxlan +in 1h5\dm\d+s +invalid: .*host bits`, lines[1])
	require.Regexp(t, `^10.5.2.0/24 +- +- +- +in 1h5\dm\d+s +invalid: lease value`, lines[2])
	require.Regexp(t, `^10.5.3.0/24 +- +192.168.0.3 +vxlan +in 1h5\dm\d+s *$`, lines[3])
	require.Regexp(t, `^10.5.4.0/24 +n4 +- +- +reserved +waits for its node$`, lines[4])

	out, err = run("leases", "--output=json")
	require.NoError(t, err)
	var list []map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &list))
	require.Len(t, list, 4)
	require.Equal(t, map[string]any{"key": "10.5.4.0-24", "node": "n4", "subnets": []any{"10.5.4.0/24"}, "publicIPs": []any{}, "reserved": true}, list[3])
	require.NotEmpty(t, list[2]["expires"])
	require.NotEmpty(t, list[1]["invalid"])

	_, err = run("reserve", "--node", "n5", "10.5.3.0/24")
	require.EqualError(t, err, "reserving 10.5.3.0-24 for n5: it overlaps 10.5.3.0-24, which node 192.168.0.3 holds; release that first, or choose another subnet")
	out, err = run("reserve", "--public-ip", "192.168.0.3", "10.5.3.0/24")
	require.NoError(t, err)
	require.Equal(t, "reserved 10.5.3.0/24 for 192.168.0.3\n", out)

	for _, tt := range []struct{ arg, out string }{
		{"n4", "removed reservation 10.5.4.0-24 of n4\n"},
		{"192.168.0.3", "removed reservation 10.5.3.0-24 of 192.168.0.3\n"},
		{"10.5.2.0/24", "removed lease 10.5.2.0-24 of -\n"},
		{"10.5.1.0-24&fd00:5::1-64", "removed lease 10.5.1.0-24&fd00:5::1-64 of n1\n"},
	} {
		out, err = run("release", tt.arg)
		require.NoError(t, err)
		require.Equal(t, tt.out, out)
		_, err = run("release", tt.arg)
		require.EqualError(t, err, `nothing matches "`+tt.arg+`"; twill leases shows what there is`)
	}
}

func TestConfigCommands(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Options{})
	client := server.Client(t)
	t.Setenv("TWILLD_ETCD_ENDPOINTS", server.Endpoint)
	file := filepath.Join(t.TempDir(), "net-conf.json")
	require.NoError(t, os.WriteFile(file, []byte(wide+"\n"), 0o600))
	const described = "IPv4: 10.5.0.0/16, 255 subnets of /24 from 10.5.1.0 to 10.5.255.0\nbackend: vxlan, VNI 1, UDP port 8472\n"

	out, err := twill(t, "", "config", "check", file)
	require.NoError(t, err)
	require.Equal(t, described, out)
	out, err = twill(t, `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:5::/48",
		"Backend": {"VNI": 5, "Port": 4789, "MTU": 9000, "GBP": true, "DirectRouting": true}}`, "config", "check", "-")
	require.NoError(t, err)
	require.Equal(t, "IPv6: fd00:5::/48, 65535 subnets of /64 from fd00:5:0:1:: to fd00:5:0:ffff::\n"+
		"backend: vxlan, VNI 5, UDP port 4789, outer MTU 9000, GBP, DirectRouting\n", out)
	out, err = twill(t, `{"Network": "10.5.0.0/16", "Backend": {"Type": "alloc"}}`, "config", "check", "-")
	require.NoError(t, err)
	require.Contains(t, out, "backend: alloc\n")
	out, err = twill(t, `{"Network": "10.5.0.0/16", "EnableNFTables": false, "MasqueradeIPv4": false, "NonMasqueradeCIDRs": ["192.0.2.0/24", "2001:db8::/32"]}`, "config", "check", "-")
	require.NoError(t, err)
	require.Equal(t, described+"rules: iptables, unless a node's --firewall says otherwise\nIPv4: never masqueraded\n"+
		"not masqueraded to: [192.0.2.0/24 2001:db8::/32]\n", out)
	_, err = twill(t, "", "config", "check", "/nonexistent")
	require.EqualError(t, err, "reading the network config: open /nonexistent: no such file or directory")

	_, err = twill(t, "", "config", "get")
	require.ErrorContains(t, err, "there is no network config in etcd; write one with: twill config set FILE")
	_, err = twill(t, `{"Network": "10.5.0.1/16"}`, "config", "set", "-")
	require.ErrorContains(t, err, "Network")
	_, err = twill(t, "", "config", "get")
	require.Error(t, err, "what is not valid is not written")
	out, err = twill(t, "", "config", "set", file)
	require.NoError(t, err)
	require.Equal(t, described, out)
	out, err = twill(t, "", "config", "get")
	require.NoError(t, err)
	require.Equal(t, wide+"\n", out)

	// What takes a subnet away is refused, by name, unless it is meant.
	for _, key := range []string{"10.5.3.0-24", "10.5.200.0-24"} {
		_, err = client.Put(t.Context(), "/coreos.com/network/subnets/"+key, `{"PublicIP":"192.168.0.3","BackendType":"vxlan","NodeName":"n3"}`)
		require.NoError(t, err)
	}
	const narrow = `{"Network": "10.5.0.0/17"}`
	_, err = twill(t, narrow, "config", "set", "-")
	require.EqualError(t, err, "this config takes subnets away (--force writes it all the same):\n"+
		"  10.5.200.0-24 of n3: its subnet 10.5.200.0/24 is not in the network 10.5.0.0/17")
	_, err = twill(t, narrow, "config", "set", "--force", "-")
	require.NoError(t, err)
	out, err = twill(t, "", "config", "get")
	require.NoError(t, err)
	require.Equal(t, narrow+"\n", out)

	// One that holds a node's address would cut it off: that cannot be meant.
	for _, force := range []string{"--force", "--force=false"} {
		_, err = twill(t, `{"Network": "192.168.0.0/16"}`, "config", "set", force, "-")
		require.ErrorContains(t, err, "pods and nodes need networks apart, choose another:\n  the network 192.168.0.0/16 holds the address 192.168.0.3 of node n3")
	}

	_, err = twill(t, "", "reserve", "--node", "n9", "10.99.0.0/24")
	require.EqualError(t, err, "reserving 10.99.0.0-24: its subnet 10.99.0.0/24 is not in the network 10.5.0.0/17")
	_, err = twill(t, "", "reserve", "--node", "n9", "10.5.9.0/24", "fd00:5::/64")
	require.EqualError(t, err, "reserving 10.5.9.0-24&fd00:5::-64: the network config wants IPv4, the lease has IPv4 and IPv6")
}

func TestUsageErrors(t *testing.T) {
	t.Setenv("TWILLD_ETCD_ENDPOINTS", "http://127.0.0.1:1")
	for _, tt := range []struct {
		args []string
		err  string
	}{
		{[]string{"release"}, "usage: twill release SUBNET|NODE"},
		{[]string{"release", "a", "b"}, "usage: twill release SUBNET|NODE"},
		{[]string{"config", "set"}, "usage: twill config set FILE|-"},
		{[]string{"reserve"}, "usage: twill reserve --node NAME SUBNET [IPV6-SUBNET]"},
		{[]string{"reserve", "10.5.3.0/24"}, "whom the subnet is for is missing: give --node, or --public-ip for a flannel node"},
		{[]string{"reserve", "--node=a", "10.5.3.0"}, `"10.5.3.0" is not a subnet such as 10.244.3.0/24 or fd00:244:0:3::/64`},
		{[]string{"reserve", "--node=a", "10.5.3.1/24"}, "10.5.3.1/24 has host bits set; its subnet is 10.5.3.0/24"},
		{[]string{"reserve", "--node=a", "10.5.3.0/24", "10.5.4.0/24"}, "10.5.4.0/24 is a second IPv4 subnet; a node has one of each family"},
		{[]string{"reserve", "--public-ip=a", "10.5.3.0/24"}, `--public-ip "a" is not an address`},
		{[]string{"reserve", "--public-ip=fd00::1,fd00::2", "10.5.3.0/24"}, "--public-ip fd00::2 is a second IPv6 address; a node has one of each family"},
		{[]string{"leases", "-o", "xml"}, `--output "xml" is not table or json`},
		{[]string{"leases", "--etcd-keyfile=key"}, "--etcd-certfile and --etcd-keyfile belong together: give both or neither"},
		{[]string{"leases"}, `listing the leases under /coreos.com/network/subnets/: connection error: desc = "transport: Error while dialing: dial tcp 127.0.0.1:1: connect: connection refused"`},
		{[]string{"config", "get"}, `reading /coreos.com/network/config: connection error: desc = "transport: Error while dialing: dial tcp 127.0.0.1:1: connect: connection refused"`},
	} {
		_, err := twill(t, "", tt.args...)
		require.EqualError(t, err, tt.err, "%v", tt.args)
	}
}

// Who has not said where etcd is may be in a cluster, where there is none.
func TestNoEtcdWhereNobodySaid(t *testing.T) {
	refused := errors.New("dial tcp 127.0.0.1:2379: connect: connection refused")
	here := etcd.DefaultConfig().Endpoints
	require.EqualError(t, nowhere(refused, here), "dial tcp 127.0.0.1:2379: connect: connection refused; there is no etcd at http://127.0.0.1:2379, the default of --etcd-endpoints; "+
		"on Kubernetes the leases are the Nodes: kubectl get nodes -o yaml")
	require.Equal(t, refused, nowhere(refused, []string{"http://127.0.0.1:1"}))
	require.NoError(t, nowhere(nil, here))
	other := errors.New("permission denied")
	require.Equal(t, other, nowhere(other, here))
}

func TestReservationOfOneFamily(t *testing.T) {
	both := []byte(`{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:5::/48"}`)
	l, err := reservation("n1", nil, []string{"10.5.3.0/24"})
	require.NoError(t, err)
	require.EqualError(t, reservable(both, l), "reserving 10.5.3.0-24: give an IPv6 subnet, too, such as fd00:5:0:1::/64: the network has one of each family")
	l, err = reservation("n1", nil, []string{"10.5.3.0/24", "fd00:5:0:3::/64"})
	require.NoError(t, err)
	require.NoError(t, reservable(both, l))
}
