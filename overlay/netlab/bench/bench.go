package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/twill-net/twill/overlay/netlab"
)

// Options say what is measured.
type Options struct {
	Binaries netlab.Binaries
	Program  string // this program: it runs again as the probe in each node
	API      string // kube-apiserver; empty: no Kubernetes
	Batcher  string // test binary of backend/kernel, the writer of the limit; empty: without
	Peer     string // a flanneld beside Twill; empty: none
	PeerCNI  string // its CNI plugin; empty: none, and no pods of it
	NFTables bool   // EnableNFTables in the network config: a peer daemon uses nftables; Twill does anyway
	Sizes    []Size
	Reps     int // of each test of the data path
	Pods     int // of each CNI measurement
	Only     []string
	Quick    bool
	Limit    time.Duration // of the whole run
	Log      io.Writer
}

// Size is one number of peers.
type Size struct {
	Peers  int
	Reps   int // lives of each daemon
	Rounds int // single changes in each
}

// Full returns what fits into a quarter of an hour.
func Full() Options {
	return Options{Limit: 15 * time.Minute, Reps: 32, Pods: 60, Sizes: []Size{
		{100, 3, 40}, {1000, 3, 40}, {5000, 2, 50}, {20000, 2, 50},
	}}
}

// Quick returns what fits into three minutes.
func Quick() Options {
	return Options{Quick: true, Limit: 3 * time.Minute, Reps: 16, Pods: 20, Sizes: []Size{{100, 1, 30}, {1000, 1, 30}, {20000, 2, 30}}}
}

// bench is one run.
type bench struct {
	opts       Options
	lab        *netlab.Lab
	dir        string // the lab's
	started    time.Time
	contenders []contender
	pairs      map[string]*pair // by the daemon's name
	loaded     int              // synthesized peers in the store
	report     *Report
}

// part can be chosen by its name.
type part struct {
	name string
	when when
	run  func(*bench, context.Context) error
}

// when is in which runs a part is that nobody has asked for.
type when int

const (
	always when = iota
	inFull      // not in the quick one
	alone       // and not beside a peer daemon, which has no part in it and takes the time
	never
)

var parts = []part{
	{"control", always, within((*bench).control)},
	{"repair", always, within((*bench).repair)},
	{"survival", always, within((*bench).survival)},
	{"datapath", always, within((*bench).datapath)},
	{"cni", always, within((*bench).cni)},
	{"kube", alone, within((*bench).kube)},
	{"idle", inFull, (*bench).idle},
	{"soak", never, within((*bench).soak)},
}

// runs reports whether the part belongs to a run.
func (p part) runs(o Options) bool {
	switch {
	case len(o.Only) > 0:
		return slices.Contains(o.Only, p.name)
	case p.when == alone:
		return !o.Quick && o.Peer == ""
	case p.when == inFull:
		return !o.Quick
	}
	return p.when == always
}

// beside leaves a peer daemon the time that it needs.
func (o Options) beside() Options {
	if o.Peer != "" && !o.Quick {
		o.Reps, o.Pods = o.Reps*3/4, o.Pods*2/3
	}
	return o
}

// within gives a part a lab of its own.
func within(part func(*bench, context.Context) error) func(*bench, context.Context) error {
	return func(b *bench, ctx context.Context) error { return b.inLab(ctx, part) }
}

// Run measures, and returns what came out; when it fails or ctx ends, what it
// has until then.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	o = o.beside()
	b := &bench{opts: o, started: time.Now(), report: newReport(o)}
	defer func() { b.report.Seconds = time.Since(b.started).Seconds() }()
	for _, name := range o.Only {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			return b.report, fmt.Errorf("there is no part %q to measure", name)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, o.Limit)
	defer cancel()
	for _, part := range parts {
		if !part.runs(o) {
			continue
		}
		if err := part.run(b, ctx); err != nil {
			return b.report, fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return b.report, nil
}

// inLab runs a part in a lab of its own.
func (b *bench) inLab(ctx context.Context, part func(*bench, context.Context) error) (err error) {
	temp, err := os.MkdirTemp("", "twill-bench-")
	if err != nil {
		return err
	}
	b.dir = filepath.Join(temp, "lab")
	netConf := NetConf
	if b.opts.NFTables {
		netConf = strings.Replace(NetConf, "{", `{"EnableNFTables":true,`, 1)
	}
	b.lab, err = netlab.New(ctx, netlab.Options{
		Dir: b.dir, Nodes: 8, Underlay: netlab.IPv4Only, Overlay: netlab.IPv4Only, NetConf: netConf, Binaries: b.opts.Binaries,
	})
	if err != nil {
		return errors.Join(err, os.RemoveAll(temp))
	}
	defer func() { err = errors.Join(err, b.lab.Close(), os.RemoveAll(temp)) }()
	b.contenders, b.loaded, b.pairs = nil, 0, map[string]*pair{}
	endpoints := b.lab.EtcdEndpoints()
	all := []daemon{twill(b.opts.Binaries, endpoints)}
	if b.opts.Peer != "" {
		all = append(all, flannel(b.opts.Peer, endpoints))
	}
	for i, d := range all { // on nodes 1 and 2, 3 and 4
		p, err := newPlace(ctx, b.lab.Node(2*i+1), b.opts.Program)
		if err != nil {
			return err
		}
		c := contender{d, p, endpoints}
		if err := c.watch(ctx); err != nil {
			return err
		}
		b.contenders = append(b.contenders, c)
	}
	return part(b, ctx)
}

func (b *bench) step(format string, args ...any) {
	fmt.Fprintf(b.opts.Log, "%5.0f s  %s\n", time.Since(b.started).Seconds(), fmt.Sprintf(format, args...))
}
