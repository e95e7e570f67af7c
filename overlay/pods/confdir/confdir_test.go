package confdir_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/pods"
	"github.com/twill-net/twill/overlay/pods/confdir"
)

func confDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return dir
}

func TestNetworks(t *testing.T) {
	t.Parallel()
	dir := confDir(t, map[string]string{
		"10-twill.conflist":  `{"cniVersion":"1.0.0","name":"cbr0","plugins":[{"type":"twill","delegate":{"hairpinMode":true}},{"type":"portmap","capabilities":{"portMappings":true}}]}`,
		"20-blue.conf":       `{"cniVersion":"1.0.0","name":"blue","type":"twill","delegate":{"bridge":"blue0"},"ipam":{"dataDir":"/data"}}`,
		"30-ptp.json":        `{"name":"ptp","type":"twill","delegate":{"type":"ptp"},"ipam":{"type":"host-local"}}`,
		"40-folder.conflist": `{"name":"folder"}`,
		"folder/10.conf":     `{"type":"twill"}`,
		"50-macvlan.conf":    `{"name":"mac","type":"twill","delegate":{"type":"macvlan","master":"eth0"}}`,
		"51-dhcp.conf":       `{"name":"dhcp","type":"twill","ipam":{"type":"dhcp"}}`,
		"52-rel.conf":        `{"name":"rel","type":"twill","ipam":{"dataDir":"data"}}`,
		"53-odd.conf":        `{"name":"odd","type":"twill","delegate":7}`,
		"54-slash.conf":      `{"name":"../etc","type":"twill"}`,
		"60-both.conf":       `{"name":"both","type":"twill"}`,
		"61-both.conflist":   `{"name":"both","plugins":[{"type":"flannel"}]}`,
		"62-two.conf":        `{"name":"two","type":"twill"}`,
		"63-two.conf":        `{"name":"two","type":"twill","delegate":{"bridge":"two0"}}`,
		"64-more.conflist":   `{"name":"more","plugins":[{"type":"twill"},{"type":"macvlan","ipam":{"type":"host-local"}}]}`,
		"70-other.conf":      `{"name":"other","type":"bridge"}`,
		"71-half.conflist":   `{"name":"cbr0","plugins":[{"type":"tw`,
		"72-empty.conf":      ``,
		"80-twill.conflist~": `{"name":"backup","plugins":[{"type":"twill"}]}`,
	})
	require.NoError(t, os.Mkdir(filepath.Join(dir, "99.conf"), 0o755))
	require.NoError(t, os.Symlink("/nonexistent", filepath.Join(dir, "98.conf")))
	ours, left, err := confdir.Networks(dir)
	require.NoError(t, err)
	require.Equal(t, []pods.Network{
		{Name: "blue", Dir: "/data/blue", Bridge: "blue0", Gateway: true, VethFirst: true},
		{Name: "cbr0", Dir: "/var/lib/cni/networks/cbr0", Bridge: "cni0", Gateway: true, VethFirst: true},
		{Name: "folder", Dir: "/var/lib/cni/networks/folder", Bridge: "cni0", Gateway: true, VethFirst: true},
		{Name: "ptp", Dir: "/var/lib/cni/networks/ptp"},
	}, ours)
	require.Len(t, left, 8)
	for i, want := range []string{
		"network ../etc: ", "network both: .*61-both.conflist configures it too, for another plugin$",
		"network dhcp: .*51-dhcp.conf: addresses come from dhcp$", "network mac: .*: delegate macvlan may make pods without a veth$",
		"network more: .*: plugin macvlan takes addresses too$", "network odd: .*53-odd.conf: ",
		`network rel: .*: ipam.dataDir is "data", which is no absolute path$`, "network two: .*62-two.conf and .*63-two.conf configure it differently$",
	} {
		require.Regexp(t, want, left[i])
	}

	ours, left, err = confdir.Networks(filepath.Join(dir, "nowhere"))
	require.NoError(t, err)
	require.Empty(t, ours)
	require.Empty(t, left)
	_, _, err = confdir.Networks("/proc/self/status")
	require.ErrorContains(t, err, "listing CNI configs")
}
