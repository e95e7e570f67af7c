package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// daemonEnv marks the process that is a twilld in a container.
const daemonEnv = "TWILLD_TEST_DAEMON"

func TestMain(m *testing.M) {
	if os.Getenv(daemonEnv) != "" {
		if err := filter(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// filter takes from the process, all of its threads, what a container runtime's
// default seccomp profile takes from a container without CAP_SYS_ADMIN, the
// part of it that a network daemon might come to use.
func filter() error {
	denied := []uint32{
		unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_SETNS, unix.SYS_UNSHARE, unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN,
		unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_FANOTIFY_INIT,
		unix.SYS_SETDOMAINNAME, unix.SYS_SETHOSTNAME, unix.SYS_QUOTACTL, unix.SYS_LOOKUP_DCOOKIE, unix.SYS_ADD_KEY, unix.SYS_KEYCTL,
		unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_CLOCK_SETTIME, unix.SYS_SETTIMEOFDAY, unix.SYS_USERFAULTFD, unix.SYS_CHROOT,
	}
	const number = 0 // of struct seccomp_data
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number}}
	for i, call := range denied {
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(len(denied) - i), K: call})
	}
	program = append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)})
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return fmt.Errorf("installing a seccomp filter: %w", errno)
	}
	return nil
}

// confined shows a command the file system as a container does that has a
// read-only root: /proc/sys cannot be written either, no program is in PATH and
// no machine-id is there. What is named first can be written, as if mounted.
// Of root's powers it leaves CAP_NET_ADMIN, and no way to more.
const confined = `
writable=$1
shift
for dir in $writable; do mkdir -p "$dir"; mount --bind "$dir" "$dir"; done
[ ! -e /etc/machine-id ] || mount --bind /dev/null /etc/machine-id
mount --bind /proc/sys /proc/sys
findmnt --raw --noheadings --output TARGET | while read -r target; do
	case " $writable " in *" $target "*) continue ;; esac
	case $target in
	/proc | /dev | /dev/*) ;;
	*) mount -o remount,bind,ro "$(printf '%b' "$target")" 2>/dev/null || : ;; # another mount hides it
	esac
done
for dir in / /etc /tmp /proc/sys/net/ipv4/ip_forward; do
	! touch "$dir/probe" 2>/dev/null && ! echo 1 2>/dev/null >/proc/sys/net/ipv4/ip_forward || { echo "$dir can be written" >&2; exit 1; }
done
exec setpriv --bounding-set=-all,+net_admin --inh-caps=-all --no-new-privs -- env PATH=/nonexistent "$@"
`

// container is a twilld with the rights that its Pod has.
type container struct {
	*daemon
	cmd *exec.Cmd
}

func (c *container) start() {
	c.t.Helper()
	writable := []string{c.path("state"), c.path("run"), c.path("net.d")}
	args := append([]string{"--mount", "--", "sh", "-ec", confined, "sh", strings.Join(writable, " "), os.Args[0]}, c.args...)
	c.cmd = exec.Command("unshare", args...)
	c.cmd.Env = append(os.Environ(), daemonEnv+"=1")
	c.cmd.Stderr = &c.stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(c.t, c.cmd.Start())
	cmd := c.cmd
	go func() {
		_ = cmd.Wait()
		c.code <- cmd.ProcessState.ExitCode()
	}()
}

func (c *container) stop() {
	c.t.Helper()
	cmd := c.cmd
	c.cmd = nil
	require.NoError(c.t, cmd.Process.Signal(syscall.SIGTERM))
	require.Zero(c.t, <-c.code)
}

