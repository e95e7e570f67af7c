package kubernetes_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// program writes one that can be run.
func program(t *testing.T, path, script string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte("#!/usr/bin/env bash\nset -eu\n"+script), 0o755))
}

// says runs one and returns the lines of its standard error, with N for each
// number of seconds, and its output.
func says(t *testing.T, env []string, path string, args ...string) (said []string, out string) {
	t.Helper()
	var stderr strings.Builder
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env, cmd.Stderr = append(os.Environ(), env...), &stderr
	stdout, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	text := regexp.MustCompile(`[0-9]+ s\b`).ReplaceAllString(strings.TrimSpace(stderr.String()), "N s")
	return strings.Split(text, "\n"), string(stdout)
}

// Who waits for the first build of a cluster's programs is told at once how
// long, and then how far it is; one that is there says nothing.
func TestBuildSaysHowFarItIs(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	script, err := os.ReadFile("components/build")
	require.NoError(t, err)
	build := filepath.Join(root, "dist/kubernetes/components/build")
	program(t, build, string(script))
	program(t, root+"/go", `case $1 in
env) echo amd64 ;;
list) echo v1.2.3 ;;
build)
	echo compiling >&2
	while [[ $1 != -o ]]; do shift; done
	install -m 755 /dev/null "$2"
	;;
esac`)
	env := []string{"GO=" + root + "/go"}
	said, out := says(t, env, build, "kubelet", "kubectl", "kube-proxy")
	require.Equal(t, root+"/.cache/kubernetes/v1.2.3-amd64\n", out)
	require.Equal(t, []string{
		"building kubelet, kubectl, kube-proxy: the first time, all of a cluster takes 20 minutes",
		"compiling", "built kubelet in N s, 2 more to go",
		"compiling", "built kubectl in N s, 1 more to go",
		"compiling", "built kube-proxy in N s",
	}, said)
	said, _ = says(t, env, build, "kubelet", "kubectl")
	require.Equal(t, []string{""}, said)
	said, _ = says(t, env, build, "kubelet", "kube-scheduler")
	require.Equal(t, "building kube-scheduler: the first time, all of a cluster takes 20 minutes", said[0])
}

func TestKubeUpSaysWhatItDoes(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	script, err := os.ReadFile("../make/kube-up")
	require.NoError(t, err)
	program(t, root+"/dist/make/kube-up", string(script))
	program(t, root+"/dist/make/kube-twill", `echo compiling >&2; printf '%s\n' image manifest uninstall`)
	program(t, root+"/dist/make/kube", `echo "$@" >&2`)
	said, _ := says(t, nil, root+"/dist/make/kube-up")
	require.Len(t, said, 4)
	require.Equal(t, "building Twill's image, then what is missing of a cluster: the first time, all of it takes 20 minutes", said[0])
	require.Equal(t, []string{"compiling", "built Twill's image in N s"}, said[1:3])
	require.Contains(t, said[3], "--image image --manifest manifest")
}
