package confdir

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestForeign(t *testing.T) {
	const ours, cilium = `{"name":"cbr0","cniVersion":"1.0.0","plugins":[{"type":"twill"},{"type":"portmap"}]}`, `{"name":"cilium","cniVersion":"1.0.0","plugins":[{"type":"cilium-cni"},{"type":"portmap"}]}`
	const loopback = `{"name":"lo","cniVersion":"1.0.0","type":"loopback"}`
	const multus = "00-multus.conf"
	cluster := func(network string) string {
		return `{"name":"multus-cni-network","cniVersion":"0.3.1","type":"multus-shim","clusterNetwork":"` + network + `"}`
	}
	copied := func(of string) string {
		return `{"name":"multus-cni-network","cniVersion":"0.3.1","type":"multus","delegates":[` + of + `]}`
	}
	for name, c := range map[string]struct {
		files          map[string]string
		before, behind []string
	}{
		"nothing":                          {},
		"ours alone":                       {files: map[string]string{"10-twill.conflist": ours}},
		"before":                           {files: map[string]string{"10-twill.conflist": ours, "05-cilium.conflist": cilium}, before: []string{"05-cilium.conflist (network cilium, cilium-cni+portmap)"}},
		"behind":                           {files: map[string]string{"10-twill.conflist": ours, "87-cilium.conflist": cilium}, behind: []string{"87-cilium.conflist (network cilium, cilium-cni+portmap)"}},
		"before ours to come":              {files: map[string]string{"05-cilium.conflist": cilium}, before: []string{"05-cilium.conflist (network cilium, cilium-cni+portmap)"}},
		"another's alone":                  {files: map[string]string{"87-cilium.conflist": cilium}, behind: []string{"87-cilium.conflist (network cilium, cilium-cni+portmap)"}},
		"a runtime's own":                  {files: map[string]string{"10-twill.conflist": ours, "05-lo.conf": loopback}},
		"broken":                           {files: map[string]string{"10-twill.conflist": ours, "05-x.conf": "{"}, before: []string{"05-x.conf (which no runtime can read)"}},
		"what nobody reads":                {files: map[string]string{"10-twill.conflist": ours, "05-x.conf.bak": cilium}},
		"a file of flannels":               {files: map[string]string{"10-flannel.conflist": `{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel"}]}`, "10-twill.conflist": ours}, before: []string{"10-flannel.conflist (network cbr0, flannel)"}},
		"Multus on ours by file":           {files: map[string]string{"10-twill.conflist": ours, multus: cluster("/host/etc/cni/net.d/10-twill.conflist"), "05-cilium.conflist": cilium}, behind: []string{"05-cilium.conflist (network cilium, cilium-cni+portmap)"}},
		"Multus on ours by name":           {files: map[string]string{"10-twill.conflist": ours, multus: cluster("cbr0")}},
		"Multus on ours to come":           {files: map[string]string{multus: cluster("/etc/cni/net.d/10-twill.conflist")}},
		"Multus with a copy of ours":       {files: map[string]string{"10-twill.conflist": ours, multus: copied(ours)}},
		"Multus with a copy of our plugin": {files: map[string]string{"10-twill.conflist": ours, multus: copied(`{"type":"twill"}`)}},
		"Multus on another":                {files: map[string]string{"10-twill.conflist": ours, multus: cluster("/etc/cni/net.d/05-cilium.conflist")}, before: []string{"00-multus.conf (network multus-cni-network, multus-shim)"}},
		"Multus with a copy of another":    {files: map[string]string{"10-twill.conflist": ours, multus: copied(cilium + "," + ours)}, before: []string{"00-multus.conf (network multus-cni-network, multus)"}},
		"Multus on nothing":                {files: map[string]string{"10-twill.conflist": ours, multus: copied("")}, before: []string{"00-multus.conf (network multus-cni-network, multus)"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range c.files {
				require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644))
			}
			before, behind, ours, err := Foreign(dir, "10-twill.conflist")
			require.NoError(t, err)
			require.Equal(t, c.files["10-twill.conflist"] != "", ours)
			require.Equal(t, c.before, before)
			require.Equal(t, c.behind, behind)
		})
	}
	_, _, _, err := Foreign(filepath.Join(t.TempDir(), "missing"), "")
	require.NoError(t, err, "nothing is there")
}
