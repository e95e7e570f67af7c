package kube

import (
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/twill-net/twill/subnet"
)

// etcKubernetes is where a node has its keys and configurations, as with
// kubeadm. It is written from outside, into the node's disk.
const etcKubernetes = "/etc/kubernetes"

// apiPort is kube-apiserver's.
const apiPort = "6443"

// apiURL is how everybody reaches the API: at node1, in the primary family.
func (c *Cluster) apiURL() string {
	return "https://" + net.JoinHostPort(c.lab.Node(1).Addrs[c.opts.primary()].String(), apiPort)
}

// users are those who the API knows by a token, in the form of
// --token-auth-file. Nodes come besides.
var users = []string{
	`admin-token,admin,admin,system:masters`,
	`controller-token,system:kube-controller-manager,controller`,
	`scheduler-token,system:kube-scheduler,scheduler`,
	`proxy-token,system:kube-proxy,proxy`,
}

// nodeToken is a kubelet's.
func nodeToken(node string) string { return node + "-token" }

// writeAccess makes the cluster's keys and the kubeconfigs of its parts.
func (c *Cluster) writeAccess() error {
	dir := c.configDir(c.lab.Node(1).Name)
	ca, err := newAuthority(dir, "ca")
	if err != nil {
		return err
	}
	front, err := newAuthority(dir, "front-proxy-ca")
	if err != nil {
		return err
	}
	if err := ca.issue("apiserver", pkix.Name{CommonName: "kube-apiserver"}, []string{
		"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
	}, c.apiAddresses()); err != nil {
		return err
	}
	// The API server as a client: of kubelets, who ask it what this user may do,
	// and of extension API servers.
	if err := ca.issue("kubelet-client", pkix.Name{CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}}, nil, nil); err != nil {
		return err
	}
	if err := front.issue("front-proxy-client", pkix.Name{CommonName: "front-proxy-client"}, nil, nil); err != nil {
		return err
	}
	if err := writeServiceAccountKeys(dir); err != nil {
		return err
	}
	return c.writeUsers(dir)
}

func (c *Cluster) apiAddresses() []net.IP {
	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	for _, f := range subnet.Families {
		ips = append(ips, net.ParseIP(firstService[f]))
		if a := c.lab.Node(1).Addrs[f]; a.IsValid() {
			ips = append(ips, a.AsSlice())
		}
	}
	return ips
}

func (c *Cluster) writeUsers(dir string) error {
	pem, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return err
	}
	c.ca = pem
	tokens := strings.Join(users, "\n") + "\n"
	files := map[string]string{
		c.Kubeconfig(): c.kubeconfig("admin-token"),
		filepath.Join(dir, "controller-manager.conf"): c.kubeconfig("controller-token"),
		filepath.Join(dir, "scheduler.conf"):          c.kubeconfig("scheduler-token"),
	}
	for _, n := range c.lab.Nodes {
		tokens += fmt.Sprintf("%s,system:node:%s,%[2]s,system:nodes\n", nodeToken(n.Name), n.Name)
		d := c.configDir(n.Name)
		files[filepath.Join(d, "kubelet.conf")] = c.kubeconfig(nodeToken(n.Name))
		files[filepath.Join(d, "kube-proxy.conf")] = c.kubeconfig("proxy-token")
		files[filepath.Join(d, "ca.crt")] = string(pem)
	}
	files[filepath.Join(dir, "tokens.csv")] = tokens
	return writeFiles(files)
}

func writeFiles(files map[string]string) error {
	for name, content := range files {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Kubeconfig is the administrator's. It works on the host outside, and on nodes.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.opts.Dir, "admin.conf") }

func (c *Cluster) kubeconfig(token string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: twill, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: user, user: {token: %s}}]
contexts: [{name: twill, context: {cluster: twill, user: user}}]
current-context: twill
`, c.apiURL(), base64.StdEncoding.EncodeToString(c.ca), token)
}
