package vxlan_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet"
)

func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	const (
		key  = "10.244.7.0-24"
		data = `"BackendData":{"VNI":1,"VtepMAC":"aa:bb:cc:00:00:04"}`
	)
	for _, tt := range []struct {
		name, key, value, err string
	}{
		{"subnet outside the network", "10.245.7.0-24", `{"PublicIP":"192.0.2.7","BackendType":"vxlan",` + data + `}`, "its subnet 10.245.7.0/24 is not in the network 10.244.0.0/16"},
		{"subnet larger than the network", "10.244.0.0-15", `{"PublicIP":"192.0.2.7","BackendType":"vxlan",` + data + `}`, "its subnet 10.244.0.0/15 is not in the network 10.244.0.0/16"},
		{
			"one of two subnets outside", "10.244.7.0-24&fd00:245:0:7::-64", `{"PublicIP":"192.0.2.7","BackendType":"vxlan",` + data + `}`,
			"its subnet fd00:245:0:7::/64 is not in the network fd00:244::/48",
		},
		{"another backend", key, `{"PublicIP":"192.0.2.7","BackendType":"host-gw"}`, `its backend type "host-gw" is not "vxlan"`},
		{"no BackendData", key, `{"PublicIP":"192.0.2.7","BackendType":"vxlan"}`, "it has no BackendData"},
		{"null BackendData", key, `{"PublicIP":"192.0.2.7","BackendType":"vxlan","BackendData":null}`, "it has no BackendData"},
		{
			"not an object", key, `{"PublicIP":"192.0.2.7","BackendType":"vxlan","BackendData":"x"}`,
			`its BackendData: not an object like {"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`,
		},
		{"no VNI", key, `{"PublicIP":"192.0.2.7","BackendType":"vxlan","BackendData":{"VtepMAC":"aa:bb:cc:00:00:04"}}`, "its BackendData: VNI is missing"},
		{"no MAC", key, `{"PublicIP":"192.0.2.7","BackendType":"vxlan","BackendData":{"VNI":1}}`, "its BackendData: VtepMAC is missing"},
		{
			"another VNI", key, `{"PublicIP":"192.0.2.7","BackendType":"vxlan","BackendData":{"VNI":2,"VtepMAC":"aa:bb:cc:00:00:04"}}`,
			"its BackendData: VNI 2 is not this network's 1",
		},
		{
			"multicast MAC", key, `{"PublicIP":"192.0.2.7","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}}`,
			"its BackendData: VtepMAC 01:00:5e:00:00:01 is not a unicast address",
		},
		{
			"zero MAC", key, `{"PublicIP":"192.0.2.7","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"00:00:00:00:00:00"}}`,
			"its BackendData: VtepMAC 00:00:00:00:00:00 is not a unicast address",
		},
		{
			"broken data for the other family", key, `{"PublicIP":"192.0.2.7","BackendType":"vxlan",` + data + `,"BackendV6Data":{"VNI":1,"VtepMAC":"hello"}}`,
			`its BackendV6Data: VtepMAC "hello" is not a MAC address`,
		},
		{"no public IP", key, `{"NodeName":"b","BackendType":"vxlan",` + data + `}`, "it has no public IP of the family of its BackendData"},
		{
			"public IP of the other family", key, `{"PublicIPv6":"2001:db8::7","BackendType":"vxlan",` + data + `}`,
			"it has no public IP of the family of its BackendData",
		},
		{"its own public IP in its subnet", key, `{"PublicIP":"10.244.7.1","BackendType":"vxlan",` + data + `}`, "its subnet 10.244.7.0/24 holds its own public IP 10.244.7.1"},
		{
			"our address in its subnet", "10.244.7.0-24&fd00:244:0:1::-64", `{"PublicIP":"192.0.2.7","BackendType":"vxlan",` + data + `}`,
			"its subnet fd00:244:0:1::/64 holds this node's address fd00:244:0:1::9",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newNode(t, config(t, overlayDual, ""), underlay("192.0.2.1", "fd00:244:0:1::9"), "a", 1)
			peer := flannel(t, tt.key, tt.value)
			claims, err := a.Check(peer)
			require.EqualError(t, err, tt.err)
			require.Empty(t, claims)
		})
	}
}

// A node that has a subnet of the other family alone is no peer of ours.
func TestCheckRefusesTheOtherFamily(t *testing.T) {
	t.Parallel()
	a := newNode(t, config(t, overlayV4, ""), underlay("192.0.2.1", "2001:db8::1"), "a", 1)
	b := newNode(t, config(t, overlayV6, ""), underlay("192.0.2.2", "2001:db8::2"), "b", 2)
	_, err := a.Check(b.lease)
	require.EqualError(t, err, "it has no subnet of a family that is on")
}

