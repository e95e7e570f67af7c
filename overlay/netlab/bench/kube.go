package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/twill-net/twill/subnet"
)

// Kube is what the control path took with the leases in Nodes. Times are
// milliseconds, a value for each repetition.
type Kube struct {
	Peers int

	List      []float64 // all Nodes, read with one request and not decoded
	ListBytes int       // of that, protobuf

	Ready      []float64 // process start → /readyz says so
	FirstRoute []float64 // process start → first route to a peer: the list has arrived
	Cold       []float64 // process start → all routes, neighbours and FDB entries
	ColdCPU    []float64 // of the process until ready, ms
	RSS        []float64 // MiB, 5 s after a start
	RSSAnon    []float64 // MiB
	One        One       // see there; the watch event is that of a ConfigMap

	Quiet     []float64 // percent of a core while no Node changes
	Beating   []float64 // percent of a core while all kubelets tell their status
	Beats     float64   // of them a second
	BeatsAnon []float64 // MiB, after them
}

const (
	kubePeers  = 5000
	kubeReps   = 2
	kubeRounds = 30
	// A kubelet tells an unchanged status so often (--node-status-report-frequency).
	beatEvery = 5 * time.Minute
	// One look at everything is in it.
	kubeWindow = lookEvery
)

// kubeToken is the administrator's, and the daemon's.
const kubeToken = "bench-token"

// kube measures the daemon on a real kube-apiserver.
func (b *bench) kube(ctx context.Context) error {
	if b.opts.API == "" {
		return errors.New("there is no kube-apiserver: give -api, as dist/make/bench does")
	}
	b.step("Kubernetes, %d Nodes", kubePeers)
	p := b.contenders[0].place
	d, err := b.startAPI(ctx, p)
	if err != nil {
		return err
	}
	if err := p.call(ctx, "Register", Peers{First: 1, Count: kubePeers}, &Nothing{}); err != nil {
		return err
	}
	r := &Kube{Peers: kubePeers}
	b.report.Kube = r
	for rep := range kubeReps {
		var list NodeList
		if err := p.call(ctx, "ListNodes", Nothing{}, &list); err != nil {
			return err
		}
		r.List, r.ListBytes = append(r.List, list.Milliseconds), list.Bytes
		if err := b.kubeOnce(ctx, contender{daemon: d, place: p, endpoints: b.lab.EtcdEndpoints()}, r, rep == kubeReps-1); err != nil {
			return err
		}
	}
	return nil
}

// startAPI starts kube-apiserver beside etcd, and returns the daemon that uses
// it on a node.
func (b *bench) startAPI(ctx context.Context, p *place) (d daemon, err error) {
	dir := filepath.Join(b.dir, "kubernetes")
	url := "https://" + net.JoinHostPort(b.lab.Lan.Addrs[subnet.IPv4].String(), "6443")
	files := map[string]string{
		"tokens.csv": kubeToken + ",admin,admin,system:masters\n",
		"kubeconfig": fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: %s}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, url, kubeToken),
		"net-conf.json": `{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan"}}`,
	}
	if files["sa.key"], err = newKey(); err != nil {
		return d, err
	}
	// The daemon's node has them in its /run, kube-apiserver in the lab's directory.
	here := p.Path("/run/bench")
	for _, at := range []string{dir, here} {
		if err := os.MkdirAll(at, 0o700); err != nil {
			return d, err
		}
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(at, name), []byte(content), 0o600); err != nil {
				return d, err
			}
		}
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	_, err = b.lab.Lan.Start("kube-apiserver", b.opts.API,
		"--etcd-servers="+b.lab.EtcdEndpoints()[0], "--bind-address=0.0.0.0", "--secure-port=6443",
		"--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none", // there is no Pod that looks for it
		"--cert-dir="+dir, "--token-auth-file="+in("tokens.csv"), "--authorization-mode=Node,RBAC", "--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-signing-key-file="+in("sa.key"), "--service-account-key-file="+in("sa.key"))
	if err != nil {
		return d, err
	}
	if err := p.call(ctx, "Reach", url, &Nothing{}); err != nil {
		return d, err
	}
	err = p.call(ctx, "RegisterOwn", OwnNodeArgs{p.Name, p.Addrs[subnet.IPv4].String(), "10.200.1.0/24"}, &Nothing{})
	return twillOnKube(b.opts.Binaries, p.Name, "/run/bench/kubeconfig", "/run/bench/net-conf.json"), err
}

