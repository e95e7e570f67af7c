package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"

	"github.com/twill-net/twill/subnet"
)

// record returns what a Node says as a lease; announced is whether any daemon
// ever announced one there. It never fails: what cannot be used says why. It
// keeps nothing of the Node but strings.
func (k names) record(n *corev1.Node) (r subnet.Record, announced bool) {
	a := n.Annotations
	if a[k.managed] != "true" {
		return subnet.Record{}, false
	}
	version, _ := strconv.ParseInt(n.ResourceVersion, 10, 64) // 0 orders nothing, and nothing needs an order: a node has one record
	r = subnet.Record{Key: n.Name, Created: n.CreationTimestamp.Unix(), Modified: version, Reserved: true}
	r.Lease.Node = n.Name
	fail := func(err error) {
		if err != nil && r.Invalid == "" {
			r.Invalid = err.Error()
		}
	}
	var err error
	if r.Lease.Subnets, err = podCIDRs(n.Spec); err == nil && r.Lease.Subnets == (subnet.PerFamily[netip.Prefix]{}) {
		err = errNoPodCIDRs
	}
	fail(err)
	r.Lease.BackendType, err = word(a, k.backendType)
	fail(err)
	if err == nil && r.Lease.BackendType == "" {
		fail(fmt.Errorf("annotation %s is missing", k.backendType))
	}
	r.Lease.MachineID, err = word(a, k.machineID)
	fail(err)
	for _, f := range subnet.Families {
		r.Lease.PublicIPs[f], err = host(a, k.publicIP[f], f)
		fail(err)
		r.Lease.Sources[f], err = host(a, k.source[f], f)
		fail(err)
		r.Lease.BackendData[f], err = data(a, k.backendData[f])
		fail(err)
	}
	return r, true
}

var errNoPodCIDRs = errors.New("the Node has no spec.podCIDRs")

// podCIDRs returns the Node's subnets, at most one for each family; none is no
// error.
func podCIDRs(spec corev1.NodeSpec) (subnets subnet.PerFamily[netip.Prefix], err error) {
	list := spec.PodCIDRs
	if len(list) == 0 && spec.PodCIDR != "" {
		list = []string{spec.PodCIDR}
	}
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil || p.Addr().Is4In6() {
			return subnets, fmt.Errorf("the Node's spec.podCIDRs: %.64q is no prefix such as 10.244.3.0/24", s)
		}
		f := subnet.FamilyOf(p.Addr())
		if subnets[f].IsValid() {
			return subnets, fmt.Errorf("the Node's spec.podCIDRs: %s and %s are both %s", subnets[f], p, f)
		}
		subnets[f] = p.Masked() // as the kubelet and IPAM read it
	}
	return subnets, nil
}

// word reads a name. Those go to logs, metrics and terminals, so that they have
// to be short and plain.
func word(a map[string]string, name string) (string, error) {
	const longest = 253 // as everywhere in Kubernetes
	s := a[name]
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' || r == unicode.ReplacementChar }
	if len(s) > longest || strings.ContainsFunc(s, odd) {
		return "", fmt.Errorf("annotation %s: %.64q is not a name: at most %d bytes, printable and without spaces", name, s, longest)
	}
	return s, nil
}

// host reads the address of a node; the zero one where there is none. 0.0.0.0
// is what flannel writes for none.
func host(a map[string]string, name string, f subnet.Family) (netip.Addr, error) {
	s, ok := a[name]
	if !ok || s == "" {
		return netip.Addr{}, nil
	}
	ip, err := netip.ParseAddr(s)
	switch {
	case err != nil || ip.Zone() != "" || ip.Is4In6() || subnet.FamilyOf(ip) != f:
		return netip.Addr{}, fmt.Errorf("annotation %s: %.64q is not an %s address", name, s, f)
	case ip.IsUnspecified():
		return netip.Addr{}, nil
	case ip.IsMulticast() || ip.IsLoopback() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Addr{}, fmt.Errorf("annotation %s: %s cannot be the address of a node", name, ip)
	}
	return ip, nil
}

// data reads the backend's data, JSON, in its compact form; "" for none, which
// flannel may write as null.
func data(a map[string]string, name string) (string, error) {
	s, ok := a[name]
	if !ok || s == "" || s == "null" {
		return "", nil
	}
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(s)); err != nil {
		return "", fmt.Errorf("annotation %s: %.64q is not JSON", name, s)
	}
	return b.String(), nil
}