func TestCheckClaims(t *testing.T) {
	t.Parallel()
	a := newNode(t, config(t, overlayDual, ""), underlay("192.0.2.1", "2001:db8::1"), "a", 1)
	claims, err := a.Check(a.lease)
	require.NoError(t, err, "what a node announces, a node takes")
	require.Equal(t, []string{"VTEP MAC " + macA4 + " (IPv4 tunnel)", "VTEP MAC " + macA6 + " (IPv6 tunnel)"}, claims)

	claims, err = a.Check(flannel(t, "10.244.7.0-24", `{"PublicIP":"192.0.2.7","BackendType":"vxlan","BackendData":{"VtepMAC":"AA:BB:CC:00:00:04","VNI":1}}`))
	require.NoError(t, err)
	require.Equal(t, []string{"VTEP MAC aa:bb:cc:00:00:04 (IPv4 tunnel)"}, claims, "one thing has one spelling")
}

// One bad record is refused by name with its reason, and the others are peers.
func TestRefusedByName(t *testing.T) {
	t.Parallel()
	a := newNode(t, config(t, overlayDual, ""), underlay("192.0.2.1", "2001:db8::1"), "a", 1)
	var records []subnet.Record
	for i, r := range []struct{ key, value string }{
		{"10.244.2.0-24", `{"PublicIP":"192.0.2.2","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"aa:bb:cc:00:00:02"}}`},
		{"10.244.3.0-24", `{"PublicIP":"192.0.2.3","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"aa:bb:cc:00:00:02"}}`},                                           // the MAC of .2
		{"10.244.4.0-24", `{"PublicIP":"192.0.2.4","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"` + macA4 + `"}}`},                                               // our MAC
		{"10.244.5.0-24", `{"PublicIP":"192.0.2.5","PublicIPv6":"2001:db8::5","BackendType":"vxlan","BackendV6Data":{"VNI":1,"VtepMAC":"` + macA4 + `"}}`},                  // our MAC in the other tunnel: no harm
		{"10.244.6.0-24", `{"PublicIP":"192.0.2.6","NodeName":"six","BackendType":"vxlan","BackendData":{"VNI":7,"VtepMAC":"aa:bb:cc:00:00:06"}}`},                          // another VNI
		{"10.244.1.0-24", `{"PublicIP":"192.0.2.7","NodeName":"seven","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"aa:bb:cc:00:00:07"}}`},                        // our subnet
		{"10.244.8.0-24&fd00:244:0:8::-64", `{"PublicIP":"192.0.2.1","NodeName":"eight","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"aa:bb:cc:00:00:08"}}`},      // our public IP
		{"10.244.9.0-24&fd00:244:0:9::-64", `{"PublicIPv6":"2001:db8::9","NodeName":"nine","BackendType":"vxlan","BackendV6Data":{"VNI":1,"VtepMAC":"aa:bb:cc:00:00:02"}}`}, // as .2's, in the other tunnel: no harm
	} {
		records = append(records, subnet.Record{Key: r.key, Lease: flannel(t, r.key, r.value), Created: int64(i)})
	}
	s := subnet.NewSnapshot("a")
	s.SetOwn(a.lease, a.Check)
	s.Replace(records)
	require.Equal(t, []string{"192.0.2.2", "192.0.2.5", "nine"}, s.Peers())
	require.Equal(t, []subnet.Refusal{
		{Key: "10.244.1.0-24", Node: "seven", Reason: "its subnet 10.244.1.0/24 overlaps 10.244.1.0/24 of this node"},
		{Key: "10.244.3.0-24", Node: "192.0.2.3", Reason: "its VTEP MAC aa:bb:cc:00:00:02 (IPv4 tunnel) is also that of node 192.0.2.2, whose lease is older"},
		{Key: "10.244.4.0-24", Node: "192.0.2.4", Reason: "its VTEP MAC " + macA4 + " (IPv4 tunnel) is also that of this node"},
		{Key: "10.244.6.0-24", Node: "six", Reason: "its BackendData: VNI 7 is not this network's 1"},
		{Key: "10.244.8.0-24&fd00:244:0:8::-64", Node: "eight", Reason: "its public IP 192.0.2.1 is also that of this node"},
	}, s.Refused())
}
