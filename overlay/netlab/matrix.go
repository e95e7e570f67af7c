package netlab

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twill-net/twill/subnet"
)

// matrix is a table of pings of one family: from each pod to each other pod and
// to the outside host, small and as large as the pod's link takes them.
type matrix struct {
	family subnet.Family
	from   []*Pod
	to     []*Host
	mtu    []int // of the pods' links
	cells  [][]cell
}

// cell is the outcome of one pair.
type cell struct {
	none        bool // a pod and itself
	small, full error
	rtt         time.Duration // of the full-size packet
}

func newMatrix(f subnet.Family, pods []*Pod, outside *Host, mtu []int) *matrix {
	m := &matrix{family: f, from: pods, mtu: mtu}
	for _, p := range pods {
		m.to = append(m.to, &p.Host)
	}
	if outside.Addrs[f].IsValid() {
		m.to = append(m.to, outside)
	}
	for range pods {
		m.cells = append(m.cells, make([]cell, len(m.to)))
	}
	return m
}

// run pings, a few pairs at a time.
func (m *matrix) run(ctx context.Context) error {
	var g errgroup.Group
	g.SetLimit(4)
	for i, from := range m.from {
		for j, to := range m.to {
			c := &m.cells[i][j]
			if c.none = to == &from.Host; c.none {
				continue
			}
			g.Go(func() error {
				_, c.small = from.Ping(ctx, to.Addrs[m.family], 0)
				c.rtt, c.full = from.Ping(ctx, to.Addrs[m.family], m.mtu[i])
				return ctx.Err()
			})
		}
	}
	return g.Wait()
}

// count returns the number of pings, and of those that failed.
func (m *matrix) count() (all, failed int) {
	for _, row := range m.cells {
		for _, c := range row {
			if c.none {
				continue
			}
			all += 2
			for _, err := range []error{c.small, c.full} {
				if err != nil {
					failed++
				}
			}
		}
	}
	return all, failed
}

// String returns what a table shows of a pair.
func (c cell) String() string {
	switch {
	case c.none:
		return "-"
	case c.small != nil && c.full != nil:
		return "LOST"
	case c.full != nil:
		return "FULL LOST"
	case c.small != nil:
		return "SMALL LOST"
	}
	return fmt.Sprintf("%.2f ms", float64(c.rtt)/float64(time.Millisecond))
}

// write prints the table.
func (m *matrix) write(out io.Writer) {
	fmt.Fprintf(out, "\nPing over %s, small and unfragmented with the pod's full MTU (time of the full one)\n", m.family)
	row := func(first string, rest []string) {
		var line strings.Builder
		fmt.Fprintf(&line, "  %-13s", first)
		for _, s := range rest {
			fmt.Fprintf(&line, " %-12s", s)
		}
		fmt.Fprintln(out, strings.TrimRight(line.String(), " "))
	}
	var names []string
	for _, h := range m.to {
		names = append(names, h.Name)
	}
	row("from      to", names)
	for i, from := range m.from {
		var cells []string
		for _, c := range m.cells[i] {
			cells = append(cells, c.String())
		}
		row(from.Name, cells)
	}
}
