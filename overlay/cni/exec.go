package cni

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/types/create"
	"golang.org/x/sys/unix"
)

// Delegates are run here and not by libcni's package invoke for two reasons: a
// delegate must not outlive us, and invoke links an HTTP client and
// OpenTelemetry into a program that is started for each pod.

// run is a delegate plugin about to be run for one request.
type run struct {
	Delegate
	path string
	args *skel.CmdArgs
}

// find looks the delegate up in CNI_PATH.
func find(d Delegate, args *skel.CmdArgs) (run, error) {
	path, ok := findPlugin(d.Type, args.Path)
	if !ok {
		return run{}, types.NewError(types.ErrInvalidNetworkConfig,
			fmt.Sprintf("finding the delegate plugin %s: it is not in CNI_PATH, which is %s", d.Type, args.Path),
			"install the CNI reference plugins beside twill")
	}
	return run{d, path, args}, nil
}

// findPlugin looks for a plugin, whose name is one path element, in the
// directories of CNI_PATH.
func findPlugin(name, path string) (string, bool) {
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		if s, err := os.Stat(file); dir != "" && err == nil && s.Mode().IsRegular() {
			return file, true
		}
	}
	return "", false
}

func (r run) add(ctx context.Context, version string) (types.Result, error) {
	out, err := r.exec(ctx, "ADD", r.args.Netns)
	if err != nil {
		return nil, err
	}
	// A plugin that does not name the version speaks that of its config.
	if v, err := create.DecodeVersion(out); err == nil {
		version = cmp.Or(v, version)
	}
	result, err := create.Create(version, out)
	if err != nil {
		return nil, r.failed("ADD", types.NewError(types.ErrDecodingFailure, fmt.Sprintf("reading its result: %v", err), ""))
	}
	return result, nil
}

func (r run) check(ctx context.Context) error {
	_, err := r.exec(ctx, "CHECK", r.args.Netns)
	return err
}

func (r run) del(ctx context.Context) error {
	_, err := r.exec(ctx, "DEL", r.args.Netns)
	return err
}

// exec runs the plugin and returns what it printed. The error's code is the
// plugin's; wrapping would not do, since skel prints the innermost
// *types.Error alone.
func (r run) exec(ctx context.Context, verb, netns string) ([]byte, error) {
	env := environ("CNI_COMMAND="+verb, "CNI_CONTAINERID="+r.args.ContainerID, "CNI_NETNS="+netns,
		"CNI_IFNAME="+r.args.IfName, "CNI_ARGS="+r.args.Args, "CNI_PATH="+r.args.Path)
	out, stderr, err := child(ctx, r.path, r.JSON, env)
	if err == nil {
		_, _ = os.Stderr.Write(stderr)
		return out, nil
	}
	e := new(types.Error)
	if json.Unmarshal(out, e) != nil || e.Msg == "" {
		text := strings.TrimSpace(string(out) + " " + string(stderr))
		e = types.NewError(types.ErrInternal, strings.TrimSpace(err.Error()+" "+text), "")
	}
	if strings.Contains(e.Msg, exhausted) {
		e.Code = types.ErrTryAgainLater
		e.Details = "all of the node's subnet is reserved for pods; addresses of pods that are gone are released within minutes, `twill status` says what keeps them"
	}
	return nil, r.failed(verb, e)
}

// exhausted is how host-local says that there are no more addresses
// (plugins/ipam/host-local/backend/allocator).
const exhausted = "no IP addresses available in range set"

func (r run) failed(verb string, e *types.Error) error {
	return types.NewError(cmp.Or(e.Code, types.ErrInternal),
		fmt.Sprintf("running the delegate plugin %s with %s: %s", r.Type, verb, e.Msg), e.Details)
}

// environ is our environment for a delegate, with what is set for it in the place
// of what was: of two values a Go program takes the first, others the last.
// Plugins are written in Go and do one thing after another: with one processor
// their threads hand it on less often, which saves a tenth of their CPU.
func environ(set ...string) []string {
	if _, users := os.LookupEnv("GOMAXPROCS"); !users {
		set = append(set, "GOMAXPROCS=1")
	}
	inherited := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.ContainsFunc(set, func(s string) bool { return strings.HasPrefix(s, name+"=") })
	})
	return append(inherited, set...)
}