// proc returns a line of the daemon's /proc/PID/status.
func (c *container) proc(name string) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	require.NoError(c.t, err)
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// metric returns the value of a gauge, "" where there is none.
func (c *container) metric(name string) string {
	resp, err := http.Get("http://127.0.0.1:10119/metrics")
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func sysctl(t testing.TB, name, value string) {
	t.Helper()
	require.NoError(t, os.WriteFile("/proc/sys/"+name, []byte(value), 0o644))
}

// A whole daemon as it is in a Pod: CAP_NET_ADMIN and nothing else, read-only
// file systems, no programs, seccomp. It gets ready and repairs links, routes and
// rules; of sysctls it sets what netlink sets, and tells the others.
func TestUnprivileged(t *testing.T) {
	api := cluster(t)
	if api == nil {
		return
	}
	// As `twill host prepare` does.
	sysctl(t, "net/ipv4/ip_forward", "1")
	sysctl(t, "net/ipv6/conf/all/forwarding", "1")
	join(t, api, "192.0.2.1", "10.244.1.0/24", "fd00:244:1::/64")
	joinPeer(t, api)
	c := &container{daemon: newDaemon(t, api, api.URL, "--healthz-ip=127.0.0.1", "--healthz-port=10119", "--ip-masq")}
	c.write("net-conf.json", `{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/32", "EnableNFTables": false}`)
	source := c.write("conflist", `{"name":"cbr0","cniVersion":"1.0.0","plugins":[{"type":"twill"}]}`)
	c.args = append(c.args, "--cni-conf-install", source)
	t.Cleanup(func() {
		if c.cmd != nil {
			_ = c.cmd.Process.Kill()
			<-c.code
		}
	})
	c.start()
	c.ready()
	require.Equal(t, "0000000000001000", c.proc("CapEff"), "CAP_NET_ADMIN, capability 12")
	require.Equal(t, "0000000000001000", c.proc("CapBnd"))
	require.Equal(t, "1", c.proc("NoNewPrivs"))
	require.Equal(t, "2", c.proc("Seccomp"), "a filter")
	c.eventually("nothing is wrong", func() bool {
		s := c.status()
		return len(s.Failing)+len(s.Problems) == 0 && c.metric("twill_wrong_sysctls") == "0"
	})
	require.Equal(t, "nftables, as there is no iptables here, which EnableNFTables=false asks for", c.status().Firewall.Mode)
	require.FileExists(t, c.path("run", "subnet.env"))
	require.FileExists(t, c.path("net.d", "10-twill.conflist"))
	machine := api.Node(t, "n1").Annotations[prefix+"machine-id"]
	require.Len(t, machine, 32)
	filterPath := "net/ipv4/conf/twill.1/rp_filter"
	is := func(name, value string) func() bool {
		return func() bool {
			b, err := os.ReadFile("/proc/sys/" + name)
			return err == nil && string(bytes.TrimSpace(b)) == value
		}
	}
	require.True(t, is(filterPath, "2")())

	// Repairs.
	routed := func() bool {
		return strings.Contains(ip(t, "route", "show", "10.244.2.0/24"), "twill.1") && strings.Contains(ip(t, "neighbour", "show", "dev", "twill.1"), "10.244.2.0")
	}
	require.True(t, routed())
	ip(t, "route", "delete", "10.244.2.0/24")
	c.eventually("the route is back", routed)
	ip(t, "link", "delete", "twill.1")
	c.eventually("the link is back", func() bool {
		_, err := os.Stat("/proc/sys/net/ipv4/conf/twill.1")
		return err == nil && routed() && is(filterPath, "2")() && strings.Contains(ip(t, "address", "show", "dev", "twill.1"), "10.244.1.0/32")
	})
	rules := func() string {
		out, err := exec.CommandContext(t.Context(), "nft", "list", "tables").Output()
		require.NoError(t, err)
		return string(out)
	}
	before := rules()
	require.Contains(t, before, "table inet twill\n")
	out, err := exec.CommandContext(t.Context(), "nft", "flush", "ruleset").CombinedOutput()
	require.NoError(t, err, "%s", out)
	c.eventually("the rules are back", func() bool { return len(rules()) == len(before) })
	sysctl(t, filterPath, "1")
	c.eventually("netlink sets it", is(filterPath, "2"))

	// Drift that cannot be repaired.
	look := func() { // changes of accept_ra tell nothing; those of a link do
		ip(t, "link", "set", "twill.1", "down")
		c.eventually("the link is up", func() bool { return strings.Contains(ip(t, "link", "show", "twill.1"), "UP,LOWER_UP") && routed() })
	}
	look()
	accept := "net/ipv6/conf/twill.1/accept_ra"
	sysctl(t, accept, "2")
	look()
	c.eventually("it is told", func() bool {
		f := c.status().Failing
		return len(f) == 1 && f[0].Object == "sysctl "+accept && strings.Contains(f[0].Error, "sysctl -w net.ipv6.conf.twill/1.accept_ra=0") && c.metric("twill_wrong_sysctls") == "1"
	})
	c.ready()
	sysctl(t, accept, "1")
	look()
	c.eventually("it has gone away", func() bool { return len(c.status().Failing) == 0 && c.metric("twill_wrong_sysctls") == "0" })

	sysctl(t, "net/ipv4/ip_forward", "0")
	c.notReady("forwarding is off: ")
	c.eventually("the cluster is told", func() bool {
		u := unavailable(api.Node(t, "n1"))
		return u.Status == corev1.ConditionTrue && strings.Contains(u.Message, "set it on the host (sysctl -w net.ipv4.ip_forward=1)")
	})
	require.Equal(t, 1, strings.Count(c.stderr.String(), "object=\"sysctl net/ipv4/ip_forward\""), "it is logged once")
	sysctl(t, "net/ipv4/ip_forward", "1")
	c.ready()
	c.eventually("the cluster is told", func() bool { return unavailable(api.Node(t, "n1")).Status == corev1.ConditionFalse })

	c.stop()
	c.start()
	c.ready()
	require.Equal(t, machine, api.Node(t, "n1").Annotations[prefix+"machine-id"], "the same machine")
	c.stop()
	left, err := filepath.Glob(c.path("*", ".*"))
	require.NoError(t, err)
	require.Empty(t, left, "nothing half-written")
}
