package packages

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/netlabtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a failing test costs. A dpkg reads and writes much of a
// disk that others may keep busy.
const patience = 4 * netlabtest.Patience

//go:embed systemctl.sh
var systemctl string

// debs are the packages of one version.
type debs struct{ twill, plugins string }

// build makes the packages of the binaries under test, as `make packages` does.
func build(t *testing.T, version string) debs {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "../../../dist/make/packages", dir)
	cmd.Env = append(os.Environ(), "VERSION="+version, "BINARIES="+filepath.Dir(netlabtest.Binaries(t).Twilld))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	files := strings.Fields(string(out))
	require.Len(t, files, 2, "%s", out)
	require.Equal(t, dir, filepath.Dir(files[0]))
	return debs{files[0], files[1]}
}

// run runs a script on a host and returns what it writes.
func run(t *testing.T, h *netlab.Host, script string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := h.Exec(ctx, append([]string{"sh", "-euc", script, "sh"}, args...)...)
	require.NoError(t, err)
	return out
}

// dpkg runs dpkg(1) on a node, whose database is the node's own.
func dpkg(t *testing.T, n *netlab.Node, args ...string) string {
	t.Helper()
	return run(t, &n.Host, `exec dpkg --log=/run/dpkg.log --force-unsafe-io "$@" </dev/null`, args...)
}

// furnish gives a node a /usr of its own and our systemctl, and takes away what
// the lab has put where the packages put theirs.
func furnish(t *testing.T, n *netlab.Node) {
	t.Helper()
	run(t, &n.Host, `
		mkdir /run/usr
		mount -t tmpfs -o mode=755 tmpfs /run/usr
		mkdir /run/usr/upper /run/usr/work
		mount -t overlay -o lowerdir=/usr,upperdir=/run/usr/upper,workdir=/run/usr/work overlay /usr
		umount /opt/cni/bin /var/lib/twill
		rmdir /opt/cni/bin /opt/cni /var/lib/twill
		rm -f /usr/sbin/policy-rc.d
		printf %s "$1" >/usr/bin/systemctl.new
		chmod +x /usr/bin/systemctl.new
		mv /usr/bin/systemctl.new /usr/bin/systemctl
		: >/run/systemctl.log`, systemctl)
}

// awaitReady waits until the daemon on a node is ready, or until that which is
// given has ended.
func awaitReady(t *testing.T, n *netlab.Node, daemon *netlab.Process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, n.WaitReady(ctx, daemon))
}

// calls returns what systemctl was called with since the last time.
func calls(t *testing.T, n *netlab.Node) []string {
	t.Helper()
	out := run(t, &n.Host, "cat /run/systemctl.log; : >/run/systemctl.log")
	return strings.FieldsFunc(out, func(r rune) bool { return r == '\n' })
}

// names finds what is called after us, but what the lab and systemctl.sh made.
func names(t *testing.T, n *netlab.Node) string {
	t.Helper()
	return run(t, &n.Host, `
		find /etc /usr /opt /var/lib /run -xdev \( -path /run/units -o -path /var/lib/dpkg -o -path /usr/src -o -path /usr/local \) -prune -o -name '*twill*' -print | sort`)
}

// kernel shows what is in the kernel with our mark.
func kernel(t *testing.T, n *netlab.Node) string {
	t.Helper()
	return run(t, &n.Host, `
		ip -o link | grep -F ' twill' || true
		ip -4 route show table all proto 116
		ip -6 route show table all proto 116
		nft list tables | grep -F twill || true`)
}

// same reports whether two files have the same content.
func same(t *testing.T, a, b string) bool {
	t.Helper()
	err := exec.CommandContext(t.Context(), "cmp", a, b).Run()
	return err == nil
}

func TestPackages(t *testing.T) {
	t.Parallel()
	v1, v2 := build(t, "v1.0.0"), build(t, "v1.1.0-rc.1-3-gabcdef0")
	require.Equal(t, "twill_1.1.0~rc.1+3.gabcdef0", strings.TrimSuffix(filepath.Base(v2.twill), "_"+architecture(t)+".deb"))
	again := build(t, "v1.0.0")
	require.True(t, same(t, v1.twill, again.twill) && same(t, v1.plugins, again.plugins), "reproducible")
	require.False(t, same(t, v1.twill, v2.twill))

	t.Run("life", func(t *testing.T) { t.Parallel(); testLife(t, v1, v2) })
	t.Run("chroot", func(t *testing.T) { t.Parallel(); testInChroot(t, v1) })
	t.Run("failing systemd", func(t *testing.T) { t.Parallel(); testFailingSystemd(t, v1, v2) })
}

