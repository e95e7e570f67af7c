package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/cmd/internal/envflag"
	"github.com/twill-net/twill/subnet/nearest"
)

// A variable that is spelt nearly as one which the command reads is told, with
// that one, and changes nothing else.
func TestMisspeltVariables(t *testing.T) {
	for name, value := range map[string]string{
		"TWILLD_ETCD_ENDPOINT": "http://192.0.2.1:2379", "TWILL_ETCD_CAFILE": "ca.crt", "TWILLD_ETCD_PREFXI": "",
		"TWILL_STORE_TLSDIR": "/x", "TWILLD_STORE_BACKUP_KEEP": "3",
		"TWILLD_ETCD_PASSWORD": "x", "TWILLD_IP_MASQ": "true", "TWILLD_IP_MASK": "true", "TWILLD_ETCD_SERVICE_HOST": "10.0.0.11", "TWILLD_ETCD_PORT": "tcp://10.0.0.11:6379",
	} {
		t.Setenv(name, value)
	}
	const (
		etcd = "twill: TWILLD_ETCD_ENDPOINT is no variable of twill; did you mean TWILLD_ETCD_ENDPOINTS?\n" +
			"twill: TWILL_ETCD_CAFILE is no variable of twill; did you mean TWILLD_ETCD_CAFILE?\n"
		dir  = "twill: TWILL_STORE_TLSDIR is no variable of twill; did you mean TWILL_STORE_TLS_DIR?\n"
		keep = "twill: TWILLD_STORE_BACKUP_KEEP is no variable of twill; did you mean TWILL_STORE_BACKUP_KEEP?\n"
	)
	certs, nowhere := t.TempDir(), "--etcd-endpoints=http://127.0.0.1:1"
	_, stderr, code := execution(t, "store", "init", "--tls-dir", certs, "--owner=root")
	require.Equal(t, dir, stderr)
	require.Zero(t, code)
	_, stderr, code = execution(t, "store", "certs", "--tls-dir", certs)
	require.Equal(t, dir, stderr)
	require.Zero(t, code)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"leases", "-o=table", nowhere, "--etcd-username="}, etcd},
		{[]string{"config", "get", nowhere}, etcd},
		{[]string{"store", "status", nowhere}, etcd},
		{[]string{"store", "backup", nowhere, "--backup-dir", t.TempDir()}, keep + etcd},
	} {
		_, stderr, code := execution(t, tt.args...)
		require.Equal(t, 1, code, "nobody is there")
		require.Regexp(t, "^"+regexp.QuoteMeta(tt.want)+"($|twill: [^T])", stderr, "%v", tt.args)
	}
	_, stderr, _ = execution(t, "cni", "install", "--from", t.TempDir(), "--to", t.TempDir())
	require.Empty(t, stderr, "it reads none")
}

// No variable of the daemon, or of one of the commands, is spelt nearly as one
// that a command reads: all of them may be there at once.
func TestNoVariableLooksMisspelt(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "Documentation", "reference.md"))
	require.NoError(t, err)
	known := map[string]bool{}
	for _, v := range regexp.MustCompile("`(TWILLD_[A-Z0-9_]+)`").FindAllStringSubmatch(string(page), -1) {
		known[v[1]] = true
	}
	require.Greater(t, len(known), 30)
	var read []string
	for _, c := range leaves(newRoot()) {
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			switch {
			case strings.HasPrefix(f.Name, "etcd-"), c.CommandPath() == "twill host prepare" && f.Name != "host-root" && f.Name != "help":
				read = append(read, envflag.Name(twilldEnv, f.Name))
			case strings.HasPrefix(c.CommandPath(), "twill store"):
				read = append(read, envflag.Name(storeEnv, f.Name))
			}
		})
	}
	for _, name := range read {
		known[name] = true
	}
	for v := range known {
		others := slices.DeleteFunc(slices.Clone(read), func(name string) bool { return name == v })
		require.Empty(t, nearest.Name(v, others), v)
	}
}
