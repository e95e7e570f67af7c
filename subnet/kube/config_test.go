package kube_test

import (
	"bufio"
	"context"
	"flag"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet/kube"
	"github.com/twill-net/twill/subnet/kube/kubetest"
	"github.com/twill-net/twill/subnet/subnettest"
)

func TestFlags(t *testing.T) {
	t.Parallel()
	c := kube.DefaultConfig()
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	c.RegisterFlags(fs)
	require.NoError(t, fs.Parse([]string{
		"-kube-subnet-mgr", "--kubeconfig-file=/etc/k", "--kube-api-url", "https://192.0.2.1:6443",
		"--kube-annotation-prefix=example.com/x", "--net-config-path=/etc/n", "--set-node-network-unavailable=false",
	}))
	want := kube.DefaultConfig()
	want.Enabled, want.Kubeconfig, want.APIURL, want.AnnotationPrefix = true, "/etc/k", "https://192.0.2.1:6443", "example.com/x"
	want.NetworkConfig, want.SetUnavailable = "/etc/n", false
	require.Equal(t, want, c)
}

func TestValidate(t *testing.T) {
	t.Parallel()
	const longest = `--kube-annotation-prefix makes `
	for _, c := range []struct {
		name   string
		change func(*kube.Config)
		want   string // "" for none
	}{
		{"defaults", func(*kube.Config) {}, ""},
		{"no node", func(c *kube.Config) { c.Node = "" }, "--node-name is empty; it must be the name of this node's Node: NODE_NAME from spec.nodeName"},
		{"no file", func(c *kube.Config) { c.NetworkConfig = "" }, "--net-config-path is empty; it must name a file such as /etc/kube-flannel/net-conf.json"},
		{"no pause", func(c *kube.Config) { c.ConfigInterval = 0 }, "the interval of looks at the network config is 0s; it must be more than 0"},
		{"plain URL", func(c *kube.Config) { c.APIURL = "http://127.0.0.1:8080" }, ""},
		{"URL with a path", func(c *kube.Config) { c.APIURL = "https://rancher.example.com/k8s/clusters/c" }, ""},
		{"no URL", func(c *kube.Config) { c.APIURL = "192.0.2.1:6443" }, "--kube-api-url is no URL such as https://192.0.2.1:6443, or has a user or a query in it"},
		{"URL with a password", func(c *kube.Config) { c.APIURL = "https://u:secret@192.0.2.1" }, "--kube-api-url is no URL such as https://192.0.2.1:6443, or has a user or a query in it"},
		{"prefix with two slashes", func(c *kube.Config) { c.AnnotationPrefix = "a/b/c" },
			longest + `"a/b/c-public-ipv6-overwrite", which cannot be an annotation: `},
		{"empty prefix", func(c *kube.Config) { c.AnnotationPrefix = "" }, longest + `"/public-ipv6-overwrite", which cannot be an annotation: prefix part must be non-empty`},
		{"prefix that ends with a dash", func(c *kube.Config) { c.AnnotationPrefix = "example.com/twill-" }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := kube.DefaultConfig()
			cfg.Node = "n1"
			c.change(&cfg)
			err := cfg.Validate()
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
			_, err = kube.New(cfg)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestNoServerKnown(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	cfg := kube.DefaultConfig()
	cfg.Node = "n1"
	_, err := kube.New(cfg)
	require.EqualError(t, err, "no API server is known: this is no Pod (KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT); give --kubeconfig-file or --kube-api-url")
	t.Setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	cfg.ServiceAccount = t.TempDir()
	_, err = kube.New(cfg)
	require.ErrorContains(t, err, "reading the token of the Pod's service account: ")
	cfg.Kubeconfig = filepath.Join(t.TempDir(), "missing")
	_, err = kube.New(cfg)
	require.ErrorContains(t, err, "--kubeconfig-file "+cfg.Kubeconfig+": ")
}

// Where the API server is and who we are are two things: another URL keeps the
// token and the CA.
func waysToTheServer(t *testing.T, b backend) {
	b.Join(t, "n1", "10.5.1.0/24")
	b.Announce(t, peer(t, "n1", "10.5.1.0/24"))
	account := b.server.Account(t, kubetest.Daemon+"\n")
	u, err := url.Parse(b.server.URL)
	require.NoError(t, err)
	nowhere := b.server.Kubeconfig(t, "https://127.0.0.1:1", kubetest.Daemon)
	for name, change := range map[string]func(*kube.Config){
		"the Pod's": func(c *kube.Config) { c.Kubeconfig, c.ServiceAccount = "", account },
		"the Pod's, elsewhere": func(c *kube.Config) {
			c.Kubeconfig, c.ServiceAccount, c.APIURL = "", account, b.server.URL
			t.Setenv("KUBERNETES_SERVICE_PORT", "1")
		},
		"the kubeconfig's, elsewhere": func(c *kube.Config) { c.Kubeconfig, c.APIURL = nowhere, b.server.URL },
	} {
		t.Setenv("KUBERNETES_SERVICE_HOST", u.Hostname())
		t.Setenv("KUBERNETES_SERVICE_PORT", u.Port())
		b.change = change
		v := subnettest.Watch(t, b.open(t, "n9"))
		subnettest.Eventually(t, name, func() bool { return len(v.Records()) == 1 })
	}
}

// A token is not sent where everybody can read it.
func TestNoTokenInTheClear(t *testing.T) {
	t.Parallel()
	account := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(account, "token"), []byte("secret"), 0o600))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	heard := make(chan *http.Request, 100)
	subnettest.During(t, func(ctx context.Context) {
		defer context.AfterFunc(ctx, func() { l.Close() })()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				heard <- req
			}
			c.Close()
		}
	})
	cfg := kube.DefaultConfig()
	cfg.Node, cfg.APIURL, cfg.ServiceAccount = "n1", "http://"+l.Addr().String(), account
	s, err := kube.New(cfg)
	require.NoError(t, err)
	subnettest.Watch(t, s)
	req := next(t, heard)
	require.Empty(t, req.Header.Get("Authorization"))
	require.Equal(t, "application/vnd.kubernetes.protobuf,application/json", req.Header.Get("Accept"))
}