// testLife is the life of the packages on a node in use.
func testLife(t *testing.T, v1, v2 debs) {
	c := netlabtest.New(t, netlab.Options{Nodes: 2})
	n, peer := c.Node(1), c.Node(2)
	furnish(t, n)
	run(t, &n.Host, "mkdir -p /run/systemd/system")
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(n.Exec(context.WithoutCancel(t.Context()), "sh", "-c", "cat /run/dpkg.log; tail -n 30 /run/units/*.log"))
		}
	})

	// Installed, nothing runs: where etcd is must be said first.
	dpkg(t, n, "--install", v1.twill, v1.plugins)
	require.Equal(t, []string{"daemon-reload"}, calls(t, n))
	require.Empty(t, kernel(t, n))
	require.Equal(t, "640 root", strings.TrimSpace(run(t, &n.Host, "stat -c '%a %U' /etc/twill/twilld.env")))
	require.Contains(t, run(t, &n.Host, "getent passwd twill-store"), "nologin")
	run(t, &n.Host, "test -e /run/xtables.lock; twilld --version; twill --version")

	run(t, &n.Host, `printf 'TWILLD_ETCD_ENDPOINTS=%s\nTWILLD_IP_MASQ=true\nTWILLD_HEALTHZ_IP=127.0.0.1\nTWILLD_HEALTHZ_PORT=8471\n' "$1" >>/etc/twill/twilld.env
		systemctl start twilld`, strings.Join(c.EtcdEndpoints(), ","))
	daemon, err := peer.StartTwilld()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, node := range c.Nodes {
		awaitReady(t, node, daemon)
		require.NoError(t, node.WaitPeers(ctx, daemon, 1))
	}
	var pods []*netlab.Pod
	for _, node := range c.Nodes {
		pod, err := node.AddPod(t.Context(), "pod") // by the plugins of the packages on n
		require.NoError(t, err)
		pods = append(pods, pod)
	}
	calls(t, n)

	flows := netlabtest.StartTraffic(t, t.Name(), netlabtest.Each(pods...)...)
	before, pid := kernel(t, n), mainPID(t, n)
	require.NotEmpty(t, before)
	dpkg(t, n, "--install", v2.twill, v2.plugins)
	require.Equal(t, []string{"daemon-reload", "--no-block try-restart twill-store.service", "--no-block try-restart twilld.service"}, calls(t, n))
	require.NotEqual(t, pid, mainPID(t, n), "restarted")
	awaitReady(t, n, daemon)
	require.Contains(t, run(t, &n.Host, "cat /etc/twill/twilld.env"), "TWILLD_HEALTHZ_PORT=8471\n", "what the admin wrote stays")

	// Etcd is down: the upgrade does not wait for it. And a host whose policy
	// is that packages restart nothing.
	require.NoError(t, c.Store.Kill(t.Context()))
	dpkg(t, n, "--install", v1.twill)
	pid = mainPID(t, n)
	run(t, &n.Host, "printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d")
	dpkg(t, n, "--install", v2.twill)
	require.Equal(t, pid, mainPID(t, n))
	require.NoError(t, c.Store.Restart())
	awaitReady(t, n, daemon)
	flows.RequireNoLoss(t)
	require.Equal(t, before, kernel(t, n))

	removalGivenUp(t, n)
	awaitReady(t, n, daemon)

	require.NoError(t, n.DelPod(t.Context(), pods[0]))
	calls(t, n)
	dpkg(t, n, "--remove", "twill", "twill-cni-plugins")
	require.Equal(t, "stop twill-store-backup.timer twill-store-backup.service twill-store.service twilld.service", calls(t, n)[0])
	require.Empty(t, kernel(t, n))
	require.Equal(t, "/etc/systemd/system/multi-user.target.wants/twilld.service\n/etc/twill\n/etc/twill/twill-store.env\n/etc/twill/twilld.env\n", names(t, n), "configuration, no more")

	dpkg(t, n, "--purge", "twill", "twill-cni-plugins")
	require.Empty(t, names(t, n))
	require.NoDirExists(t, n.Path("/opt/cni"))
}

