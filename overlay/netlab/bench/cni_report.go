package bench

import (
	"fmt"
	"io"
)

// paired returns the differences of values that were measured one after the
// other: what the machine did meanwhile is in both.
func paired(values, minus []float64) []float64 {
	n := min(len(values), len(minus))
	all := make([]float64, n)
	for i := range all {
		all[i] = values[i] - minus[i]
	}
	return all
}

// attach returns the calls of a plugin, none if it took no part.
func (r *Report) attach(plugin string, parallel int) *Attach {
	for _, c := range r.CNI {
		if c.Plugin == plugin && c.Parallel == parallel {
			return c
		}
	}
	return &Attach{}
}

// cniBars has one call, and of eight at a time, which wait for each other, each
// one's share of the time.
func (r *Report) cniBars() (all []bar) {
	for _, parallel := range []int{1, 8} {
		ours, plain := r.attach("twill", parallel), r.attach(direct, parallel)
		if len(ours.Add.Each) == 0 || len(plain.Add.Each) == 0 {
			continue
		}
		all = append(all,
			bar{fmt.Sprintf("CNI ADD over %s, %d at a time, ms", direct, parallel), median(paired(ours.Add.Each, plain.Add.Each)), 3},
			bar{fmt.Sprintf("CNI DEL over %s, %d at a time, ms", direct, parallel), median(paired(ours.Del.Each, plain.Del.Each)), 3})
	}
	return all
}

func (r *Report) cniTable(w io.Writer) {
	if len(r.CNI) == 0 {
		return
	}
	fmt.Fprintf(w, "## CNI\n\nms of each call, exec included; the plugins take turns, pod by pod when one at a time. CPU is user and system, of the plugin and all that it "+
		"runs. \"Each\" is the time of a round by its number of calls. \"Over\" is the median of the differences to the call of %s beside it.\n\n", direct)
	t := table{head: []string{"at a time", "plugin", "verb", "p50 / p99", "each", "CPU", "each: over", "CPU: over"}}
	for _, parallel := range []int{1, 8} {
		plain := r.attach(direct, parallel)
		for _, c := range r.CNI {
			if c.Parallel != parallel {
				continue
			}
			for _, v := range []struct {
				verb        string
				have, plain Calls
			}{{"ADD", c.Add, plain.Add}, {"DEL", c.Del, plain.Del}} {
				over, overCPU := "–", "–"
				if c != plain {
					over = spread(paired(v.have.Each, v.plain.Each), 1)
					overCPU = spread(paired(v.have.CPU, v.plain.CPU), 1)
				}
				t.add(fmt.Sprint(parallel), c.Plugin, v.verb, fmt.Sprintf("%.1f / %.1f", median(v.have.Wall), quantile(v.have.Wall, 0.99)),
					spread(v.have.Each, 1), spread(v.have.CPU, 1), over, overCPU)
			}
		}
	}
	t.write(w)
}
