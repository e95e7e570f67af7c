package install_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/backend/rulestest"
	"github.com/twill-net/twill/overlay/install"
	"github.com/twill-net/twill/overlay/underlay"
	"github.com/twill-net/twill/subnet"
)

// host is a network namespace of its own, with an uplink that takes router
// advertisements, as hosts do before they forward, and eth1 that does, too.
type host struct {
	t *testing.T
	*kernel.Kernel
	fd int
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, fd: rulestest.NewNamespace(t).FD()}
	var err error
	h.Kernel, err = kernel.New(kernel.Config{NetNS: h.fd})
	require.NoError(t, err)
	t.Cleanup(func() { h.Kernel.Close() })
	h.run(`ip link set lo up
		for i in 0 1; do
			ip link add eth$i type veth peer name far$i
			ip link set far$i up
			ip link set eth$i up
			ip address add 192.0.2.1$i/28 dev eth$i
			ip address add 2001:db8:$i::1/64 dev eth$i nodad
			echo 1 >/proc/sys/net/ipv6/conf/eth$i/accept_ra
		done
		ip -6 route add default via 2001:db8::2 dev eth0
		ip route add default via 192.0.2.2 dev eth0
		echo 0 >/proc/sys/net/ipv4/ip_forward
		echo 0 >/proc/sys/net/ipv6/conf/all/forwarding
		echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables
		echo 0 >/proc/sys/net/bridge/bridge-nf-call-ip6tables`)
	return h
}

// run runs a script in the namespace.
func (h *host) run(script string) string {
	h.t.Helper()
	cmd := exec.Command("nsenter", "--net=/proc/self/fd/3", "sh", "-ec", script)
	ns := os.NewFile(uintptr(must(unix.Dup(h.fd))), "netns")
	defer ns.Close()
	cmd.ExtraFiles = []*os.File{ns}
	out, err := cmd.CombinedOutput()
	require.NoError(h.t, err, "%s\n%s", script, out)
	return strings.TrimSpace(string(out))
}

func must(fd int, err error) int {
	if err != nil {
		panic(err)
	}
	return fd
}

func config(t *testing.T, raw string) subnet.Config {
	t.Helper()
	cfg, err := subnet.ParseConfig([]byte(raw))
	require.NoError(t, err)
	return cfg
}

const dual = `{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/56", "Backend": {"Type": "vxlan", "VNI": 7}}`

func noModule(context.Context, string) error { return errors.New("nobody needs a module") }

func TestPrepareDualStack(t *testing.T) {
	h := newHost(t)
	h.run(`echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
		echo 1 >/proc/sys/net/ipv4/conf/default/rp_filter
		ip link add twill.7 type vxlan id 7 dstport 8472 local 192.0.2.10 nolearning
		ip link add twill.8 type vxlan id 8 dstport 8472 local 192.0.2.10 nolearning`)
	p := install.Preparation{Config: config(t, dual), LoadModule: noModule}
	changed, err := p.Run(t.Context(), h)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{
		"sysctl net/bridge/bridge-nf-call-iptables: 0 → 1",
		"sysctl net/bridge/bridge-nf-call-ip6tables: 0 → 1",
		"sysctl net/ipv4/ip_forward: 0 → 1",
		"sysctl net/ipv6/conf/all/forwarding: 0 → 1",
		"sysctl net/ipv6/conf/eth0/accept_ra: 1 → 2",
		"sysctl net/ipv6/conf/default/disable_ipv6: 1 → 0",
		"sysctl net/ipv6/conf/twill.7/disable_ipv6: 1 → 0",
		"sysctl net/ipv6/conf/twill.7/accept_ra: 1 → 0",
		"sysctl net/ipv4/conf/twill.7/rp_filter: 1 → 2",
	}, changed)
	require.Contains(t, changed[len(changed)-2]+changed[len(changed)-1], "forward", "forwarding comes last")
	require.Equal(t, "1 1 1 1", h.run("cd /proc/sys/net; echo $(cat ipv4/ip_forward ipv6/conf/eth0/forwarding bridge/bridge-nf-call-ip*tables)"))
	require.Equal(t, "1", h.run("cat /proc/sys/net/ipv6/conf/eth1/accept_ra"), "what is no uplink stays")
	require.Equal(t, "1", h.run("cat /proc/sys/net/ipv4/conf/twill.8/rp_filter"), "what is not of this network stays")

	changed, err = p.Run(t.Context(), h)
	require.NoError(t, err)
	require.Empty(t, changed, "what is right is not written")
}

