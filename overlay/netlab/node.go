package netlab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/twill-net/twill/subnet"
)

// Node is a machine of the cluster.
type Node struct {
	Host
	number  int
	segment int
	address subnet.PerFamily[netip.Prefix]
}

func (l *Lab) newNode(number int) *Node {
	n := &Node{number: number, segment: (number - 1) % l.opts.Segments}
	n.Host = *l.newHost(fmt.Sprintf("node%d", number))
	n.address = l.perFamily(func(f subnet.Family) netip.Prefix { return nodeAddr(f, n.segment, number) })
	for f, p := range n.address {
		if p.IsValid() {
			n.Addrs[f] = p.Addr()
		}
	}
	return n
}

// boot starts the node and connects it to the underlay.
func (n *Node) boot(ctx context.Context) error {
	if m := n.lab.opts.Machine; m != nil {
		if err := m.freshCgroup(ctx, n.Name); err != nil {
			return err
		}
	}
	s, err := n.lab.startHost(n.Name)
	if err != nil {
		return err
	}
	if err := n.lab.lanIP(ctx, n.lab.plugBatch(n, s.id.PID)); err != nil {
		return err
	}
	_, err = n.ExecInput(ctx, n.lab.hostBatch(n.address, n.gateways()), "ip", "-batch", "-")
	return err
}

func (n *Node) gateways() subnet.PerFamily[netip.Prefix] {
	return n.lab.perFamily(func(f subnet.Family) netip.Prefix { return routerAddr(f, n.segment) })
}

// Reboot is a power cut: every process, pod and link of the node is gone, and
// /run is empty; /var/lib/twill, /var/lib/cni and /etc/cni stay.
func (n *Node) Reboot(ctx context.Context) error {
	n.lab.end(n.space())
	// The kernel frees namespaces in its own time, and with them the other
	// end of the link.
	if _, err := n.lab.Lan.Exec(ctx, "sh", "-c", `ip link del "$1" 2>/dev/null || ! ip link show "$1" >/dev/null 2>&1`, "sh", n.Name); err != nil {
		return err
	}
	return n.boot(ctx)
}

// Reinstall is a reboot with an empty disk and a new machine ID.
func (n *Node) Reinstall(ctx context.Context) error {
	n.lab.end(n.space())
	if err := os.RemoveAll(filepath.Join(n.lab.opts.Dir, n.Name)); err != nil {
		return err
	}
	if err := n.lab.makeDisk(n.Name); err != nil {
		return err
	}
	return n.Reboot(ctx)
}

// healthzPort is where the lab's daemons answer /readyz, on the node's loopback.
const healthzPort = "8471"

// StartTwilld starts the node daemon with the lab's etcd, the node's name,
// masquerading and healthz on 127.0.0.1:8471; extra flags follow and win.
func (n *Node) StartTwilld(extra ...string) (*Process, error) {
	args := []string{
		n.lab.opts.Binaries.Twilld,
		"--etcd-endpoints=" + strings.Join(n.lab.EtcdEndpoints(), ","),
		"--node-name=" + n.Name,
		"--ip-masq",
		"--healthz-ip=127.0.0.1", "--healthz-port=" + healthzPort,
	}
	return n.Start("twilld", append(args, extra...)...)
}

// get asks something of the node over HTTP.
func (n *Node) get(ctx context.Context, network, address, path string) (*http.Response, error) {
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return n.DialContext(ctx, network, address)
		},
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.Name+path, nil)
	if err != nil {
		return nil, err
	}
	return client.Do(req)
}

// Status decodes what the daemon says of itself into v, an overlay.Status or a
// part of it.
func (n *Node) Status(ctx context.Context, v any) error {
	resp, err := n.get(ctx, "unix", "/run/twill/twilld.sock", "/status")
	if err != nil {
		return fmt.Errorf("asking twilld on %s for its status: %w", n.Name, err)
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(v)
}

// WaitReady waits until the daemon answers /readyz with 200, and fails early
// when the daemon ends.
func (n *Node) WaitReady(ctx context.Context, daemon *Process) error {
	return n.waitTwilld(ctx, daemon, func() error {
		resp, err := n.get(ctx, "tcp", "127.0.0.1:"+healthzPort, "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			why, _ := io.ReadAll(resp.Body)
			return fmt.Errorf("/readyz says %s: %s", resp.Status, bytes.TrimSpace(why))
		}
		return nil
	})
}

// WaitPeers waits until the daemon has count peers, all of them reachable as
// far as it can tell.
func (n *Node) WaitPeers(ctx context.Context, daemon *Process, count int) error {
	return n.waitTwilld(ctx, daemon, func() error {
		var s struct {
			Peers []struct{ Node, Error string }
		}
		if err := n.Status(ctx, &s); err != nil {
			return err
		}
		for _, p := range s.Peers {
			if p.Error != "" {
				return fmt.Errorf("peer %s: %s", p.Node, p.Error)
			}
		}
		if len(s.Peers) != count {
			return fmt.Errorf("it has %d peers, not %d", len(s.Peers), count)
		}
		return nil
	})
}

// waitTwilld calls check until it has no error.
func (n *Node) waitTwilld(ctx context.Context, daemon *Process, check func() error) error {
	var last error
	err := poll(ctx, 20*time.Millisecond, func() (bool, error) {
		if last = check(); last != nil && !daemon.Running() {
			return false, daemon.Wait(ctx)
		}
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for twilld on %s: %w (%w)", n.Name, daemon.explain(err), last)
	}
	return nil
}
