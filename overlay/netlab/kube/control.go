package kube

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet"
)

// Control is the control plane, on node1. Its parts may be killed and
// restarted; etcd is the lab's Store.
type Control struct {
	APIServer, ControllerManager, Scheduler *netlab.Process
}

// in returns a file of /etc/kubernetes as its node knows it.
func in(file string) string { return filepath.Join(etcKubernetes, file) }

func (c *Cluster) startControl(ctx context.Context) (err error) {
	n := c.lab.Node(1)
	if c.Control.APIServer, err = c.start(&n.Host, "kube-apiserver", c.apiServerArgs()...); err != nil {
		return err
	}
	// The others give up where there is no API for a while.
	if err := c.WaitAPI(ctx); err != nil {
		return err
	}
	c.step("kube-apiserver: %s", c.apiURL())
	if c.Control.ControllerManager, err = c.start(&n.Host, "kube-controller-manager", c.controllerManagerArgs()...); err != nil {
		return err
	}
	config := "--kubeconfig=" + in("scheduler.conf")
	c.Control.Scheduler, err = c.start(&n.Host, "kube-scheduler", append(delegated("scheduler.conf"), config)...)
	return err
}

func (c *Cluster) apiServerArgs() []string {
	return []string{
		"--etcd-servers=" + strings.Join(c.lab.EtcdEndpoints(), ","),
		"--bind-address=" + unspecified[c.opts.primary()],
		"--secure-port=" + apiPort,
		"--advertise-address=" + c.lab.Node(1).Addrs[c.opts.primary()].String(),
		"--service-cluster-ip-range=" + c.opts.serviceNetworks(),
		"--tls-cert-file=" + in("apiserver.crt"), "--tls-private-key-file=" + in("apiserver.key"),
		"--client-ca-file=" + in("ca.crt"),
		"--token-auth-file=" + in("tokens.csv"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + in("sa.pub"), "--service-account-signing-key-file=" + in("sa.key"),
		"--kubelet-client-certificate=" + in("kubelet-client.crt"), "--kubelet-client-key=" + in("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + in("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + in("front-proxy-client.crt"), "--proxy-client-key-file=" + in("front-proxy-client.key"),
		"--enable-aggregator-routing=true", // node1 has kube-proxy, but not before there is an API
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--profiling=false",
	}
}

func (c *Cluster) controllerManagerArgs() []string {
	return append(delegated("controller-manager.conf"),
		"--kubeconfig="+in("controller-manager.conf"),
		"--use-service-account-credentials=true",
		"--service-account-private-key-file="+in("sa.key"), "--root-ca-file="+in("ca.crt"),
		"--cluster-signing-cert-file="+in("ca.crt"), "--cluster-signing-key-file="+in("ca.key"),
		"--allocate-node-cidrs=true", "--cluster-cidr="+c.opts.podNetworks(),
		"--service-cluster-ip-range="+c.opts.serviceNetworks(),
		// A dead node is one after 20 s, not 50: tests wait for it.
		"--node-monitor-grace-period=20s", "--node-monitor-period=2s",
	)
}

// delegated are flags of a part that asks the API who may ask it.
func delegated(kubeconfig string) []string {
	return []string{
		"--authentication-kubeconfig=" + in(kubeconfig), "--authorization-kubeconfig=" + in(kubeconfig),
		"--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false",
	}
}

var unspecified = subnet.PerFamily[string]{"0.0.0.0", "::"}

// start starts one of the programs on a host.
func (c *Cluster) start(h *netlab.Host, name string, args ...string) (*netlab.Process, error) {
	program, err := c.opts.Parts.program(name)
	if err != nil {
		return nil, fmt.Errorf("starting %s on %s: %w", name, h.Name, err)
	}
	return h.Start(name, append([]string{"env", c.opts.Parts.path(), program}, args...)...)
}
