package main_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/kube"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

// What kubectl is to apply is a file of the caller's, and relative to where he
// is, /tmp included, which the lab's hosts have one of their own of.
func TestKubectlHasTheCallersFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a lab needs root")
	}
	bin, dir, here := t.TempDir(), filepath.Join(t.TempDir(), "lab"), t.TempDir()
	b := netlabtest.Binaries(t)
	require.NoError(t, os.Symlink(b.Twill, filepath.Join(bin, "twill")))
	program := filepath.Join(bin, "twill-kube")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.WriteFile(filepath.Join(bin, "kubectl"), []byte("#!/bin/sh\nset -e\npwd\ncat file\nreadlink /proc/self/ns/net\n"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(here, "file"), []byte("the caller's\n"), 0o644))

	kubectl := func() (string, error) {
		cmd := exec.CommandContext(t.Context(), program, "--dir", dir, "kubectl", "apply", "-f", "file")
		cmd.Dir = here
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	said, err := kubectl()
	require.Error(t, err)
	require.Contains(t, said, "no cluster is up there")

	require.NoError(t, netlab.Up(t.Context(), netlab.Options{Nodes: 1, Dir: dir, Binaries: b}, 0))
	t.Cleanup(func() {
		_, err := netlab.Down(context.Background(), dir)
		require.NoError(t, err)
	})
	parts, err := json.Marshal(kube.Parts{Programs: []string{bin}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "parts.json"), parts, 0o644))
	network, err := exec.CommandContext(t.Context(), program, "--dir", dir, "exec", "outside", "--", "readlink", "/proc/self/ns/net").Output()
	require.NoError(t, err)
	said, err = kubectl()
	require.NoError(t, err, said)
	require.Equal(t, strings.Join([]string{here, "the caller's", string(network)}, "\n"), said)
}
