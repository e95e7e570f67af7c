package netlab

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"

	"github.com/twill-net/twill/subnet"
)

// lanIP configures the lan. It enters the network namespace alone: in the
// machine's PID namespace, "netns PID" means the PIDs that this process knows.
func (l *Lab) lanIP(ctx context.Context, lines string) error {
	pid := strconv.Itoa(l.Lan.space().id.PID)
	cmd := exec.CommandContext(ctx, "nsenter", "-t", pid, "--net", "--", "ip", "-batch", "-")
	cmd.Env = environ(l.opts.Binaries)
	cmd.Stdin = strings.NewReader(lines)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("connecting hosts to the lan: %w: %s", err, out)
	}
	return nil
}

func (l *Lab) underlaySummary() string {
	var nets []string
	for _, f := range l.opts.Underlay.Families() {
		nets = append(nets, routerAddr(f, 0).Masked().String())
	}
	return fmt.Sprintf("%s in a namespace of its own, MTU %d", strings.Join(nets, " and "), l.opts.MTU)
}

func (l *Lab) nodesSummary() string {
	first, last := l.Nodes[0], l.Nodes[len(l.Nodes)-1]
	f := l.opts.Underlay.Families()[0]
	return fmt.Sprintf("%d, %s %s to %s %s", len(l.Nodes), first.Name, first.Addrs[f], last.Name, last.Addrs[f])
}

// joinAddrs writes the addresses that are there.
func joinAddrs(addrs subnet.PerFamily[netip.Addr]) string {
	var all []string
	for _, a := range addrs {
		if a.IsValid() {
			all = append(all, a.String())
		}
	}
	return strings.Join(all, " and ")
}
