package bench

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// Plots returns the plots of the report, by file name.
func (r *Report) Plots() map[string]string {
	plots := map[string]string{}
	cold := chart{title: "Cold start and warm restart: process start → all in the kernel", unit: "ms", log: true}
	one := chart{title: "One new peer: put → route", unit: "ms", log: true}
	for _, l := range r.Limits {
		cold.add(fmt.Sprintf("%d · limit", l.Peers), limitColor, []float64{l.total()})
		for _, c := range r.Control {
			if c.Peers != l.Peers {
				continue
			}
			cold.add(fmt.Sprintf("%d · %s cold", c.Peers, c.Daemon), color(c.Daemon), c.Cold)
			cold.add(fmt.Sprintf("%d · %s warm", c.Peers, c.Daemon), color(c.Daemon), c.Warm)
			one.add(fmt.Sprintf("%d · watch event", c.Peers), limitColor, c.One.Event)
			one.add(fmt.Sprintf("%d · %s", c.Peers, c.Daemon), color(c.Daemon), c.One.Add)
		}
	}
	path := chart{title: "Pod to pod: ratio to node to node (round trips: lower is better; others: higher)", unit: "×"}
	for _, p := range r.Paths {
		if len(p.Ratio) > 0 {
			path.add(p.Test+" · "+p.Target, color(p.Target), p.Ratio)
		}
	}
	for name, c := range map[string]chart{"cold.svg": cold, "one.svg": one, "datapath.svg": path} {
		if len(c.bars) > 0 {
			plots[name] = c.svg()
		}
	}
	return plots
}

const limitColor = "#999999"

func color(daemon string) string {
	switch daemon {
	case "twill":
		return "#1b6ca8"
	case peerName:
		return "#c8553d"
	}
	return limitColor
}

// chart is a bar chart of medians, with quartiles as whiskers.
type chart struct {
	title, unit string
	log         bool // logarithmic scale
	bars        []chartBar
}

type chartBar struct {
	label, color      string
	low, middle, high float64
}

func (c *chart) add(label, color string, values []float64) {
	if len(values) > 0 && median(values) > 0 {
		c.bars = append(c.bars, chartBar{label, color, quantile(values, 0.25), median(values), quantile(values, 0.75)})
	}
}

// svg draws the chart; the sizes are pixels.
func (c *chart) svg() string {
	const left, width, row, top = 190, 480, 20, 34
	most := slices.MaxFunc(c.bars, func(a, b chartBar) int { return int(math.Copysign(1, a.high-b.high)) }).high
	least := slices.MinFunc(c.bars, func(a, b chartBar) int { return int(math.Copysign(1, a.low-b.low)) }).low
	x := func(v float64) float64 {
		if c.log {
			low := math.Floor(math.Log10(least))
			return left + width*(math.Log10(v)-low)/(math.Log10(most)-low)
		}
		return left + width*v/most
	}
	var b strings.Builder
	height := top + row*len(c.bars) + 10
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", left+width+110, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/><text x="8" y="20" font-size="14">%s</text>`+"\n", html.EscapeString(c.title))
	for i, bar := range c.bars {
		y := top + row*i
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, left-6, y+13, html.EscapeString(bar.label))
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="13" fill="%s"/>`, left, y+3, max(1, x(bar.middle)-left), bar.color)
		fmt.Fprintf(&b, `<path d="M%.1f %d H%.1f" stroke="black"/>`, x(bar.low), y+9, x(bar.high))
		fmt.Fprintf(&b, `<text x="%.1f" y="%d">%.3g %s</text>`+"\n", x(bar.high)+6, y+13, bar.middle, c.unit)
	}
	b.WriteString("</svg>\n")
	return b.String()
}
