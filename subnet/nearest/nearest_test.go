package nearest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet/nearest"
)

func TestName(t *testing.T) {
	t.Parallel()
	names := []string{"Network", "IPv6Network", "SubnetLen", "SubnetMin", "Backend", "VNI", "Port", "GBP"}
	for meant, want := range map[string]string{
		"Netwrok":         "Network",
		"network":         "Network",
		"Ntwork":          "Network",
		"Networks":        "Network",
		"IPv6Netwrok":     "IPv6Network",
		"Bakend":          "Backend",
		"SubnetLne":       "SubnetLen",
		"VMI":             "VNI",
		"prot":            "Port",
		"GB":              "",
		"X":               "",
		"":                "",
		"Nonsense":        "",
		"NetworkNetworks": "",
	} {
		require.Equal(t, want, nearest.Name(meant, names), meant)
	}
	require.Empty(t, nearest.Name("Network", nil))
}
