package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

// world is the lab and what the suite has made of it. What decides on actions
// (up, saved) follows from the seed alone.
type world struct {
	*netlab.Lab
	t       *testing.T
	etcd    *clientv3.Client
	members []*member
	traffic traffic
	shape   string // of a node's rules, with blanks where nodes differ; see rules

	saved    bool             // there is a snapshot of the store
	moved    map[*member]bool // whose lease may be another than in the snapshot
	replaced time.Time        // when the store last lost data

	counted netlabtest.Counters // when the packets began that are to be judged

	mu sync.Mutex // over the members' pods
}

// member is a node, whether or not it is in the cluster at the moment.
type member struct {
	*netlab.Node
	index   int
	up      bool
	daemon  *netlab.Process
	pods    []*pod
	made    int               // pods, for their names: a container's ID is not used twice
	foreign string            // state of others, as it must stay
	record  netlabtest.Record // in the store, after the last step
}

// netConf keeps the nodes' subnets few, so that they are re-used, and clear of
// those of nodes that are in the store only.
const netConf = `{"Network":"10.244.0.0/16","SubnetMin":"10.244.1.0","SubnetMax":"10.244.8.0",
	"EnableIPv6":true,"IPv6Network":"fd00:244::/48","IPv6SubnetMin":"fd00:244:0:1::","IPv6SubnetMax":"fd00:244:0:8::",
	"Backend":{"Type":"vxlan"}}`

// newWorld brings up a cluster under traffic.
func newWorld(t *testing.T, nodes int) *world {
	t.Helper()
	w := &world{Lab: netlabtest.New(t, netlab.Options{Nodes: nodes, NetConf: netConf}), t: t, moved: map[*member]bool{}}
	for i, n := range w.Nodes {
		w.members = append(w.members, &member{Node: n, index: i})
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		running.Wait()
		for _, fl := range w.traffic.all() {
			fl.close()
		}
		w.disconnect()
	})
	require.NoError(t, w.connect())
	running.Go(func() { w.traffic.run(ctx) })
	require.NoError(t, w.each(t.Context(), w.members, w.join))
	return w
}

// connect connects to etcd anew: a client waits longer after each failure.
func (w *world) connect() (err error) {
	w.disconnect()
	w.etcd, err = clientv3.New(w.EtcdConfig())
	return err
}

func (w *world) disconnect() {
	if w.etcd != nil {
		_ = w.etcd.Close()
	}
}

// hosts are the lan, all nodes and their pods.
func (w *world) hosts() []*netlab.Host {
	hosts := []*netlab.Host{w.Lan}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.members {
		hosts = append(hosts, &m.Host)
		for _, p := range m.pods {
			hosts = append(hosts, &p.Host)
		}
	}
	return hosts
}

// each calls f for some members, at the same time.
func (w *world) each(ctx context.Context, ms []*member, f func(context.Context, *member) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range ms {
		g.Go(func() error {
			if err := f(ctx, m); err != nil {
				return fmt.Errorf("%s: %w", m.Name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// in returns the members that are in the cluster.
func (w *world) in() []*member {
	return slices.DeleteFunc(slices.Clone(w.members), func(m *member) bool { return !m.up })
}

func (w *world) out() []*member {
	return slices.DeleteFunc(slices.Clone(w.members), func(m *member) bool { return m.up })
}

// one chooses a member that is in the cluster.
func (w *world) one(r *rand.Rand) *member {
	in := w.in()
	return in[r.IntN(len(in))]
}

// two chooses two of them.
func (w *world) two(r *rand.Rand) (a, b *member) {
	in := w.in()
	order := r.Perm(len(in))
	return in[order[0]], in[order[1]]
}

// some chooses one of them or more.
func (w *world) some(r *rand.Rand) []*member {
	in := w.in()
	r.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
	return in[:1+r.IntN(len(in))]
}

// join starts the daemon and, once there is a subnet, the pods of a member.
func (w *world) join(ctx context.Context, m *member) error {
	if err := m.mark(ctx); err != nil {
		return err
	}
	if err := m.launch(); err != nil {
		return err
	}
	m.up = true
	return w.addPods(ctx, m)
}

func (m *member) launch() (err error) {
	m.daemon, err = m.StartTwilld()
	return err
}

// addPods adds a member's pods.
func (w *world) addPods(ctx context.Context, m *member) error {
	for _, name := range []string{"a", "b"} {
		if err := w.addPod(ctx, m, name); err != nil {
			return err
		}
	}
	return nil
}

// addPod adds a pod, as a container runtime does: again and again until the
// plugin is content.
func (w *world) addPod(ctx context.Context, m *member, name string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var p *netlab.Pod
	err := poll(ctx, 100*time.Millisecond, func() (err error) {
		m.made++
		p, err = m.AddPod(ctx, fmt.Sprintf("%s%d", name, m.made))
		return err
	})
	if err != nil {
		return err
	}
	mtu, err := p.MTU(ctx, "eth0")
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var others []*pod
	for _, o := range w.members {
		others = append(others, o.pods...)
	}
	q := &pod{Pod: p, member: m, name: name, mtu: mtu}
	m.pods = append(m.pods, q)
	return w.traffic.join(ctx, q, others)
}

// dropPods ends the traffic of a member's pods, and deletes them unless they
// are gone with their node.
func (w *world) dropPods(ctx context.Context, m *member, gone bool) error {
	w.mu.Lock()
	pods := m.pods
	m.pods = nil
	w.mu.Unlock()
	var errs []error
	for _, p := range pods {
		w.traffic.leave(p)
		if !gone {
			errs = append(errs, m.DelPod(ctx, p.Pod))
		}
	}
	return errors.Join(errs...)
}

// renewPods makes the pods anew.
func (w *world) renewPods(ctx context.Context, m *member) error {
	if err := w.dropPods(ctx, m, false); err != nil {
		return err
	}
	return w.addPods(ctx, m)
}

func (m *member) sh(ctx context.Context, script string) (string, error) {
	return m.Exec(ctx, "sh", "-ec", script)
}

// status asks the daemon, which may be stopped, for its status.
func (m *member) status(ctx context.Context) (s overlay.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err = m.Status(ctx, &s)
	return s, err
}

// dataDir is the store's.
func (w *world) dataDir() string { return filepath.Join(w.dir(), "store") }

// dir is the lab's directory.
func (w *world) dir() string { return filepath.Dir(filepath.Dir(w.Store.Log)) }