// The interface that the daemon is told to use is an uplink, whatever the routes
// say; by whatever it is told.
func TestPrepareInterface(t *testing.T) {
	pattern := func(p string) []*regexp.Regexp {
		return []*regexp.Regexp{regexp.MustCompile("^eth9$"), regexp.MustCompile(p)}
	}
	address := netip.MustParseAddr("2001:db8:1::1")
	node := func(ip string) (n underlay.Node) {
		n.Internal[subnet.IPv6] = netip.MustParseAddr(ip)
		return n
	}
	for name, tt := range map[string]struct {
		options underlay.Options
		eth0    bool
	}{
		"name":               {options: underlay.Options{Interfaces: []string{"eth9", "eth1"}}},
		"address":            {options: underlay.Options{Interfaces: []string{"eth9", address.String()}}},
		"pattern of names":   {options: underlay.Options{Patterns: pattern("h1$")}},
		"pattern, not ours":  {options: underlay.Options{Patterns: pattern("^twill|^eth1")}},
		"pattern of address": {options: underlay.Options{Patterns: pattern("^2001:db8:1:")}},
		"route":              {options: underlay.Options{CanReach: netip.MustParseAddr("2001:db8:1::9")}},
		"the Node":           {options: underlay.Options{Node: node(address.String())}},
		"another's Node":     {options: underlay.Options{Node: node("2001:db8:7::7")}, eth0: true},
		"nothing":            {eth0: true},
		"no interface":       {options: underlay.Options{Interfaces: []string{"eth9"}}, eth0: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.run(`ip link add twill.7 type vxlan id 7 dstport 8472 local 192.0.2.10 nolearning
				ip link set twill.7 up
				ip address add 10.244.1.0/32 dev twill.7`)
			p := install.Preparation{Config: config(t, dual), LoadModule: noModule, Underlay: tt.options}
			changed, err := p.Run(t.Context(), h)
			require.NoError(t, err)
			require.Contains(t, changed, "sysctl net/ipv6/conf/eth0/accept_ra: 1 → 2", "it still has the default route")
			if tt.eth0 {
				require.NotContains(t, changed, "sysctl net/ipv6/conf/eth1/accept_ra: 1 → 2")
			} else {
				require.Contains(t, changed, "sysctl net/ipv6/conf/eth1/accept_ra: 1 → 2")
			}
			changed, err = p.Run(t.Context(), h)
			require.NoError(t, err)
			require.Empty(t, changed)
		})
	}
}

func TestPrepareOneFamily(t *testing.T) {
	h := newHost(t)
	changed, err := install.Preparation{Config: config(t, `{"Network": "10.244.0.0/16"}`), LoadModule: noModule}.Run(t.Context(), h)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"sysctl net/bridge/bridge-nf-call-iptables: 0 → 1", "sysctl net/ipv4/ip_forward: 0 → 1"}, changed)

	h = newHost(t)
	v6 := `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:244::/56"}`
	changed, err = install.Preparation{Config: config(t, v6), LoadModule: noModule}.Run(t.Context(), h)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{
		"sysctl net/bridge/bridge-nf-call-ip6tables: 0 → 1", "sysctl net/ipv6/conf/all/forwarding: 0 → 1",
		"sysctl net/ipv6/conf/eth0/accept_ra: 1 → 2",
	}, changed)
}

