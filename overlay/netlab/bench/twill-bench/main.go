// Command twill-bench measures Twill in a lab of namespaces, see package bench.
// It is no part of the product: `make bench` builds it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
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
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "twill-bench: %v\n", err)
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
	only := fs.String("only", "", "comma separated `parts`: control, repair, survival, datapath, cni; idle and kube, which -quick leaves out, and kube a run with -peer, too; and soak, 1 000 000 lease events, which takes minutes and runs only when named")
	api := fs.String("api", "", "kube-apiserver `binary`, for the part kube")
	batcher := fs.String("batcher", "", "test `binary` of backend/kernel, which writes in batches for the limit")
	peer := fs.String("peer", "", "flanneld `binary` to measure beside")
	peerCNI := fs.String("peer-cni", "", "its CNI plugin")
	nft := fs.Bool("nftables", false, "a peer daemon uses nftables; Twill does anyway (EnableNFTables in the network config)")
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
	o.NFTables, o.API = *nft, absolute(*api)
	if *only != "" {
		o.Only = strings.Split(*only, ",")
	}
	report, err := bench.Run(ctx, o)
	return errors.Join(err, write(report, *out)) // what was measured until then
}

// write writes the report as JSON, as Markdown and as plots.
func write(r *bench.Report, dir string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	var text bytes.Buffer
	r.Markdown(&text)
	files := map[string]string{"bench.json": string(b) + "\n", "README.md": text.String()}
	maps.Copy(files, r.Plots())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	_, err = text.WriteTo(os.Stdout)
	return err
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
