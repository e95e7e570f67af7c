package cni_test

import (
	"bytes"
	"cmp"
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
// built when first asked for: fuzzing needs none. The reference plugins are
// links to what go keeps of the tools that dist/cni pins.
var binaries = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "twill-cni-"); err != nil {
		return "", err
	}
	if _, err := golang("build", "-o", filepath.Join(dir, "twill"), "../../cmd/twill-cni"); err != nil {
		return dir, err
	}
	for _, tool := range []string{"bridge", "ptp", "macvlan", "host-local", "portmap", "bandwidth", "tuning", "loopback", "cnitool"} {
		path, err := golang("-C", "../../dist/cni", "tool", "-n", tool)
		if err != nil {
			return dir, err
		}
		if err := os.Symlink(path, filepath.Join(dir, tool)); err != nil {
			return dir, err
		}
	}
	return dir, nil
})

func golang(args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, &stderr)
	}
	return strings.TrimSpace(string(out)), nil
}

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
	path                                  string // CNI_PATH; "": bin
	environ                               []string
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

// command is one call of the plugin on the host.
func (h host) command(verb string, r request, c conf) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer, err error) {
	stdin, err := json.Marshal(c)
	if err != nil {
		return nil, nil, nil, err
	}
	cmd = exec.Command("ip", "netns", "exec", h.ns, filepath.Join(h.bin, "twill"))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+r.container, "CNI_IFNAME="+r.ifname,
		"CNI_NETNS="+r.netns, "CNI_PATH="+cmp.Or(h.path, h.bin), "CNI_ARGS="+r.args)
	cmd.Env = append(cmd.Env, h.environ...)
	stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), stdout, stderr
	return cmd, stdout, stderr, nil
}

// run calls the plugin; a failure is the *types.Error it printed.
func (h host) run(verb string, r request, c conf) ([]byte, error) {
	cmd, stdout, stderr, err := h.command(verb, r, c)
	if err != nil {
		return nil, err
	}
	deadline := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer deadline.Stop()
	err = cmd.Run()
	if stderr.Len() > 0 {
		return nil, fmt.Errorf("%s wrote to stderr: %s", verb, stderr)
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		e := new(types.Error)
		if err := json.Unmarshal(stdout.Bytes(), e); err != nil {
			return nil, fmt.Errorf("%s printed no error of the spec but %q: %w", verb, stdout, exit)
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

// alias returns that of the one veth on the host.
func (h host) alias(t *testing.T) string {
	t.Helper()
	aliases := h.aliases(t)
	require.Len(t, aliases, 1)
	return aliases[0]
}

// aliases returns those of the veths on the host, "" where there is none.
func (h host) aliases(t *testing.T) (aliases []string) {
	t.Helper()
	var ls []struct{ IfAlias string }
	require.NoError(t, json.Unmarshal([]byte(ip(t, "-n", h.ns, "-j", "link", "show", "type", "veth")), &ls))
	for _, l := range ls {
		aliases = append(aliases, l.IfAlias)
	}
	return aliases
}

// device makes the VXLAN device of the host's subnets.
func (h host) device(t *testing.T, name string, vni int, addrs ...string) {
	t.Helper()
	local := "192.0.2.1"
	if strings.Contains(name, "v6") {
		local = "2001:db8::1"
	}
	ip(t, "-n", h.ns, "link", "add", name, "type", "vxlan", "id", fmt.Sprint(vni), "dstport", "8472", "local", local)
	ip(t, "-n", h.ns, "link", "set", name, "up")
	for _, a := range addrs {
		ip(t, "-n", h.ns, "addr", "add", a, "dev", name)
	}
}

// reaches pings until it is answered: addresses settle and neighbours resolve.
func reaches(t *testing.T, ns, addr string) {
	t.Helper()
	require.Eventually(t, func() bool {
		return exec.Command("ip", "netns", "exec", ns, "ping", "-n", "-c", "1", "-W", "1", addr).Run() == nil
	}, 15*time.Second, 10*time.Millisecond, "%s does not reach %s", ns, addr)
}
