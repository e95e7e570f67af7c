package kubernetes_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/subnet/kube/kubetest"
)

// kubectl is the pinned one, which is built where it is not there.
func kubectl(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "components/build", "kubectl")
	cmd.Stderr = os.Stderr
	dir, err := cmd.Output()
	require.NoError(t, err)
	return filepath.Join(strings.TrimSpace(string(dir)), "kubectl")
}

// What was applied and is applied again changes nothing, and kubectl says so: in
// lists that are compared whole, every field that the server fills in is given.
func TestApplyAgain(t *testing.T) {
	s := kubetest.Start(t, "--allow-privileged=true")
	program, config, home := kubectl(t), s.Kubeconfig(t, s.URL, kubetest.Admin), t.TempDir()
	apply := func(documents string) []string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, "--kubeconfig", config, "--cache-dir", home, "apply", "-f", "-")
		cmd.Env = append(os.Environ(), "HOME="+home)
		cmd.Stdin = strings.NewReader(documents)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	for _, source := range [][]string{
		{"kustomize", "overlays/dual-stack"}, {"kustomize", "uninstall"}, {"chart", "chart/twill", "-set", "createNamespace=true"},
	} {
		documents, err := try(t, source...)
		require.NoError(t, err, documents)
		require.NotEmpty(t, apply(documents))
		for _, line := range apply(documents) {
			require.True(t, strings.HasSuffix(line, " unchanged"), "%v: %s", source, line)
		}
	}
}
