package bench

import (
	"fmt"
	"io"
)

// bar is a figure that must be reached.
type bar struct {
	what       string
	have, most float64
}

func (b bar) verdict() string {
	if b.have <= b.most {
		return "met"
	}
	return "**missed**"
}

// bars compares with what is promised.
func (r *Report) bars() []bar {
	var all []bar
	for _, c := range r.Control {
		if c.Daemon == peerName {
			continue
		}
		all = append(all, r.controlBars(c)...)
	}
	for _, i := range r.Idle {
		if i.Daemon != peerName {
			all = append(all, i.bars()...)
		}
	}
	if r.Kube != nil {
		all = append(all, r.Kube.bars()...)
	}
	for _, p := range r.Repairs {
		if p.Daemon != peerName {
			all = append(all, p.bar())
		}
	}
	for _, s := range r.Soaks {
		if s.Daemon != peerName && len(s.RSSAnon) > 1 {
			all = append(all, s.bar())
		}
	}
	for _, s := range r.Survival {
		if s.Daemon == peerName {
			continue
		}
		all = append(all, bar{s.Event + ": packets lost", float64(s.Lost), 0})
		if s.NewPeer > 0 {
			all = append(all, bar{s.Event + ": first new peer once it is back, ms", s.NewPeer, 2000})
		}
	}
	all = append(all, r.pathBars()...)
	if r.Binary > 0 {
		all = append(all, bar{"size of twilld, MB", r.Binary, 35})
	}
	return append(all, r.cniBars()...)
}

// bar holds the worst against the promise: until all is as it was, and until
// traffic flows.
func (p *Repair) bar() bar {
	b := bar{fmt.Sprintf("%s, %d peers: repaired and traffic flows, worst, ms", p.Damage, p.Peers), max(quantile(p.State, 1), quantile(p.Gap, 1)), 300}
	if p.Damage == linkDeleted {
		b.most = 1000
	}
	if p.Never > 0 {
		b.have = p.Within
	}
	return b
}

func (r *Report) controlBars(c *Control) (all []bar) {
	limit := r.limit(c.Peers)
	at := func(what string) string { return fmt.Sprintf("%s, %d peers", what, c.Peers) }
	event := median(c.One.Event)
	all = append(all,
		bar{at("warm restart: kernel writes"), quantile(c.WarmWrites, 1), 0},
		bar{at("one new peer, × the watch event"), median(c.One.Add) / event, 1.8},
		bar{at("one changed peer, × the watch event"), median(c.One.Change) / event, 1.8},
		bar{at("one deleted peer, × the watch event"), median(c.One.Delete) / event, 1.8})
	if first := r.Control[0]; c != first && first.Daemon == c.Daemon {
		all = append(all, bar{at(fmt.Sprintf("one new peer, × that with %d peers", first.Peers)), median(c.One.Add) / median(first.One.Add), 1.25})
	}
	switch c.Peers {
	case 100:
		all = append(all, bar{at("anonymous memory, MiB"), median(c.RSSAnon), 15})
	case 20000:
		burst := r.burstLimit(c.Peers)
		all = append(all,
			bar{at("cold start, × the limit"), median(c.Cold) / limit.total(), 4},
			bar{at("warm restart, × the limit"), median(c.Warm) / limit.total(), 3},
			bar{at("1 000 new at once, × the limit"), median(c.BurstAdd) / burst, 4},
			bar{at("1 000 changed at once, × the limit"), median(c.BurstMod) / burst, 4},
			bar{at("1 000 deleted at once, × the limit"), median(c.BurstDel) / burst, 4},
			bar{at("anonymous memory, MiB"), median(c.RSSAnon), 45})
	}
	return all
}

func (r *Report) barTable(w io.Writer) {
	bars := r.bars()
	if len(bars) == 0 {
		return
	}
	fmt.Fprint(w, "## Bars\n\n")
	t := table{head: []string{"what", "measured", "at most", ""}}
	for _, b := range bars {
		t.add(b.what, fmt.Sprintf("%.3g", b.have), fmt.Sprintf("%.3g", b.most), b.verdict())
	}
	t.write(w)
}
