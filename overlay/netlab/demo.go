package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/twill-net/twill/subnet"
)

// maxShown is how many pods' names fit beside each other.
const maxShown = 8

// Demo makes a lab, shows on out that its pods reach each other and that the
// overlay repairs itself, and takes everything down again, also when ctx is
// cancelled. The error is about what did not work as it must.
func Demo(ctx context.Context, o Options, podsPerNode int, out io.Writer) (err error) {
	if n := o.Nodes * podsPerNode; n > maxShown {
		return fmt.Errorf("%d pods make a table too large to read, must be %d or less; `twill lab up` takes more", n, maxShown)
	}
	o.Log = out
	fmt.Fprintln(out, "A lab on this machine: every node is a set of namespaces")
	l, err := New(ctx, o)
	if err == nil {
		err = errors.Join(l.show(ctx, podsPerNode, out), l.takeDown(ctx, out))
	}
	if ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

func (l *Lab) takeDown(ctx context.Context, out io.Writer) error {
	if ctx.Err() != nil {
		fmt.Fprintln(out, "\ninterrupted")
	}
	if err := l.Close(); err != nil {
		return fmt.Errorf("taking the lab down: %w", err)
	}
	fmt.Fprintln(out)
	l.step("the lab is down")
	return nil
}

func (l *Lab) show(ctx context.Context, podsPerNode int, out io.Writer) error {
	pods, err := l.Deploy(ctx, podsPerNode)
	if err != nil {
		return err
	}
	leases, err := l.Lan.Exec(ctx, l.opts.Binaries.Twill, "leases", "--etcd-endpoints="+strings.Join(l.EtcdEndpoints(), ","))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nLeases in etcd\n%s", indent(leases))
	mtu, err := l.showPods(ctx, pods, out)
	if err != nil {
		return err
	}
	all, failed := 0, 0
	for _, f := range subnet.Families {
		if len(pods) == 0 || !pods[0].Addrs[f].IsValid() {
			continue
		}
		m := newMatrix(f, pods, l.Outside, mtu)
		if err := m.run(ctx); err != nil {
			return err
		}
		m.write(out)
		a, b := m.count()
		all, failed = all+a, failed+b
	}
	fmt.Fprintf(out, "\n%d of %d pings answered\n", all-failed, all)
	var errs []error
	if failed > 0 {
		errs = append(errs, fmt.Errorf("%d of %d pings failed: `twill lab up` starts the same lab and leaves it running to look into", failed, all))
	}
	errs = append(errs, l.showSources(ctx, pods, out), l.showRepair(ctx, pods, out))
	return errors.Join(errs...)
}

// showPods prints the pods and returns the MTU of their links.
func (l *Lab) showPods(ctx context.Context, pods []*Pod, out io.Writer) ([]int, error) {
	fmt.Fprintln(out, "\nPods")
	var all []int
	for _, p := range pods {
		mtu, err := p.MTU(ctx, "eth0")
		if err != nil {
			return nil, err
		}
		all = append(all, mtu)
		fmt.Fprintf(out, "  %-13s %s, MTU %d\n", p.Name, joinAddrs(p.Addrs), mtu)
	}
	return all, nil
}

// showSources sends a datagram from a pod of each node to the outside host and
// checks that the node's address arrives.
func (l *Lab) showSources(ctx context.Context, pods []*Pod, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var errs []error
	var lines []string
	for _, p := range pods {
		var seen subnet.PerFamily[string]
		for _, f := range subnet.Families {
			// A family that the underlay lacks does not lead outside.
			if !p.Addrs[f].IsValid() || !l.Outside.Addrs[f].IsValid() {
				continue
			}
			source, err := SourceSeen(ctx, &p.Host, l.Outside, l.Outside.Addrs[f])
			if err == nil && source != p.Node.Addrs[f] {
				err = fmt.Errorf("the outside host sees %s as %s, not as its node's %s: it is not masqueraded", p.Name, source, p.Node.Addrs[f])
			}
			errs = append(errs, err)
			seen[f] = source.String()
		}
		if s := strings.TrimSpace(strings.Join(seen[:], " ")); s != "" {
			lines = append(lines, fmt.Sprintf("  %-13s %s\n", p.Name, s))
		}
	}
	if len(lines) > 0 {
		fmt.Fprintf(out, "\nThe outside host sees them as their nodes (masquerade)\n%s", strings.Join(lines, ""))
	}
	return errors.Join(errs...)
}

// showRepair deletes the tunnel device under a running ping.
func (l *Lab) showRepair(ctx context.Context, pods []*Pod, out io.Writer) error {
	other := slices.IndexFunc(pods, func(p *Pod) bool { return p.Node != pods[0].Node })
	if other < 0 {
		return nil // one node: no tunnel
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	from, to := pods[0], pods[other]
	f := subnet.IPv4
	if !to.Addrs[f].IsValid() {
		f = subnet.IPv6
	}
	device, err := tunnelTo(ctx, to.Node, from, f)
	if err != nil || device == "" {
		return err
	}
	mac := func() (string, error) { return to.Node.Exec(ctx, "cat", "/sys/class/net/"+device+"/address") }
	before, err := mac()
	if err != nil {
		return err
	}
	const every = 5 * time.Millisecond
	fmt.Fprintf(out, "\nRepair: %s is deleted on %s while %s pings %s every %v\n", device, to.Node.Name, from.Name, to.Name, every)
	flow, err := from.PingContinuously(ctx, to.Addrs[f], every)
	if err != nil {
		return err
	}
	if err := deleteUnder(ctx, flow, to.Node, device); err != nil {
		return fmt.Errorf("waiting for the repair of %s on %s: %w", device, to.Node.Name, err)
	}
	loss, err := flow.Stop()
	if err != nil {
		return err
	}
	after, err := mac()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "  traffic flows again after %d ms; %d of %d packets lost\n", loss.LongestGap.Milliseconds(), loss.Lost(), loss.Sent)
	if after != before {
		return fmt.Errorf("%s on %s came back with MAC %s, it was %s", device, to.Node.Name, strings.TrimSpace(after), strings.TrimSpace(before))
	}
	fmt.Fprintf(out, "  the device is back with the same MAC, %s", after)
	return nil
}

// deleteUnder deletes a device of the node while packets flow, and returns when
// it is back and packets flow again.
func deleteUnder(ctx context.Context, flow *Flow, n *Node, device string) error {
	if err := flow.Await(ctx, 50); err != nil {
		return err
	}
	if _, err := n.Exec(ctx, "ip", "link", "del", device); err != nil {
		return err
	}
	err := poll(ctx, 5*time.Millisecond, func() (bool, error) {
		_, err := n.Exec(ctx, "ip", "link", "show", device)
		return err == nil, nil
	})
	if err != nil {
		return err
	}
	return flow.Await(ctx, 50)
}

// tunnelTo returns the VXLAN device by which a node reaches a pod, or nothing
// when it goes without.
func tunnelTo(ctx context.Context, n *Node, p *Pod, f subnet.Family) (string, error) {
	route, err := n.Exec(ctx, "ip", "route", "get", p.Addrs[f].String())
	if err != nil {
		return "", err
	}
	_, after, _ := strings.Cut(route, " dev ")
	device, _, _ := strings.Cut(after, " ")
	links, err := n.Exec(ctx, "ip", "-o", "link", "show", "type", "vxlan")
	if err != nil || !strings.Contains(links, " "+device+":") {
		return "", err
	}
	return device, nil
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("  " + strings.TrimRight(line, " \n") + "\n")
	}
	return b.String()
}
