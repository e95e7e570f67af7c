package kube

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/twill-net/twill/subnet"
)

// names are the annotations of a Node. Those that flannel does not know are
// ours alone: source, machineID.
type names struct {
	prefix      string // of them all
	managed     string // "true" where a daemon announced the rest
	backendType string
	machineID   string
	backendData subnet.PerFamily[string]
	publicIP    subnet.PerFamily[string]
	source      subnet.PerFamily[string]
	overwrite   subnet.PerFamily[string] // read only: announce this address instead
	local       subnet.PerFamily[string] // read only: use the interface with this address
}

// newNames joins the prefix and the names as flannel does: "a.b" with a slash,
// "a.b/c" with a dash, "a.b/" and "a.b/c-" as they are.
func newNames(prefix string) (names, error) {
	switch {
	case !strings.Contains(prefix, "/"):
		prefix += "/"
	case !strings.HasSuffix(prefix, "/") && !strings.HasSuffix(prefix, "-"):
		prefix += "-"
	}
	n := names{
		prefix:  prefix,
		managed: prefix + "kube-subnet-manager", backendType: prefix + "backend-type", machineID: prefix + "machine-id",
		backendData: subnet.PerFamily[string]{prefix + "backend-data", prefix + "backend-v6-data"},
		publicIP:    subnet.PerFamily[string]{prefix + "public-ip", prefix + "public-ipv6"},
		source:      subnet.PerFamily[string]{prefix + "source-ip", prefix + "source-ipv6"},
		overwrite:   subnet.PerFamily[string]{prefix + "public-ip-overwrite", prefix + "public-ipv6-overwrite"},
		local:       subnet.PerFamily[string]{prefix + "node-public-ip", prefix + "node-public-ipv6"},
	}
	if wrong := validation.IsQualifiedName(n.overwrite[subnet.IPv6]); len(wrong) > 0 { // the longest
		return names{}, fmt.Errorf("--kube-annotation-prefix makes %q, which cannot be an annotation: %s", n.overwrite[subnet.IPv6], strings.Join(wrong, "; "))
	}
	return n, nil
}
