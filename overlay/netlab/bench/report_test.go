package bench

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestQuantile(t *testing.T) {
	t.Parallel()
	values := []float64{4, 1, 3, 2}
	require.InDelta(t, 2.5, median(values), 1e-9)
	require.InDelta(t, 1, quantile(values, 0), 1e-9)
	require.InDelta(t, 4, quantile(values, 1), 1e-9)
	require.InDelta(t, 3.97, quantile(values, 0.99), 1e-9)
	require.Zero(t, median(nil))
	require.Equal(t, []float64{4, 1, 3, 2}, values, "the order of the caller stays")
}

func TestReport(t *testing.T) {
	t.Parallel()
	r := &Report{
		Load:   "0.1 0.2 0.3",
		Limits: []*ControlLimit{{Peers: 1000, List: []float64{10}, Apply: []float64{50}, Batched: []float64{20}, Put: []float64{80}}, {Peers: 20000, List: []float64{100}, Apply: []float64{500}, Put: []float64{80}}},
		Control: []*Control{
			{Daemon: "twill", Peers: 20000, Cold: []float64{2700}, Warm: []float64{600}, WarmWrites: []float64{0}, One: One{Event: []float64{1}, Add: []float64{1.5, 1.6, 1.7}}},
			{Daemon: peerName, Peers: 20000, Cold: []float64{28000}, One: One{Event: []float64{1}, Add: []float64{4}}},
		},
		Paths: []*Path{
			{Target: "host", Test: "tcprr1", Unit: "µs", Better: "lower", Value: []float64{12}},
			{Target: "twill", Test: "tcprr1", Unit: "µs", Better: "lower", Bar: true, Value: []float64{24}, Ratio: []float64{2.0}},
			{Target: "hand-made", Test: "tcprr1", Unit: "µs", Better: "lower", Value: []float64{23}, Ratio: []float64{1.9}},
		},
	}
	var text strings.Builder
	r.Markdown(&text)
	for _, line := range []string{
		"| 20000 | 100.0 [100.0–100.0] | – | 500.0 [500.0–500.0] | 600.0 | 80 [80–80] |",
		"| cold start, × the limit, 20000 peers | 4.5 | 4 | **missed** |",
		"| warm restart, × the limit, 20000 peers | 1 | 3 | met |",
		"| warm restart: kernel writes, 20000 peers | 0 | 0 | met |",
		"| one new peer, × the watch event, 20000 peers | 1.6 | 1.8 | met |",
		"| tcprr1: cost over the hand-made VXLAN, × | 1.05 | 1.03 | **missed** |",
	} {
		require.Contains(t, text.String(), line)
	}
	plots := r.Plots()
	require.Len(t, plots, 3)
	for name, svg := range plots {
		d := xml.NewDecoder(strings.NewReader(svg))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err, name)
		}
		require.NotContains(t, svg, "NaN", name)
		require.NotContains(t, svg, "Inf", name)
	}
}

func TestPathCosts(t *testing.T) {
	t.Parallel()
	r := &Report{Paths: []*Path{
		{Target: "twill", Test: "crr1", Better: higher, Bar: true, Ratio: []float64{0.5, 0.4}},
		{Target: handTarget, Test: "crr1", Better: higher, Bar: true, Ratio: []float64{0.55, 0.42}},
		{Target: peerName, Test: "crr1", Better: higher, Bar: true, Ratio: []float64{0.25, 0.4}},
		{Target: "twill", Test: "crr1 p99", Better: lower, Ratio: []float64{2, 3}},
		{Target: handTarget, Test: "crr1 p99", Better: lower, Ratio: []float64{1, 1}},
	}}
	require.InDeltaSlice(t, []float64{1.1, 1.05}, r.Paths[0].over(r.Paths[1]), 1e-9)
	require.InDeltaSlice(t, []float64{2, 3}, r.Paths[3].over(r.Paths[4]), 1e-9)
	require.Empty(t, r.Paths[0].over(r.path(nakedTarget, "crr1")))
	bars := r.pathBars()
	require.Len(t, bars, 2)
	require.InDelta(t, 1.075, bars[0].have, 1e-9)
	require.InDelta(t, 0.75, bars[1].have, 1e-9)
}

// A daemon that keeps three octets of each lease event does not pass the soak;
// one whose memory comes and goes does.
func TestSoakBar(t *testing.T) {
	t.Parallel()
	soak := func(of func(twentieth float64) float64) *Soak {
		s := &Soak{Events: soakEvents}
		for i := range 20 {
			s.RSSAnon = append(s.RSSAnon, of(float64(i+1)/20))
		}
		return s
	}
	leak := 3.0 * soakEvents / (1 << 20)
	require.Equal(t, "**missed**", soak(func(at float64) float64 { return 12 + leak*at }).bar().verdict())
	swing := []float64{-2, 1.5, 0, -1, 2}
	require.Equal(t, "met", soak(func(at float64) float64 { return 12 + swing[int(at*20)%len(swing)] }).bar().verdict())
}
