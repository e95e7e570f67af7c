package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = netlabtest.Patience

// cluster is a lab and the daemons that a test has started in it.
type cluster struct {
	*netlab.Lab
	etcd *clientv3.Client

	mu      sync.Mutex
	daemons map[*netlab.Node]*netlab.Process
}

// newCluster makes a lab in which no daemon runs yet.
func newCluster(t *testing.T, o netlab.Options) *cluster {
	t.Helper()
	c := &cluster{Lab: netlabtest.New(t, o), daemons: map[*netlab.Node]*netlab.Process{}}
	c.connect(t)
	t.Cleanup(func() { require.NoError(t, c.etcd.Close()) })
	return c
}

// connect connects to etcd.
func (c *cluster) connect(t *testing.T) {
	t.Helper()
	var err error
	c.etcd, err = clientv3.New(c.EtcdConfig())
	require.NoError(t, err)
}

// restartStore starts etcd after it was killed. The connection is made anew:
// the old one may not have noticed, and waits longer after each failure.
func (c *cluster) restartStore(t *testing.T) {
	t.Helper()
	require.NoError(t, c.Store.Restart())
	require.NoError(t, c.etcd.Close())
	c.connect(t)
	netlabtest.Eventually(t, "etcd answers", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := c.etcd.Get(ctx, leases)
		return err
	})
}

// deployed makes a lab with a ready daemon and a pod on each node. The pods
// are in the order of the nodes.
func deployed(t *testing.T, o netlab.Options, flags ...string) (*cluster, []*netlab.Pod) {
	t.Helper()
	c := newCluster(t, o)
	pods := c.deploy(t, c.Nodes, flags...)
	return c, pods
}

// deploy brings up a daemon and a pod on each of some nodes.
func (c *cluster) deploy(t *testing.T, nodes []*netlab.Node, flags ...string) (pods []*netlab.Pod) {
	t.Helper()
	for _, n := range nodes {
		c.launch(t, n, flags...)
	}
	for _, n := range nodes {
		c.awaitReady(t, n)
		pods = append(pods, netlabtest.AddPod(t, n, "pod"))
	}
	for i, n := range nodes {
		c.awaitWays(t, n)
		awaitGuarded(t, pods[i])
	}
	return pods
}

// awaitGuarded waits until a pod is held to its addresses. Looks at the host's
// interfaces are paced: that is what a daemon writes last of all, some time after
// the pod has come.
func awaitGuarded(t *testing.T, p *netlab.Pod) {
	t.Helper()
	netlabtest.Eventually(t, p.Name+" is held to its addresses", func() error {
		table, err := p.Node.Exec(t.Context(), "nft", "list", "table", "bridge", "twill-pods")
		if err != nil {
			return err
		}
		words := strings.Fields(strings.ReplaceAll(table, ",", " "))
		for _, a := range p.Addrs {
			if a.IsValid() && !slices.Contains(words, a.String()) {
				return fmt.Errorf("%s is not in it:\n%s", a, table)
			}
		}
		return nil
	})
}

// launch starts the node's daemon, with other flags than before perhaps.
func (c *cluster) launch(t *testing.T, n *netlab.Node, flags ...string) *netlab.Process {
	t.Helper()
	p, err := n.StartTwilld(flags...)
	require.NoError(t, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.daemons[n] = p
	return p
}

// start is launch, and waits until the daemon is ready.
func (c *cluster) start(t *testing.T, n *netlab.Node, flags ...string) {
	t.Helper()
	c.launch(t, n, flags...)
	c.awaitReady(t, n)
}

func (c *cluster) daemon(n *netlab.Node) *netlab.Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.daemons[n]
}

// awaitReady waits the longer the more daemons share the machine.
func (c *cluster) awaitReady(t *testing.T, n *netlab.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience+time.Duration(len(c.Nodes))*3*time.Second)
	defer cancel()
	require.NoError(t, n.WaitReady(ctx, c.daemon(n)))
}

func (c *cluster) kill(t *testing.T, n *netlab.Node) {
	t.Helper()
	require.NoError(t, c.daemon(n).Kill(t.Context()))
}

func (c *cluster) stop(t *testing.T, n *netlab.Node) {
	t.Helper()
	require.NoError(t, c.daemon(n).Stop(t.Context()))
}

func (c *cluster) restart(t *testing.T, n *netlab.Node) {
	t.Helper()
	require.NoError(t, c.daemon(n).Restart())
	c.awaitReady(t, n)
}

// get asks the daemon of a node over HTTP, on its health address or, where
// network is "unix", on its status socket.
func get(t *testing.T, n *netlab.Node, network, address, path string) (code int, body string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return n.DialContext(ctx, network, address)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://twilld"+path, nil)
	require.NoError(t, err)
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// health asks the daemon of a node on its health address, as soon as it listens.
func health(t *testing.T, n *netlab.Node, path string) (code int, body string) {
	t.Helper()
	netlabtest.Eventually(t, n.Name+" answers to "+path, func() (err error) {
		code, body, err = get(t, n, "tcp", "127.0.0.1:8471", path)
		return err
	})
	return code, body
}

// metric returns the value of a metric without labels.
func metric(t *testing.T, n *netlab.Node, name string) string {
	t.Helper()
	code, body := health(t, n, "/metrics")
	require.Equal(t, http.StatusOK, code)
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	require.FailNow(t, "no metric "+name)
	return ""
}

func askStatus(t *testing.T, n *netlab.Node) (s overlay.Status, err error) {
	t.Helper()
	_, body, err := get(t, n, "unix", "/run/twill/twilld.sock", "/status")
	if err == nil {
		err = json.Unmarshal([]byte(body), &s)
	}
	return s, err
}

func status(t *testing.T, n *netlab.Node) overlay.Status {
	t.Helper()
	return awaitStatus(t, n, "a status", func(overlay.Status) bool { return true })
}

// awaitStatus waits for a status that is as is says.
func awaitStatus(t *testing.T, n *netlab.Node, what string, is func(overlay.Status) bool) (s overlay.Status) {
	t.Helper()
	netlabtest.Eventually(t, n.Name+": "+what, func() (err error) {
		if s, err = askStatus(t, n); err != nil {
			return err
		}
		if !is(s) {
			return fmt.Errorf("the status is:\n%s", s.Text())
		}
		return nil
	})
	return s
}

// logged returns how often the log of a process holds a text.
func logged(t *testing.T, p *netlab.Process, text string) int {
	t.Helper()
	b, err := os.ReadFile(p.Log)
	require.NoError(t, err)
	return strings.Count(string(b), text)
}

// awaitLogged waits until the log of a process holds a text. What the status
// tells may be logged a moment later.
func awaitLogged(t *testing.T, p *netlab.Process, text string) {
	t.Helper()
	netlabtest.Eventually(t, p.Name+" logs "+text, func() error {
		if logged(t, p, text) == 0 {
			return errors.New("it has not")
		}
		return nil
	})
}
