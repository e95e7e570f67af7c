package cni_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// The tests below this file run the real binary with the real bridge and
// host-local; a namespace stands for the host, others for its pods.

// binaries is the CNI directory of the test run, twill and its delegates,
// built when first asked for: fuzzing needs none.
var binaries = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "twill-cni-"); err != nil {
		return "", err
	}
	const reference = "github.com/containernetworking/plugins/plugins/"
	for _, args := range [][]string{
		{"build", "-o", filepath.Join(dir, "twill"), "../../cmd/twill-cni"},
		{"-C", "../../dist/cni", "build", "-o", dir, reference + "main/bridge", reference + "main/ptp", reference + "main/macvlan", reference + "ipam/host-local",
			reference + "meta/portmap", reference + "meta/bandwidth", reference + "meta/tuning", "github.com/containernetworking/cni/cnitool"},
	} {
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return dir, nil
})

var built atomic.Bool

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if built.Load() {
			dir, _ := binaries()
			_ = os.RemoveAll(dir)
		}
		os.Exit(code)
	}))
}

var namespaces atomic.Int32

// netns adds a namespace with lo up and returns its name.
func netns(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("twcni-%d-%d", os.Getpid(), namespaces.Add(1))
	ip(t, "netns", "add", name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	ip(t, "-n", name, "link", "set", "lo", "up")
	return name
}

func netnsPath(name string) string { return "/run/netns/" + name }

func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	require.NoError(t, err, "ip %s: %s", strings.Join(args, " "), out)
	return string(out)
}

// host is a node: a namespace, its subnet.env and its directories.
type host struct {
	ns, bin, subnetFile, dataDir, ipamDir string
}

func newHost(t *testing.T, subnetEnv string) host {
	t.Helper()
	built.Store(true)
	bin, err := binaries()
	require.NoError(t, err)
	dir := t.TempDir()
	h := host{
		ns:         netns(t),
		bin:        bin,
		subnetFile: filepath.Join(dir, "run", "subnet.env"),
		dataDir:    filepath.Join(dir, "data"),
		ipamDir:    filepath.Join(dir, "ipam"),
	}
	require.NoError(t, os.Mkdir(filepath.Dir(h.subnetFile), 0o755))
	if subnetEnv != "" {
		h.setEnv(t, subnetEnv)
	}
	return h
}

func (h host) setEnv(t *testing.T, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(h.subnetFile, []byte(text), 0o644))
}

type conf map[string]any

// conf returns a network config with the host's directories and more keys.
func (h host) conf(more conf) conf {
	c := conf{
		"cniVersion": "1.1.0", "name": "cbr0", "type": "twill",
		"subnetFile": h.subnetFile, "dataDir": h.dataDir, "ipam": conf{"dataDir": h.ipamDir},
	}
	for k, v := range more {
		c[k] = v
	}
	return c
}

// request is one call of the plugin.
type request struct {
	container, ifname, netns string
	args                     string
}

func attach(container, netns string) request {
	return request{container: container, ifname: "eth0", netns: netnsPath(netns)}
}

// run calls the plugin on the host; a failure is the *types.Error it printed.
func (h host) run(verb string, r request, c conf) ([]byte, error) {
	stdin, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", h.ns, filepath.Join(h.bin, "twill"))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+r.container, "CNI_IFNAME="+r.ifname,
		"CNI_NETNS="+r.netns, "CNI_PATH="+h.bin, "CNI_ARGS="+r.args)
	cmd.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if stderr.Len() > 0 {
		return nil, fmt.Errorf("%s wrote to stderr: %s", verb, stderr.Bytes())
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		e := new(types.Error)
		if err := json.Unmarshal(stdout.Bytes(), e); err != nil {
			return nil, fmt.Errorf("%s printed no error of the spec but %q: %w", verb, stdout.Bytes(), exit)
		}
		return nil, e
	}
	return stdout.Bytes(), err
}

// add attaches a pod and returns the result as the runtime would keep it.
func (h host) add(t *testing.T, r request, c conf) *current.Result {
	t.Helper()
	out, err := h.run("ADD", r, c)
	require.NoError(t, err)
	result := new(current.Result)
	require.NoError(t, json.Unmarshal(out, result))
	return result
}

// reserved returns the addresses that host-local has given out.
func (h host) reserved(t *testing.T) (addrs []string) {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(h.ipamDir, "cbr0"))
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(t, err)
	}
	for _, f := range files {
		if f.Name() != "lock" && !strings.HasPrefix(f.Name(), "last_reserved_ip") {
			addrs = append(addrs, f.Name())
		}
	}
	return addrs
}

// link is what `ip -j -d addr` says of an interface.
type link struct {
	IfName string `json:"ifname"`
	MTU    int    `json:"mtu"`
	Addr   string `json:"address"`
	Master string `json:"master"`
	Addrs  []struct {
		Local  string `json:"local"`
		Length int    `json:"prefixlen"`
		Scope  string `json:"scope"`
	} `json:"addr_info"`
}

func links(t *testing.T, ns string, filter ...string) (ls []link) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(ip(t, append([]string{"-n", ns, "-j", "addr", "show"}, filter...)...)), &ls))
	return ls
}

// addrs returns the addresses of an interface but for link-local ones.
func addrs(t *testing.T, ns, ifname string) (as []string) {
	t.Helper()
	for _, l := range links(t, ns, "dev", ifname) {
		for _, a := range l.Addrs {
			if a.Scope != "link" {
				as = append(as, fmt.Sprintf("%s/%d", a.Local, a.Length))
			}
		}
	}
	return as
}

// veths returns the pods' ends on the host.
func (h host) veths(t *testing.T) (names []string) {
	t.Helper()
	for _, l := range links(t, h.ns, "type", "veth") {
		names = append(names, l.IfName)
	}
	return names
}

// reaches pings until it is answered: addresses settle and neighbours resolve.
func reaches(t *testing.T, ns, addr string) {
	t.Helper()
	require.Eventually(t, func() bool {
		return exec.Command("ip", "netns", "exec", ns, "ping", "-n", "-c", "1", "-W", "1", addr).Run() == nil
	}, 15*time.Second, 10*time.Millisecond, "%s does not reach %s", ns, addr)
}