// removalGivenUp: a package that is to take the place of ours cannot be
// installed after all. By then ours was stopped, and all that it had in the kernel
// removed (Debian policy 6.5, abort-remove).
func removalGivenUp(t *testing.T, n *netlab.Node) {
	t.Helper()
	rival := `
		mkdir -p /run/rival/DEBIAN
		printf '%s\n' 'Package: rival' 'Version: 1' 'Architecture: all' 'Maintainer: rival <rival@rival.invalid>' 'Description: rival' \
			'Provides: twill' 'Conflicts: twill' 'Replaces: twill' >/run/rival/DEBIAN/control
		printf '#!/bin/sh\nexit 1\n' >/run/rival/DEBIAN/preinst
		chmod +x /run/rival/DEBIAN/preinst
		dpkg-deb --build /run/rival /run/rival.deb >/dev/null
		! dpkg --log=/run/dpkg.log --force-unsafe-io --install /run/rival.deb </dev/null 2>&1`
	const stop = "stop twill-store-backup.timer twill-store-backup.service twill-store.service twilld.service"
	asked := []string{"is-enabled --quiet twill-store.service", "is-enabled --quiet twilld.service", "is-enabled --quiet twill-store-backup.timer"}
	run(t, &n.Host, "systemctl enable twilld")
	pid := mainPID(t, n)
	calls(t, n)

	run(t, &n.Host, rival) // with the policy that nothing is started
	require.Equal(t, append([]string{stop, "daemon-reload"}, asked...), calls(t, n))
	run(t, &n.Host, "rm /usr/sbin/policy-rc.d; systemctl start twilld")
	calls(t, n)
	run(t, &n.Host, rival)
	require.Equal(t, []string{stop, "daemon-reload", asked[0], asked[1], "--no-block start twilld.service", asked[2]}, calls(t, n))
	require.NotEqual(t, pid, mainPID(t, n))
	require.Equal(t, "install ok installed", run(t, &n.Host, "dpkg-query --show --showformat '${Status}' twill"))
}

func architecture(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "dpkg", "--print-architecture").Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

// mainPID returns the process of twilld.service.
func mainPID(t *testing.T, n *netlab.Node) string {
	t.Helper()
	return run(t, &n.Host, "cat /run/units/twilld.service")
}

// testInChroot: in a chroot there is no systemd, and the kernel is that of
// somebody else, who may be running twilld: packages come and go without
// touching it.
func testInChroot(t *testing.T, v debs) {
	c := netlabtest.New(t, netlab.Options{Nodes: 1})
	n := c.Node(1)
	daemon, err := n.StartTwilld("--state-dir=/run/elsewhere/state", "--subnet-file=/run/elsewhere/subnet.env", "--socket=/run/elsewhere/sock")
	require.NoError(t, err)
	awaitReady(t, n, daemon)
	before := kernel(t, n)
	furnish(t, n)

	dpkg(t, n, "--install", v.twill)
	dpkg(t, n, "--install", v.twill)
	dpkg(t, n, "--remove", "twill")
	dpkg(t, n, "--purge", "twill")
	require.Empty(t, calls(t, n))
	require.Empty(t, names(t, n))
	require.Equal(t, before, kernel(t, n))
}

// testFailingSystemd: whatever systemd refuses, the packages come and go. One
// that is half-configured could be neither used nor removed.
func testFailingSystemd(t *testing.T, v1, v2 debs) {
	c := netlabtest.New(t, netlab.Options{Nodes: 1})
	n := c.Node(1)
	furnish(t, n)
	run(t, &n.Host, `
		mkdir -p /run/systemd/system
		: >/run/systemctl.fails
		for tool in systemd-sysusers systemd-tmpfiles; do
			printf '#!/bin/sh\nexit 1\n' >/usr/bin/$tool.new
			chmod +x /usr/bin/$tool.new
			mv /usr/bin/$tool.new /usr/bin/$tool
		done`)
	dpkg := func(args ...string) string {
		return run(t, &n.Host, `exec dpkg --log=/run/dpkg.log --force-unsafe-io "$@" </dev/null 2>&1`, args...)
	}
	const told = `twill: "%s" has failed (1); going on without it`
	for _, v := range []debs{v1, v2} {
		out := dpkg("--install", v.twill)
		for _, command := range []string{"systemd-sysusers twill.conf", "systemd-tmpfiles --create twill.conf", "systemctl daemon-reload"} {
			require.Contains(t, out, fmt.Sprintf(told, command))
		}
		require.Equal(t, "install ok installed", run(t, &n.Host, "dpkg-query --show --showformat '${Status}' twill"))
	}
	require.Contains(t, dpkg("--remove", "twill"), "twill: not everything was stopped (1); going on without it")
	require.Contains(t, dpkg("--purge", "twill"), fmt.Sprintf(told, "systemctl daemon-reload"))
	require.Empty(t, names(t, n))
}
