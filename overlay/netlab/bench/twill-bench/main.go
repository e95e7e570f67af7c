// Command twill-bench measures Twill in a lab of namespaces, see package bench.
// It is no part of the product: `make bench` builds it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/bench"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "twill-bench: %v\n", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 2 && args[0] == "probe" {
		return bench.ServeProbe(ctx, args[1])
	}
	fs := flag.NewFlagSet("twill-bench", flag.ContinueOnError)
	bin := fs.String("bin", "bin", "`directory` of what `make build` builds")
	out := fs.String("out", "Documentation/bench", "`directory` for the report")
	quick := fs.Bool("quick", false, "three minutes rather than fifteen")
	only := fs.String("only", "", "comma separated `parts`: control, repair, datapath, cni")
	batcher := fs.String("batcher", "", "test `binary` of backend/kernel, which writes in batches for the limit")
	peer := fs.String("peer", "", "flanneld `binary` to measure beside")
	peerCNI := fs.String("peer-cni", "", "its CNI plugin")
	if err := fs.Parse(args); err != nil {
		return err
	}
	o := bench.Full()
	if *quick {
		o = bench.Quick()
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(*bin)
	if err != nil {
		return err
	}
	o.Binaries, o.Program, o.Log = netlab.BinariesIn(dir), self, os.Stderr
	o.Batcher, o.Peer, o.PeerCNI = absolute(*batcher), absolute(*peer), absolute(*peerCNI)
	if *only != "" {
		o.Only = strings.Split(*only, ",")
	}
	report, err := bench.Run(ctx, o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(report, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(*out, "bench.json"), append(b, '\n'), 0o644)
}

// absolute returns an absolute path, because nodes start in another directory.
func absolute(path string) string {
	if path == "" {
		return ""
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
