package chain

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/envfile"
)

// This binary is also what runs in pods and on hosts, as its own client and
// server: its first argument says so.
const (
	serveArg = "serve" // PORT: answers with the address that asked, over TCP and UDP
	askArg   = "ask"   // NETWORK ADDRESS: prints the answer
	sinkArg  = "sink"  // PORT: reads what is sent, and answers with how much that was
	sendArg  = "send"  // ADDRESS BYTES: prints how long it took, in ns
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		if tool, ok := map[string]func(args []string) error{serveArg: serve, askArg: ask, sinkArg: sink, sendArg: send}[os.Args[1]]; ok {
			if err := tool(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		}
	}
	goleak.VerifyTestMain(m)
}

func serve(args []string) error {
	udp, err := net.ListenPacket("udp", ":"+args[0])
	if err != nil {
		return err
	}
	tcp, err := net.Listen("tcp", ":"+args[0])
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 64)
		for {
			_, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte(from.String()), from)
		}
	}()
	for {
		c, err := tcp.Accept()
		if err != nil {
			return err
		}
		_, _ = io.WriteString(c, c.RemoteAddr().String())
		c.Close()
	}
}

// patience is for one answer.
const patience = time.Second

func ask(args []string) error {
	c, err := net.DialTimeout(args[0], args[1], patience)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if args[0] == "udp" {
		if _, err := io.WriteString(c, "who am I?"); err != nil {
			return err
		}
	}
	b := make([]byte, 64)
	n, err := c.Read(b)
	if err != nil {
		return err
	}
	from, err := netip.ParseAddrPort(string(b[:n]))
	if err != nil {
		return err
	}
	fmt.Println(from.Addr().Unmap())
	return nil
}

func sink(args []string) error {
	l, err := net.Listen("tcp", ":"+args[0])
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		n, _ := io.Copy(io.Discard, c)
		fmt.Fprintln(c, n)
		c.Close()
	}
}

func send(args []string) error {
	var n int64
	if _, err := fmt.Sscan(args[1], &n); err != nil {
		return err
	}
	c, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	start := time.Now()
	if _, err := io.CopyN(c, zeros{}, n); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err
	}
	if strings.TrimSpace(line) != args[1] {
		return fmt.Errorf("%s bytes of %s arrived", strings.TrimSpace(line), args[1])
	}
	fmt.Println(time.Since(start).Nanoseconds())
	return nil
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// lab is two nodes with daemons that masquerade. Node one has the conflist of
// dist/, and the pods with ports.
type lab struct {
	*netlab.Lab
	one, two          *netlab.Node
	neighbour, remote *netlab.Pod // on node one and two
	gateway           subnet.PerFamily[netip.Addr]
	daemon            *netlab.Process // of node one
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{Lab: netlabtest.New(t, netlab.Options{Nodes: 2})}
	l.one, l.two = l.Node(1), l.Node(2)
	ctx, cancel := context.WithTimeout(t.Context(), netlabtest.Patience)
	defer cancel()
	for i := len(l.Nodes) - 1; i >= 0; i-- {
		n := l.Nodes[i]
		// What Kubernetes requires of nodes: packets between pods of one node
		// are seen by the host's rules.
		sh(t, &n.Host, "echo 1 | tee /proc/sys/net/bridge/bridge-nf-call-iptables /proc/sys/net/bridge/bridge-nf-call-ip6tables")
		d, err := n.StartTwilld()
		require.NoError(t, err)
		require.NoError(t, n.WaitReady(ctx, d))
		l.daemon = d
	}
	conf, err := os.ReadFile("../../../dist/cni-conf/10-twill.conflist")
	require.NoError(t, err)
	l.configure(t, conf)
	l.neighbour, err = l.one.AddPod(t.Context(), "neighbour")
	require.NoError(t, err)
	l.remote, err = l.two.AddPod(t.Context(), "remote")
	require.NoError(t, err)
	env, err := envfile.Read(l.one.Path("/run/twill/subnet.env"))
	require.NoError(t, err)
	for _, f := range subnet.Families {
		l.gateway[f] = env.Subnets[f].Addr()
	}
	return l
}

const confFile = "/etc/cni/net.d/10-twill.conflist"

func (l *lab) configure(t *testing.T, conf []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(l.one.Path(confFile), conf, 0o644))
}

// backend sets the key of portmap, "" for none.
func (l *lab) backend(t *testing.T, name string) {
	t.Helper()
	var list map[string]any
	b, err := os.ReadFile(l.one.Path(confFile))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &list))
	for _, p := range list["plugins"].([]any) {
		if p := p.(map[string]any); p["type"] == "portmap" {
			delete(p, "backend")
			if name != "" {
				p["backend"] = name
			}
		}
	}
	b, err = json.Marshal(list)
	require.NoError(t, err)
	l.configure(t, b)
}

// pod is a container on node one that was given capabilities, as a kubelet
// gives a pod its ports and its bandwidth.
type pod struct {
	lab   *lab
	name  string
	addrs subnet.PerFamily[netip.Addr]
	caps  string
}

// cnitool calls the plugins on node one.
func (p *pod) cnitool(ctx context.Context, verb string) (string, error) {
	return p.lab.one.Exec(ctx, "env", "CNI_PATH=/opt/cni/bin", "NETCONFPATH=/etc/cni/net.d", "CAP_ARGS="+p.caps,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME="+p.name,
		"/opt/cni/bin/cnitool", verb, "cbr0", "/run/netns/"+p.name)
}

func (l *lab) addPod(t *testing.T, name string, caps map[string]any) (*pod, error) {
	t.Helper()
	b, err := json.Marshal(caps)
	require.NoError(t, err)
	p := &pod{lab: l, name: name, caps: string(b)}
	sh(t, &l.one.Host, "ip netns add "+name+" && ip -n "+name+" link set lo up")
	out, err := p.cnitool(t.Context(), "add")
	if err != nil {
		_, errDel := p.cnitool(t.Context(), "del")
		return p, errors.Join(err, errDel)
	}
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	require.NoError(t, json.Unmarshal([]byte(out), &result), out)
	for _, ip := range result.IPs {
		p.addrs[subnet.FamilyOf(ip.Address.Addr())] = ip.Address.Addr()
	}
	return p, nil
}

func (p *pod) del(t *testing.T) {
	t.Helper()
	for range 2 {
		out, err := p.cnitool(t.Context(), "del")
		require.NoError(t, err, out)
	}
	sh(t, &p.lab.one.Host, "ip netns del "+p.name)
}

// start runs a server of this binary in the pod.
func (p *pod) start(t *testing.T, args ...string) *netlab.Process {
	t.Helper()
	d, err := p.lab.one.Start(p.name+"-"+args[0]+args[1], append([]string{"ip", "netns", "exec", p.name, os.Args[0]}, args...)...)
	require.NoError(t, err)
	return d
}

func sh(t *testing.T, h *netlab.Host, script string) string {
	t.Helper()
	out, err := h.Exec(t.Context(), "sh", "-ec", script)
	require.NoError(t, err)
	return out
}

// asks returns the address that the server sees.
func asks(ctx context.Context, network, address string, h *netlab.Host, prefix ...string) (string, error) {
	out, err := h.Exec(ctx, append(prefix, os.Args[0], askArg, network, address)...)
	return strings.TrimSpace(out), err
}
