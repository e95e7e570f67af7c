package bench

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/twill-net/twill/overlay/netlab"
)

// daemon is what is measured: Twill's, or a peer daemon beside it.
type daemon struct {
	name     string
	links    string // regular expression of its devices
	protocol int    // of its routes
	args     []string
	ready    string   // script that succeeds once it is ready
	clean    string   // script that removes what it leaves in the kernel and on disk
	device   string   // its device
	env      string   // subnet.env
	conf     string   // CNI configuration, of one plugin
	writes   bool     // it is known to write at a warm restart
	iptables []string // flags that have it use iptables
}

const healthPort = "8471"

const delegate = `"delegate":{"hairpinMode":true,"isDefaultGateway":true}`

func twill(b netlab.Binaries, endpoints []string) daemon {
	args := []string{
		b.Twilld, "--etcd-endpoints=" + strings.Join(endpoints, ","), "--ip-masq",
		"--healthz-ip=127.0.0.1", "--healthz-port=" + healthPort,
	}
	return daemon{
		name: "twill", links: `^twill(-v6)?\.[0-9]+$`, protocol: 116, args: args, device: "twill.1",
		env: "/run/twill/subnet.env", conf: `{"cniVersion":"1.0.0","name":"cbr0","type":"twill",` + delegate + `}`,
		ready: `exec 3<>/dev/tcp/127.0.0.1/` + healthPort + ` && printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3 && grep -q ' 200 ' <&3`,
		clean: b.Twilld + " --cleanup", iptables: []string{"--firewall=iptables"},
	}
}

// twillOnKube is Twill's daemon with its leases in Nodes.
func twillOnKube(b netlab.Binaries, node, kubeconfig, netConf string) daemon {
	d := twill(b, nil)
	d.args = []string{
		b.Twilld, "--kube-subnet-mgr", "--kubeconfig-file=" + kubeconfig, "--net-config-path=" + netConf, "--node-name=" + node, "--ip-masq",
		"--healthz-ip=127.0.0.1", "--healthz-port=" + healthPort,
	}
	return d
}

// peerName is what a peer daemon is called in reports.
const peerName = "peer"

// flannel is a peer daemon that takes flannel's flags.
func flannel(program string, endpoints []string) daemon {
	return daemon{
		name: peerName, links: `^flannel(-v6)?\.[0-9]+$`, protocol: 3, device: "flannel.1", writes: true, // RTPROT_BOOT
		args: []string{
			program, "-etcd-endpoints=" + strings.Join(endpoints, ","), "-iface=eth0", "-ip-masq",
			"-subnet-file=/run/flannel/subnet.env",
		},
		env: "/run/flannel/subnet.env", conf: `{"cniVersion":"1.0.0","name":"cbr0","type":"flannel",` + delegate + `}`,
		ready: "test -s /run/flannel/subnet.env",
		clean: "ip link del flannel.1; nft flush ruleset; rm -rf /run/flannel; true",
	}
}

// running is a daemon in a node.
type running struct {
	daemon
	*place
	Started
}

// start starts the daemon.
func (p *place) start(ctx context.Context, d daemon) (*running, error) {
	r := &running{daemon: d, place: p}
	return r, p.call(ctx, "Start", d.args, &r.Started)
}

func (r *running) stop(ctx context.Context) error {
	return r.call(ctx, "Stop", r.PID, &Nothing{})
}

func (r *running) usage(ctx context.Context) (u Usage, err error) {
	err = r.call(ctx, "Usage", r.PID, &u)
	return u, err
}

// awaitReady waits until the daemon says that it is ready.
func (r *running) awaitReady(ctx context.Context, limit time.Duration) error {
	_, err := r.run(ctx, fmt.Sprintf("timeout %d bash -c 'until { %s; } 2>/dev/null; do sleep 0.01; done'", int(limit.Seconds()), strings.ReplaceAll(r.ready, "'", `'\''`)))
	return err
}
