package bench

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"github.com/twill-net/twill/overlay/netlab"
)

// pair is two nodes with a daemon each, or none, and with a pod each.
type pair struct {
	name   string
	daemon daemon
	places [2]*place
	runs   [2]*running
	pods   [2]*netlab.Pod
}

// newPair starts the contender's daemon on its node and the next one, and a
// pod on each; without a CNI plugin of the daemon, no pods.
func (b *bench) newPair(ctx context.Context, c contender) (*pair, error) {
	return b.pairOn(ctx, c.daemon, 2*b.number(c)+1, c.place)
}

// pairOn does it on the nodes from a number on, of which the first may be a
// place already.
func (b *bench) pairOn(ctx context.Context, d daemon, first int, at *place) (_ *pair, err error) {
	p := &pair{name: d.name, daemon: d, places: [2]*place{at}}
	for i := range p.places {
		if p.places[i] != nil {
			continue
		}
		if p.places[i], err = newPlace(ctx, b.lab.Node(first+i), b.opts.Program); err != nil {
			return nil, err
		}
	}
	for i, at := range p.places {
		if p.runs[i], err = at.start(ctx, d); err != nil {
			return nil, err
		}
		if err := p.runs[i].awaitReady(ctx, 20*time.Second); err != nil {
			return nil, err
		}
	}
	if d.name == peerName {
		if b.opts.PeerCNI == "" {
			return p, nil
		}
		if err := os.Symlink(b.opts.PeerCNI, p.places[0].Path("/opt/cni/bin/flannel")); err != nil {
			return nil, err
		}
	}
	err = p.addPods(ctx, [2]string{d.conf, d.conf})
	return p, err
}

func (b *bench) number(c contender) int {
	for i, other := range b.contenders {
		if other.place == c.place {
			return i
		}
	}
	return 0
}

// addPods adds a pod to each node by a CNI configuration.
func (p *pair) addPods(ctx context.Context, confs [2]string) (err error) {
	for i, at := range p.places {
		list := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"cbr0","plugins":[%s]}`, confs[i])
		dir := at.Path("/etc/cni/net.d")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "10-twill.conflist"), []byte(list), 0o644); err != nil {
			return err
		}
		if p.pods[i], err = at.AddPod(ctx, "bench"); err != nil {
			return err
		}
	}
	return nil
}

// signal stops and continues the daemons.
func (p *pair) signal(ctx context.Context, sig syscall.Signal) error {
	for _, r := range p.runs {
		if r == nil {
			continue
		}
		if _, err := r.run(ctx, fmt.Sprintf("kill -%d %d", int(sig), r.PID)); err != nil {
			return err
		}
	}
	return nil
}

// netns returns the network namespaces of the two pods, or of the two nodes.
func (p *pair) netns(pods bool) (paths [2]string) {
	for i, at := range p.places {
		paths[i] = at.Path("/proc/1/ns/net")
		if pods {
			paths[i] = at.Path(path.Join("/run/netns", "bench"))
		}
	}
	return paths
}
