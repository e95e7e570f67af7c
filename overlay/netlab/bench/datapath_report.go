package bench

import (
	"fmt"
	"io"
)

func (r *Report) path(target, test string) *Path {
	for _, p := range r.Paths {
		if p.Target == target && p.Test == test && len(p.Ratio) > 0 {
			return p
		}
	}
	return nil
}

// over returns what a path costs compared with another, round by round: above 1
// it is the slower one.
func (p *Path) over(other *Path) []float64 {
	if p == nil || other == nil {
		return nil
	}
	var costs []float64
	for i := range min(len(p.Ratio), len(other.Ratio)) {
		cost := p.Ratio[i] / other.Ratio[i]
		if p.Better == higher {
			cost = 1 / cost
		}
		costs = append(costs, cost)
	}
	return costs
}

// pathBars holds the data path against one made by hand, and against the peer
// daemon's.
func (r *Report) pathBars() (all []bar) {
	for _, p := range r.Paths {
		if p.Target != "twill" || !p.Bar {
			continue
		}
		if cost := p.over(r.path(handTarget, p.Test)); len(cost) > 0 {
			all = append(all, bar{p.Test + ": cost over the hand-made VXLAN, ×", median(cost), 1.03})
		}
		if cost := p.over(r.path(peerName, p.Test)); len(cost) > 0 {
			all = append(all, bar{p.Test + ": cost over the peer daemon, ×", median(cost), 1})
		}
	}
	return all
}

func (r *Report) pathTable(w io.Writer) {
	if len(r.Paths) == 0 {
		return
	}
	fmt.Fprintf(w, "## Data path\n\nPod to pod between two nodes, as ratio to node to node without pods measured immediately before, %d ms each, in turn; one thread on one CPU holds both ends, "+
		"softirqs included, and daemons that are not measured are stopped. "+
		"tcprr1, udprr1: one byte there and back. udpburst: 64 datagrams sent, then 64 taken. tcp1s, tcp4s: one and four TCP streams, and the CPU time of a GB. crr1: connect, one byte, close. "+
		"Rates, and round trips without p50 or p99, are those of the fastest tenth of the rounds, which nothing else on the machine interrupted.\n\n"+
		"hand-made: a VXLAN by ip and bridge with the same bridge, masquerade and hygiene rules, and no daemon.\n\n![data path](datapath.svg)\n\n", slice.Milliseconds())
	t := table{head: []string{"test", "unit", "host", "target", "absolute", "× host", "errors"}}
	for _, p := range r.Paths {
		if p.Target == hostTarget {
			t.add(p.Test, p.Unit+", "+p.Better+" is better", spread(p.Value, p.digits()), "", "", "", "")
			continue
		}
		t.add("", "", "", p.Target, spread(p.Value, p.digits()), spread(p.Ratio, 2), fmt.Sprint(p.Errors))
	}
	t.write(w)
	fmt.Fprint(w, "What Twill costs over another, round by round (above 1: Twill is the slower one).\n\n")
	costs := table{head: []string{"test", "over the hand-made", "over itself without hygiene", "over the peer daemon", "without hygiene over the peer daemon"}}
	for _, p := range r.Paths {
		if p.Target == "twill" {
			naked, peer := r.path(nakedTarget, p.Test), r.path(peerName, p.Test)
			costs.add(p.Test, spread(p.over(r.path(handTarget, p.Test)), 3), spread(p.over(naked), 3), spread(p.over(peer), 3), spread(naked.over(peer), 3))
		}
	}
	costs.write(w)
}

// digits is how many behind the point are worth writing.
func (p *Path) digits() int {
	if median(p.Value) < 10 {
		return 3
	}
	return 1
}
