package kube

import (
	"context"
	_ "embed"
	"os"
	"path/filepath"
	"strings"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet"
)

// KubectlArgs is the command line of kubectl as the administrator of the
// cluster in dir, for the host outside.
func (p Parts) KubectlArgs(dir string, args ...string) ([]string, error) {
	kubectl, err := p.program("kubectl")
	return append([]string{kubectl, "--kubeconfig=" + filepath.Join(dir, "admin.conf"), "--cache-dir=" + filepath.Join(dir, "kubectl")}, args...), err
}

// Kubectl runs kubectl on the host outside, as the administrator, and returns
// its output.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.KubectlInput(ctx, "", args...)
}

// KubectlInput is Kubectl with text on its standard input.
func (c *Cluster) KubectlInput(ctx context.Context, input string, args ...string) (string, error) {
	argv, err := c.opts.Parts.KubectlArgs(c.opts.Dir, args...)
	if err != nil {
		return "", err
	}
	return c.lab.Outside.ExecInput(ctx, input, argv...)
}

// Apply applies YAML documents.
func (c *Cluster) Apply(ctx context.Context, documents string) error {
	_, err := c.KubectlInput(ctx, documents, "apply", "--filename=-")
	return err
}

// ApplyFile applies a file, or a directory with a kustomization.
func (c *Cluster) ApplyFile(ctx context.Context, path string) error {
	flag := "--filename="
	if s, err := os.Stat(path); err != nil {
		return err
	} else if s.IsDir() {
		flag = "--kustomize="
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	_, err = c.Kubectl(ctx, "apply", flag+path)
	return err
}

// Exec runs a command in a pod, POD or NAMESPACE/POD, and returns its output.
func (c *Cluster) Exec(ctx context.Context, pod string, command ...string) (string, error) {
	namespace, name, ok := strings.Cut(pod, "/")
	if !ok {
		namespace, name = "default", pod
	}
	return c.Kubectl(ctx, append([]string{"exec", "--namespace=" + namespace, name, "--"}, command...)...)
}

//go:embed coredns.yaml
var coreDNS string

// coreDNS is the Deployment and the Service that the kubelets tell pods of.
func (c *Cluster) coreDNS() string {
	ips := c.opts.join(func(f subnet.Family) string { return `"` + dnsService[f] + `"` })
	policy := "SingleStack"
	if c.opts.Stack == netlab.DualStack {
		policy = "RequireDualStack"
	}
	return strings.NewReplacer("@IP@", dnsService[c.opts.primary()], "@IPS@", ips, "@POLICY@", policy).Replace(coreDNS)
}
