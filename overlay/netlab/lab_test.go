package netlab_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

func TestUnderlay(t *testing.T) {
	lab := netlabtest.New(t, netlab.Options{Log: t.Output()})
	for _, from := range lab.Nodes {
		for _, to := range []*netlab.Host{&lab.Node(1).Host, &lab.Node(3).Host, lab.Lan, lab.Outside} {
			for _, addr := range to.Addrs {
				_, err := from.Ping(t.Context(), addr, 1500)
				require.NoError(t, err, "%s to %s", from.Name, to.Name)
			}
		}
	}
}
