package kube

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/twill-net/twill/subnet"
)

// FuzzRecord reads whatever stands at a Node: nothing panics, what is not
// refused has what it claims to have, and is the same when it is announced.
func FuzzRecord(f *testing.F) {
	f.Add("10.244.1.0/24", "fd00::/64", "vxlan", `{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`, "null", "192.0.2.1", "2001:db8::1", "", "m")
	f.Add("10.244.1.7/24", "", "host-gw", "null", " {} ", "0.0.0.0", "::ffff:192.0.2.1", "fe80::1%eth0", "")
	f.Add("::ffff:10.0.0.0/120", "10.0.0.0/8", "", "{", "[]", "224.0.0.1", "::1", "x", " ")
	k, err := newNames("flannel.alpha.coreos.com")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, cidr, cidr6, kind, data, data6, ip, ip6, source, machine string) {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: map[string]string{
			k.managed: "true", k.backendType: kind, k.machineID: machine,
			k.backendData[0]: data, k.backendData[1]: data6, k.publicIP[0]: ip, k.publicIP[1]: ip6, k.source[0]: source,
		}}}
		n.Spec.PodCIDRs = []string{cidr}
		if cidr6 != "" {
			n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, cidr6)
		}
		r, announced := k.record(n)
		if !announced || r.Key != "n" || r.Lease.ID() != "n" {
			t.Fatalf("%+v", r)
		}
		if r.Invalid != "" {
			return
		}
		if r.Lease.Subnets == (subnet.PerFamily[netip.Prefix]{}) || !r.Lease.Active() {
			t.Fatalf("not refused: %+v", r)
		}
		n.Annotations = k.announce(r.Lease)
		if again, _ := k.record(n); again != r {
			t.Fatalf("%+v\nis announced as\n%+v", r, again)
		}
	})
}