// newKey returns a private key, PEM.
func newKey() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalECPrivateKey(key)
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})), err
}

// kubeOnce takes the daemon through one life: the last one is the longest.
func (b *bench) kubeOnce(ctx context.Context, c contender, r *Kube, last bool) (err error) {
	limit := startLimit(r.Peers)
	if err := c.watch(ctx); err != nil {
		return err
	}
	pause(ctx, rest)
	if err := c.call(ctx, "Want", Expect{Peers: Peers{First: 1, Count: r.Peers}}, &Nothing{}); err != nil {
		return err
	}
	d, err := c.start(ctx, c.daemon)
	if err != nil {
		return err
	}
	defer func() {
		_ = d.stop(ctx)
		_, cleanErr := c.run(ctx, c.clean)
		err = errors.Join(err, cleanErr)
	}()
	var ready int64
	if err := c.call(ctx, "AwaitHTTP", HTTPArgs{"http://127.0.0.1:" + healthPort + "/readyz", limit}, &ready); err != nil {
		return err
	}
	used, err := d.usage(ctx)
	if err != nil {
		return err
	}
	seen, err := c.await(ctx, limit)
	if err != nil {
		return err
	}
	r.Ready, r.ColdCPU = append(r.Ready, float64(ready-d.At)/1e6), append(r.ColdCPU, used.CPU*1000)
	r.Cold, r.FirstRoute = append(r.Cold, float64(seen.At-d.At)/1e6), append(r.FirstRoute, float64(seen.FirstRoute-d.At)/1e6)
	pause(ctx, calm)
	if used, err = d.usage(ctx); err != nil {
		return err
	}
	r.RSS, r.RSSAnon = append(r.RSS, used.RSS), append(r.RSSAnon, used.RSSAnon)
	if !last {
		return nil
	}
	return b.kubeLive(ctx, d, r)
}

// kubeLive lets a daemon live: no Node changes, all kubelets tell their status,
// single Nodes come, change and go.
func (b *bench) kubeLive(ctx context.Context, d *running, r *Kube) error {
	beats := Peers{First: 1, Count: r.Peers * int(kubeWindow) / int(beatEvery)}
	r.Beats = float64(beats.Count) / kubeWindow.Seconds()
	for _, w := range []struct {
		to *[]float64
		do func() error
	}{
		{&r.Quiet, func() error { pause(ctx, kubeWindow); return ctx.Err() }},
		{&r.Beating, func() error { return d.call(ctx, "Beat", BeatArgs{beats, kubeWindow}, &Nothing{}) }},
	} {
		before, err := d.usage(ctx)
		if err != nil {
			return err
		}
		from := time.Now()
		if err := w.do(); err != nil {
			return err
		}
		after, err := d.usage(ctx)
		if err != nil {
			return err
		}
		*w.to = append(*w.to, 100*(after.CPU-before.CPU)/time.Since(from).Seconds())
	}
	used, err := d.usage(ctx)
	if err != nil {
		return err
	}
	r.BeatsAnon = append(r.BeatsAnon, used.RSSAnon)
	var one One
	if err := d.call(ctx, "OneNode", OneArgs{Peer: r.Peers + 2, Rounds: kubeRounds, Gap: 25 * time.Millisecond}, &one); err != nil {
		return err
	}
	r.One.add(one)
	return nil
}
