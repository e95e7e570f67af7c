package netlab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/subnet"
)

// Host is a place in the lab where commands run and sockets are opened: a
// node, a pod, the lan or the outside host.
type Host struct {
	Name  string                       // node1, node1/pod1, lan, outside
	Addrs subnet.PerFamily[netip.Addr] // zero where it has none
	lab   *Lab
	space func() *space // of the node; it changes when the node is restarted
	netns string        // path in the node's file system; empty: the node's own
}

// Lab returns the lab that the host is in.
func (h *Host) Lab() *Lab { return h.lab }

// enter returns the command line that runs args in the namespaces; nsenter(1).
func enter(pid int, netns string, args []string) []string {
	net := "--net"
	if netns != "" {
		net = "--net=" + filepath.Join("/proc", strconv.Itoa(pid), "root", netns)
	}
	return append([]string{"nsenter", "-t", strconv.Itoa(pid), "--mount", "--uts", "--pid", net, "--"}, args...)
}

// Path returns the name by which this process reaches a file of the host, its
// /run included, for as long as the host is up.
func (h *Host) Path(file string) string {
	return filepath.Join("/proc", strconv.Itoa(h.space().id.PID), "root", file)
}

// command prepares args to run on the host. Cancelling ctx kills the command,
// not only nsenter, which would leave it behind.
func (h *Host) command(ctx context.Context, args ...string) *exec.Cmd {
	argv := enter(h.space().id.PID, h.netns, args)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = environ(h.lab.opts.Binaries)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // ^C at the terminal is for the lab's owner
	cmd.Cancel = func() error { return signalEntered(cmd.Process, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Exec runs a command and returns its standard output. The error of a command
// that fails has its standard error and wraps *exec.ExitError.
func (h *Host) Exec(ctx context.Context, args ...string) (string, error) {
	return h.ExecInput(ctx, "", args...)
}

// ExecInput is Exec with text on the standard input.
func (h *Host) ExecInput(ctx context.Context, input string, args ...string) (string, error) {
	return h.ExecReader(ctx, strings.NewReader(input), args...)
}

// ExecReader is Exec with a standard input; a file is handed over as it is.
func (h *Host) ExecReader(ctx context.Context, input io.Reader, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := h.command(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = input, &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		err = fmt.Errorf("running %q on %s: %w: %s", strings.Join(args, " "), h.Name, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), err
}

// entered returns the PID of the command that nsenter has forked, as this
// process's PID namespace knows it; proc_tid_children(5).
func entered(ctx context.Context, nsenter int) (pid int, err error) {
	err = poll(ctx, time.Millisecond, func() (bool, error) {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", nsenter))
		if err != nil {
			return false, err
		}
		first, _, _ := strings.Cut(strings.TrimSpace(string(children)), " ")
		pid, _ = strconv.Atoi(first)
		return pid > 0, nil
	})
	return pid, err
}

// signalEntered signals the command that nsenter runs. Nsenter stops and ends
// with its command; who wakes the one must wake the other.
func signalEntered(nsenter *os.Process, sig syscall.Signal) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	pid, err := entered(ctx, nsenter.Pid)
	if err != nil {
		return os.ErrProcessDone
	}
	if err := syscall.Kill(pid, sig); err != nil {
		return err
	}
	switch sig {
	case syscall.SIGCONT, syscall.SIGKILL:
		_ = nsenter.Signal(syscall.SIGCONT)
	case syscall.SIGSTOP:
		return poll(ctx, time.Millisecond, func() (bool, error) { return stopped(nsenter.Pid) })
	}
	return nil
}

// DialContext opens a connection from the host's network namespace. The
// address is literal: there is no DNS in the lab. A "unix" address is a path
// on the host.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if network == "unix" {
		address = h.Path(address)
	}
	var conn net.Conn
	err := h.inNetns(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// ReadNet reads a file of /proc/net as it is on the host; proc_pid_net(5).
func (h *Host) ReadNet(name string) (text []byte, err error) {
	err = h.inNetns(func() (err error) {
		text, err = os.ReadFile(filepath.Join("/proc/thread-self/net", name))
		return err
	})
	return text, err
}

// inNetns calls f on a thread that is in the host's network namespace. Sockets
// stay in the namespace they were made in.
func (h *Host) inNetns(f func() error) error {
	path := h.Path(h.netns)
	if h.netns == "" {
		path = fmt.Sprintf("/proc/%d/ns/net", h.space().id.PID)
	}
	target, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening the network namespace of %s: %w", h.Name, err)
	}
	defer target.Close()
	done := make(chan error)
	go func() {
		// Unlocked only when the thread is back where it was; otherwise
		// it ends with the goroutine.
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering the network namespace of %s: %w", h.Name, err)
			return
		}
		err = f()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