// Which families a config that cannot be used means, nobody knows: what either
// needs is set, but for what an administrator may have switched off.
func TestPrepareWithoutConfig(t *testing.T) {
	h := newHost(t)
	h.run(`echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
		echo 1 >/proc/sys/net/ipv4/conf/default/rp_filter
		ip link add twill.7 type vxlan id 7 dstport 8472 local 192.0.2.10 nolearning`)
	p := install.Preparation{LoadModule: noModule}
	changed, err := p.Run(t.Context(), h)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{
		"sysctl net/bridge/bridge-nf-call-iptables: 0 → 1",
		"sysctl net/bridge/bridge-nf-call-ip6tables: 0 → 1",
		"sysctl net/ipv4/ip_forward: 0 → 1",
		"sysctl net/ipv6/conf/all/forwarding: 0 → 1",
		"sysctl net/ipv6/conf/eth0/accept_ra: 1 → 2",
		"sysctl net/ipv6/conf/twill.7/accept_ra: 1 → 0",
		"sysctl net/ipv4/conf/twill.7/rp_filter: 1 → 2",
	}, changed)

	h = newHost(t)
	p.SysctlRoot = t.TempDir() // of a kernel without IPv6
	require.NoError(t, os.MkdirAll(filepath.Join(p.SysctlRoot, "net/bridge"), 0o755))
	require.NoError(t, os.Mkdir(filepath.Join(p.SysctlRoot, "net/ipv4"), 0o755))
	changed, err = p.Run(t.Context(), h)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"sysctl net/bridge/bridge-nf-call-iptables: 0 → 1", "sysctl net/ipv4/ip_forward: 0 → 1"}, changed)
}

// Where the module cannot be had the host still forwards, and the operator is
// told what does not work.
func TestPrepareModule(t *testing.T) {
	h := newHost(t)
	root := t.TempDir()
	p := install.Preparation{Config: config(t, dual), SysctlRoot: root, LoadModule: func(_ context.Context, name string) error {
		require.Equal(t, "br_netfilter", name)
		return errors.New("forbidden here")
	}}
	changed, err := p.Run(t.Context(), h)
	require.ErrorContains(t, err, "loading the module br_netfilter, without which pods of one node do not reach each other by a Service: forbidden here")
	require.NotContains(t, err.Error(), "bridge-nf-call", "one error is enough")
	require.Contains(t, changed, "sysctl net/ipv4/ip_forward: 0 → 1")

	p.LoadModule = func(context.Context, string) error { return os.MkdirAll(filepath.Join(root, "net/bridge"), 0o755) }
	changed, err = p.Run(t.Context(), h)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{
		"module br_netfilter: loaded",
		"sysctl net/bridge/bridge-nf-call-iptables: 0 → 1", "sysctl net/bridge/bridge-nf-call-ip6tables: 0 → 1",
	}, changed)
	p.LoadModule = noModule
	changed, err = p.Run(t.Context(), h)
	require.NoError(t, err)
	require.Empty(t, changed)
}

// The host's own modprobe runs, in the host's root, and what it says is told.
func TestLoadModule(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("another root needs root")
	}
	root := t.TempDir()
	load := install.LoadModule(root)
	require.ErrorContains(t, load(t.Context(), "br_netfilter"), "the host has no modprobe below "+root)

	source := filepath.Join(t.TempDir(), "main.go")
	require.NoError(t, os.WriteFile(source, []byte(`package main

import ("fmt"; "os")

func main() {
	if os.Args[1] == "missing" {
		fmt.Println("modprobe: FATAL: Module missing not found")
		os.Exit(1)
	}
	if err := os.WriteFile("/loaded", []byte(os.Args[1]), 0o644); err != nil {
		panic(err)
	}
}`), 0o644))
	// Where /sbin is an absolute link, it leads somewhere in that root only.
	require.NoError(t, os.MkdirAll(filepath.Join(root, "usr/lib/kmod"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(root, "sbin"), 0o755))
	require.NoError(t, os.Symlink("/usr/lib/kmod/kmod", filepath.Join(root, "sbin/modprobe")))
	build := exec.Command("go", "build", "-o", filepath.Join(root, "usr/lib/kmod/kmod"), source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)

	require.NoError(t, load(t.Context(), "br_netfilter"))
	loaded, err := os.ReadFile(filepath.Join(root, "loaded"))
	require.NoError(t, err)
	require.Equal(t, "br_netfilter", string(loaded))
	require.ErrorContains(t, load(t.Context(), "missing"), fmt.Sprintf("running the host's %s missing: exit status 1: modprobe: FATAL: Module missing not found", "/sbin/modprobe"))
}
