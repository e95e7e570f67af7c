package cni_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/cni"
	"github.com/twill-net/twill/subnet/envfile"
)

// FuzzConf: whatever a runtime writes, an accepted config becomes a delegate's
// with our name, version, IPAM and not ourselves, also for plugins that decode
// without regard to case; and DEL can do without subnet.env.
func FuzzConf(f *testing.F) {
	e, err := envfile.Parse([]byte(dualEnv))
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, stdin []byte) {
		conf, err := cni.Load(stdin)
		if err != nil {
			return
		}
		var keys map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(stdin, &keys))
		if conf.HasPrevResult() {
			require.Contains(t, keys, "prevResult")
		}
		if listed, err := conf.ListsAttachments(); err == nil && listed {
			require.True(t, keys["cni.dev/valid-attachments"] != nil || keys["cni.dev/attachments"] != nil, "never a list of our own")
		}
		valid := conf.Validate() == nil
		if d, err := conf.Delegate(e, ""); valid && err == nil {
			checkDelegate(t, conf, d, "10.5.52.0/24")
		}
		for _, known := range []*envfile.Env{nil, &e} {
			d, err := conf.Attached(known, nil, nil)
			if valid {
				require.NoError(t, err)
				checkDelegate(t, conf, d, "")
			}
		}
	})
}

func checkDelegate(t *testing.T, conf cni.Conf, d cni.Delegate, sub string) {
	t.Helper()
	var got struct {
		CNIVersion, Name, Type string
		IPMasq                 bool
		IPAM                   struct {
			Type   string
			Subnet *string
			Ranges [][]struct{ Subnet string }
		}
	}
	require.NoError(t, json.Unmarshal(d.JSON, &got))
	require.Equal(t, conf.CNIVersion, got.CNIVersion)
	require.Equal(t, conf.Name, got.Name)
	require.Equal(t, d.Type, got.Type)
	require.Equal(t, d.Masquerades, got.IPMasq)
	require.NotEqual(t, conf.Type, got.Type)
	require.NotEmpty(t, got.Type)
	require.NotEmpty(t, got.IPAM.Type)
	require.Nil(t, got.IPAM.Subnet)
	if sub != "" {
		require.Equal(t, sub, got.IPAM.Ranges[0][0].Subnet)
	}
}
