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

func TestKubeReport(t *testing.T) {
	t.Parallel()
	r := &Report{
		Load: "0.1 0.2 0.3",
		Kube: &Kube{
			Peers: 5000, List: []float64{500}, ListBytes: 52e6, Ready: []float64{3100}, FirstRoute: []float64{2900}, Cold: []float64{3200}, ColdCPU: []float64{900},
			RSS: []float64{60}, RSSAnon: []float64{39}, One: One{Event: []float64{4}, Add: []float64{6}, Change: []float64{8}, Delete: []float64{5}},
			Quiet: []float64{0.2}, Beating: []float64{1}, Beats: 16, BeatsAnon: []float64{41},
		},
		Control: []*Control{
			{Daemon: peerName, Peers: 5000, Cold: []float64{5000}},
			{Daemon: "twill", Peers: 1000, Cold: []float64{100}},
			{Daemon: "twill", Peers: 5000, Cold: []float64{400}, One: One{Event: []float64{1}, Add: []float64{1.5}}},
		},
	}
	var text strings.Builder
	r.Markdown(&text)
	for _, line := range []string{
		"| Nodes | 5000 | 3100 [3100–3100] | 2900 [2900–2900] | 3200 [3200–3200] | 900 [900–900] | 60.0 [60.0–60.0] | 39.0 [39.0–39.0] |",
		"| etcd | 5000 | – | – | 400 [400–400] | – | – | – |",
		"| Nodes | 4.00 / 4.00 | 6.00 / 6.00 | 1.50 | 8.00 / 8.00 | 2.00 | 5.00 / 5.00 | 1.25 |",
		"| etcd | 1.00 / 1.00 | 1.50 / 1.50 | 1.50 |",
		"500 µs each", // 0.8 % of a core for 16 a second
		"| Kubernetes: ready after the process start, the first list included, ms, 5000 Nodes | 3.1e+03 | 3e+03 | **missed** |",
		"| Kubernetes: anonymous memory, MiB, 5000 Nodes | 39 | 40 | met |",
		"| Kubernetes: anonymous memory while kubelets tell their status, MiB, 5000 Nodes | 41 | 40 | **missed** |",
	} {
		require.Contains(t, text.String(), line)
	}

	// A run that was cut short says what it has, and misses nothing.
	cut := &Report{Load: "0", Kube: &Kube{Peers: 5000, List: []float64{500}}}
	require.Empty(t, cut.bars())
	require.NotPanics(t, func() { cut.Markdown(&strings.Builder{}) })
}

func TestIdleReport(t *testing.T) {
	t.Parallel()
	r := &Report{Load: "0", Idle: []*Idle{
		{Daemon: "twill", Peers: 100, Seconds: 60, CPU: 0.06, Looks: 0.02, Wakeups: 3},
		{Daemon: peerName, Peers: 100, Seconds: 60, CPU: 0.7, Looks: 0.1, Children: 2},
		{Daemon: "twill", Peers: 20000, Seconds: 60, CPU: 0.9, Looks: 0.85, Children: 1},
	}}
	require.Equal(t, []bar{
		{"child processes, idle, 100 peers", 0, 0}, {"idle CPU, % of a core, 100 peers", 0.06, 0.05}, {"child processes, idle, 20000 peers", 1, 0},
	}, r.bars(), "with many peers it is printed, and no bar")
	var text strings.Builder
	r.Markdown(&text)
	require.Contains(t, text.String(), "| twill | 20000 | 0.900 | 0.850 | 0.050 | 255.0 |")
	require.Contains(t, text.String(), "| peer | 100 | 0.700 | 0.100 | 0.600 | – |")
}

// What comes every half minute is found wherever it falls, also across the end
// of the half minute; what comes once is not what comes every time.
func TestBusiest(t *testing.T) {
	t.Parallel()
	for first := range 30 {
		values := make([]float64, 60)
		values[(first+15)%30] = 50 // once
		for _, at := range []int{first, first + 30} {
			values[at] += 40
			values[(at+2)%60] += 10
		}
		require.InDelta(t, 100, busiest(values), 1e-9, "from second %d on", first)
	}
	require.Zero(t, busiest(nil))
}

func TestParts(t *testing.T) {
	t.Parallel()
	names := func(o Options) (all []string) {
		for _, p := range parts {
			if p.runs(o) {
				all = append(all, p.name)
			}
		}
		return all
	}
	require.Equal(t, []string{"control", "repair", "survival", "datapath", "cni", "kube", "idle"}, names(Full()))
	require.Equal(t, []string{"control", "repair", "survival", "datapath", "cni"}, names(Quick()))
	peer := Full()
	peer.Peer = "/flanneld"
	require.Equal(t, []string{"control", "repair", "survival", "datapath", "cni", "idle"}, names(peer))
	quick := Quick()
	quick.Only = []string{"soak", "kube"}
	require.Equal(t, []string{"kube", "soak"}, names(quick), "what is asked for")
}
