package bench

import (
	"fmt"
	"io"
)

func (k *Kube) bars() []bar {
	at := func(what string) string { return fmt.Sprintf("%s, %d Nodes", what, k.Peers) }
	var all []bar
	if len(k.Ready) > 0 {
		all = append(all,
			bar{at("Kubernetes: ready after the process start, the first list included, ms"), median(k.Ready), 3000},
			bar{at("Kubernetes: anonymous memory, MiB"), median(k.RSSAnon), 40})
	}
	if len(k.BeatsAnon) > 0 {
		all = append(all, bar{at("Kubernetes: anonymous memory while kubelets tell their status, MiB"), median(k.BeatsAnon), 40})
	}
	return all
}

// beatCost is the CPU that one heartbeat costs, µs.
func (k *Kube) beatCost() float64 {
	return (median(k.Beating) - median(k.Quiet)) / 100 / k.Beats * 1e6
}

func (r *Report) kubeTables(w io.Writer) {
	k := r.Kube
	if k == nil {
		return
	}
	fmt.Fprintf(w, "## Control path, Kubernetes\n\nThe same daemon with `--kube-subnet-mgr`, on a real kube-apiserver on the same cores, with %d Nodes as kubelets keep them "+
		"(%.0f MB as protobuf, 50 images each); all of them, read with one request and not decoded: %s ms. "+
		"Ready: process start to /readyz, the list included; first route: process start to the first route to a peer, which the list of all Nodes comes before. Memory 5 s after the start. "+
		"Beside it, where it was measured, etcd with as many peers.\n\n", k.Peers, float64(k.ListBytes)/1e6, spread(k.List, 0))
	t := table{head: []string{"leases in", "peers", "ready ms", "first route ms", "all in the kernel ms", "CPU ms", "RSS MiB", "anon MiB"}}
	t.add("Nodes", fmt.Sprint(k.Peers), spread(k.Ready, 0), spread(k.FirstRoute, 0), spread(k.Cold, 0), spread(k.ColdCPU, 0), spread(k.RSS, 1), spread(k.RSSAnon, 1))
	etcd := r.ours(k.Peers)
	if etcd != nil {
		t.add("etcd", fmt.Sprint(k.Peers), "–", spread(etcd.FirstRoute, 0), spread(etcd.Cold, 0), spread(etcd.ColdCPU, 0), spread(etcd.RSS, 1), spread(etcd.RSSAnon, 1))
	}
	t.write(w)
	if len(k.One.Event) == 0 {
		return
	}
	fmt.Fprint(w, "One peer's change, from the request to the kernel, and from a patch of a ConfigMap, which no daemon watches, to its watch event, in the same rounds (ms, p50 / p99; × is p50 to the watch event's). "+
		"New is a Node with its annotations, changed another MAC and public IP in them.\n\n")
	t = table{head: []string{"leases in", "watch event", "new", "×", "changed", "×", "deleted", "×"}}
	add := func(store string, o One) {
		event := median(o.Event)
		t.add(store, two(o.Event), two(o.Add), ratio(o.Add, event), two(o.Change), ratio(o.Change, event), two(o.Delete), ratio(o.Delete, event))
	}
	add("Nodes", k.One)
	if etcd != nil {
		add("etcd", etcd.One)
	}
	t.write(w)
	fmt.Fprintf(w, "CPU of the daemon, %% of a core over %.0f s with one look at everything: %.3f while no Node changes, %.3f while each kubelet tells its status every %.0f minutes, %.1f of them a second: "+
		"%.0f µs each, to take it off the wire and decode it. Anonymous memory after them: %s MiB.\n\n", kubeWindow.Seconds(), median(k.Quiet), median(k.Beating), beatEvery.Minutes(), k.Beats, k.beatCost(), spread(k.BeatsAnon, 1))
}

// ours returns what Twill took with so many peers in etcd, nil if that was not
// measured.
func (r *Report) ours(peers int) *Control {
	for _, c := range r.Control {
		if c.Peers == peers && c.Daemon != peerName && len(c.Cold) > 0 {
			return c
		}
	}
	return nil
}
