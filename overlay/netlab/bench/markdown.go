package bench

import (
	"fmt"
	"io"
	"strings"
)

// table is rows of cells below a head.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) {
	if len(t.rows) == 0 {
		return
	}
	fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(t.head, " | "), strings.Repeat("---|", len(t.head)))
	for _, cells := range t.rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
	}
	fmt.Fprintln(w)
}

// Markdown writes the report for people: medians with quartiles, ratios, and
// what of the bars is missed.
func (r *Report) Markdown(w io.Writer) {
	kind := "make bench"
	if r.Quick {
		kind = "make bench-quick"
	}
	fmt.Fprintf(w, "# Benchmark\n\nWritten by `%s` on %s: %s, Linux %s, %d × %s, load average when it began %s, %.0f s.\n",
		kind, r.Time.Format("2006-01-02 15:04 UTC"), r.Version, r.Kernel, r.Cores, r.CPU, strings.Join(strings.Fields(r.Load)[:1], ""), r.Seconds)
	fmt.Fprint(w, "Nodes are network namespaces on this machine; etcd runs on the same cores, without fsync. All that is compared was "+
		"measured in this run, interleaved. Figures are medians [quartiles]; ratios hold from run to run, absolute figures do not. "+
		"\"peer\" is the daemon given as PEER.\n\n")
	r.controlTables(w)
	r.kubeTables(w)
	r.idleTable(w)
	r.repairTable(w)
	r.survivalTable(w)
	r.soakTable(w)
	r.pathTable(w)
	r.cniTable(w)
	r.barTable(w)
}

func (r *Report) limit(peers int) *ControlLimit {
	for _, l := range r.Limits {
		if l.Peers == peers {
			return l
		}
	}
	return &ControlLimit{}
}

// write returns the time of the fastest writer that was measured, ms.
func (l *ControlLimit) write() float64 {
	if len(l.Batched) > 0 {
		return median(l.Batched)
	}
	return median(l.Apply)
}

// total is what no daemon can beat: one range read, and the same entries
// written.
func (l *ControlLimit) total() float64 { return median(l.List) + l.write() }

// burstLimit is what a burst of 1 000 changes takes at least.
func (r *Report) burstLimit(peers int) float64 {
	return median(r.limit(peers).Put) + r.limit(burst).write()
}

func ratio(values []float64, reference float64) string {
	if len(values) == 0 || reference == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", median(values)/reference)
}

// two writes p50 and p99.
func two(v []float64) string { return fmt.Sprintf("%.2f / %.2f", median(v), quantile(v, 0.99)) }

func (r *Report) controlTables(w io.Writer) {
	if len(r.Control) == 0 {
		return
	}
	fmt.Fprint(w, "## Control path\n\nThe limit: one range read of etcd, and the same entries (a neighbour, an FDB entry and a route for each peer) written over one netlink "+
		"socket, in batches; beside it backend/kernel's Apply, as the daemon calls it. ms.\n\n")
	limits := table{head: []string{"peers", "range read", "batched", "by Apply", "limit (read + batched)", "1 000 puts"}}
	for _, l := range r.Limits {
		limits.add(fmt.Sprint(l.Peers), spread(l.List, 1), spread(l.Batched, 1), spread(l.Apply, 1), fmt.Sprintf("%.1f", l.total()), spread(l.Put, 0))
	}
	limits.write(w)
	fmt.Fprint(w, "Cold start: process start to all routes, neighbours and FDB entries. Warm restart: process start to the way to the one peer that came meanwhile; "+
		"writes are what else was written. × is to the limit.\n\n![cold start](cold.svg)\n\n")
	starts := table{head: []string{"daemon", "peers", "cold ms", "×", "first route ms", "CPU ms", "warm ms", "×", "writes", "RSS MiB", "anon MiB"}}
	for _, c := range r.Control {
		limit := r.limit(c.Peers).total()
		starts.add(c.Daemon, fmt.Sprint(c.Peers), spread(c.Cold, 0), ratio(c.Cold, limit), spread(c.FirstRoute, 0), spread(c.ColdCPU, 0),
			spread(c.Warm, 0), ratio(c.Warm, limit), spread(c.WarmWrites, 0), spread(c.RSS, 1), spread(c.RSSAnon, 1))
	}
	starts.write(w)
	fmt.Fprint(w, "One peer's change, put to kernel, and put to watch event of a key that no daemon watches, in the same rounds (ms, p50 / p99; × is p50 to the watch event's); "+
		"and 1 000 leases put, changed or deleted at once, in ten transactions, from the first request to the last route (ms; × is to the same puts where no daemon watches plus the limit's writes for 1 000 peers).\n\n![one peer's change](one.svg)\n\n")
	changes := table{head: []string{"daemon", "peers", "watch event", "new", "×", "changed", "×", "deleted", "×", "1 000 new", "×", "1 000 changed", "×", "1 000 deleted", "×", "FDB entries leaked"}}
	for _, c := range r.Control {
		event := median(c.One.Event)
		burst := r.burstLimit(c.Peers)
		changes.add(c.Daemon, fmt.Sprint(c.Peers), two(c.One.Event), two(c.One.Add), ratio(c.One.Add, event), two(c.One.Change), ratio(c.One.Change, event),
			two(c.One.Delete), ratio(c.One.Delete, event), spread(c.BurstAdd, 0), ratio(c.BurstAdd, burst),
			spread(c.BurstMod, 0), ratio(c.BurstMod, burst), spread(c.BurstDel, 0), ratio(c.BurstDel, burst), spread(c.LeakedFDB, 0))
	}
	changes.write(w)
}

func (r *Report) repairTable(w io.Writer) {
	if len(r.Repairs) == 0 {
		return
	}
	fmt.Fprint(w, "## Repair\n\nFrom the damage (its command's start) until everything is as it was, and the longest silence of a ping every 2 ms between two pods over it (ms). "+
		"Starting the commands that do the damage and see it undone is in it: 5 to 10 ms.\n\n")
	t := table{head: []string{"daemon", "peers", "damage", "repaired after", "worst", "silence", "worst"}}
	for _, p := range r.Repairs {
		state := spread(p.State, 0)
		if p.Never > 0 {
			state += fmt.Sprintf("; %d × not within %.0f s", p.Never, p.Within/1000)
		}
		t.add(p.Daemon, fmt.Sprint(p.Peers), p.Damage, state, fmt.Sprintf("%.0f", quantile(p.State, 1)), spread(p.Gap, 0), fmt.Sprintf("%.0f", quantile(p.Gap, 1)))
	}
	t.write(w)
}

func (r *Report) survivalTable(w io.Writer) {
	if len(r.Survival) == 0 {
		return
	}
	fmt.Fprint(w, "## What pods do not notice\n\nA ping every 10 ms in both directions between pods on two nodes, while it happens to both daemons or to etcd.\n\n")
	t := table{head: []string{"daemon", "event", "sent", "lost", "longest silence ms", "first new peer ms after etcd is back"}}
	for _, s := range r.Survival {
		came := "–"
		if s.NewPeer > 0 {
			came = fmt.Sprintf("%.0f", s.NewPeer)
		}
		t.add(s.Daemon, s.Event, fmt.Sprint(s.Sent), fmt.Sprint(s.Lost), fmt.Sprintf("%.0f", s.Gap), came)
	}
	t.write(w)
}