// busyPatience is for a plugin that is just being written (ETXTBSY).
const busyPatience = 5 * time.Second

// child runs a program to its end, which is also our own if that is earlier: a
// runtime that kills an ADD will go on with DEL, and a delegate still at work
// would then leave behind what DEL has just looked for.
func child(ctx context.Context, path string, stdin []byte, env []string, args ...string) (stdout, stderr []byte, err error) {
	// The kernel sends the signal when the thread ends that started the
	// child (prctl(2), PR_SET_PDEATHSIG): keep it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	patience := time.NewTimer(busyPatience)
	defer patience.Stop()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		stdout, stderr, err := once(ctx, path, stdin, env, args)
		if !errors.Is(err, unix.ETXTBSY) {
			return stdout, stderr, err
		}
		select {
		case <-tick.C:
		case <-patience.C:
			return nil, nil, err
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// once runs a program to its end. It reads and writes files in memory: pipes
// would need three goroutines, each of which takes turns with the locked
// thread, and would have us wait for whatever a plugin leaves running.
func once(ctx context.Context, path string, stdin []byte, env, args []string) (stdout, stderr []byte, err error) {
	var files [3]*os.File
	defer func() {
		for _, f := range files {
			f.Close() // of nil: an error, no more
		}
	}()
	for i := range files {
		fd, err := unix.MemfdCreate("twill-cni", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, nil, fmt.Errorf("making a file in memory for %s: %w", path, err)
		}
		files[i] = os.NewFile(uintptr(fd), "memfd")
	}
	if _, err := files[0].WriteAt(stdin, 0); err != nil {
		return nil, nil, fmt.Errorf("writing the input of %s: %w", path, err)
	}
	attr := &syscall.ProcAttr{Env: env, Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}}
	for _, f := range files {
		attr.Files = append(attr.Files, f.Fd())
	}
	// Not by package os, which makes another process first, to learn whether the
	// kernel has pidfd (os/pidfd_linux.go, checkPidfd).
	if pid, startErr := syscall.ForkExec(path, append([]string{path}, args...), attr); startErr != nil {
		err = &os.PathError{Op: "fork/exec", Path: path, Err: startErr}
	} else {
		err = await(ctx, pid)
	}
	for i, to := range map[int]*[]byte{1: &stdout, 2: &stderr} {
		// The child's place in the file is ours too (dup(2)).
		if _, seekErr := files[i].Seek(0, io.SeekStart); seekErr == nil {
			*to, _ = io.ReadAll(files[i])
		}
	}
	return stdout, stderr, err
}

// await waits for the end of a child, which is killed when ctx ends before, and
// says how it ended if not well.
//
// Between its end and reaping it a moment is left to its threads. The kernel
// tells us of the end when the last of them has left the process, but each has
// yet to drop what it had in /proc (kernel/exit.c, release_task). Who reaps the
// child drops the same, and where one of them has lost its CPU in the middle of
// it, spins until it has got it back (fs/dcache.c, shrink_dcache_parent): 4 ms of
// CPU at most calls on a busy node. The moment saves two thirds of that; nothing
// tells when it is over.
func await(ctx context.Context, pid int) error {
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		close(killed)
	})
	for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
	early := !stop()
	if early {
		<-killed // once it is reaped, its number may be another's
	}
	moment := unix.NsecToTimespec(int64(300 * time.Microsecond))
	_ = unix.Nanosleep(&moment, nil)
	var status syscall.WaitStatus
	for {
		if _, err := syscall.Wait4(pid, &status, 0, nil); err == nil {
			break
		} else if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for the end of process %d: %w", pid, err)
		}
	}
	switch {
	case early:
		return ctx.Err()
	case status.Signaled():
		return fmt.Errorf("signal: %s", status.Signal())
	case status.ExitStatus() != 0:
		return fmt.Errorf("exit status %d", status.ExitStatus())
	}
	return nil
}

// isNamespace reports whether path leads to a namespace. The file that a
// runtime had mounted one on outlives an unmount or a reboot; bridge takes a
// path that is gone for a pod that is gone, but fails for ever on such a file.
func isNamespace(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Type == unix.NSFS_MAGIC
}
