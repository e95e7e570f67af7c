package bench

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCNIReport(t *testing.T) {
	t.Parallel()
	// The machine slows down from call to call: only pairs show what we add.
	calls := func(wall, cpu float64) Calls {
		var c Calls
		for _, slow := range []float64{0, 5, 10, 80, 90} {
			c.append(Calls{Wall: []float64{wall + slow}, CPU: []float64{cpu + slow/10}, Each: []float64{wall + slow}})
		}
		return c
	}
	r := &Report{Load: "0", CNI: []*Attach{
		{Plugin: "twill", Parallel: 1, Add: calls(22, 15), Del: calls(30, 11)},
		{Plugin: "twill", Parallel: 8, Add: calls(14, 16)},
		{Plugin: direct, Parallel: 1, Add: calls(20, 12), Del: calls(26, 9)},
		{Plugin: direct, Parallel: 8, Add: calls(12, 12)},
	}}
	r.CNI[0].Add.Each[4] = 500 // one that something else held up
	var text strings.Builder
	r.Markdown(&text)
	for _, line := range []string{
		"| CNI ADD over bridge + host-local, 1 at a time, ms | 2 | 3 | met |",
		"| CNI DEL over bridge + host-local, 1 at a time, ms | 4 | 3 | **missed** |",
		"| CNI ADD over bridge + host-local, 8 at a time, ms | 2 | 3 | met |",
		"| 1 | twill | ADD | 32.0 / 111.6 | 32.0 [27.0–102.0] | 16.0 [15.5–23.0] | 2.0 [2.0–2.0] | 3.0 [3.0–3.0] |",
		"| 1 | bridge + host-local | DEL | 36.0 / 115.6 | 36.0 [31.0–106.0] | 10.0 [9.5–17.0] | – | – |",
	} {
		require.Contains(t, text.String(), line)
	}
	require.Empty(t, (&Report{CNI: r.CNI[:1]}).cniBars(), "nothing to compare with")
	require.Empty(t, paired([]float64{1}, nil))
}
