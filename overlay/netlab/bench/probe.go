package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/kernel"
)

// probe is the bench's hand in a node: a process in its namespaces that starts
// the daemon, writes to etcd and sees the kernel, all by one clock. Its methods
// are called over a unix socket (net/rpc).
type probe struct {
	ctx    context.Context
	world  *world
	etcd   *clientv3.Client
	api    *api // once Reach was called
	kernel *kernel.Kernel

	mu      sync.Mutex
	stop    func() // ends the running watch
	daemons map[int]*daemonRun
}

// daemonRun is a process that the probe has started.
type daemonRun struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// ServeProbe serves the bench's calls on a unix socket until ctx ends.
func ServeProbe(ctx context.Context, socket string) error {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	s := rpc.NewServer()
	if err := s.RegisterName("Probe", &probe{ctx: ctx, world: newWorld(), daemons: map[int]*daemonRun{}}); err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go s.ServeConn(conn) // ends with the connection, and with this process at the latest
	}
}

// WatchArgs says what is the daemon's in the kernel, and where etcd is.
type WatchArgs struct {
	Links    string // regular expression of its devices' names
	Protocol int    // of its routes
	Etcd     []string
}

// Nothing is what a call has no use for.
type Nothing struct{}

// Watch follows the kernel from now on, and connects to etcd.
func (p *probe) Watch(a WatchArgs, _ *Nothing) (err error) {
	if p.etcd == nil {
		p.etcd, err = clientv3.New(clientv3.Config{Endpoints: a.Etcd, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
		if err != nil {
			return err
		}
	}
	links, err := regexp.Compile(a.Links)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop != nil {
		p.stop()
	}
	if p.kernel, err = kernel.New(kernel.Config{LinkPattern: links, Protocol: a.Protocol}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(p.ctx)
	done, started := make(chan struct{}), make(chan struct{})
	var once sync.Once
	k := p.kernel
	go func() {
		defer close(done)
		_ = k.Watch(ctx, func(e backend.Event) {
			if e.Resync {
				p.observe(ctx, k)
				once.Do(func() { close(started) })
			}
			p.world.event(e)
		})
	}()
	p.stop = func() {
		cancel()
		<-done
		k.Close()
	}
	select {
	case <-started:
		return nil
	case <-done:
		return errors.New("watching the kernel ended")
	}
}

// observe takes a dump where notifications do not tell.
func (p *probe) observe(ctx context.Context, k *kernel.Kernel) {
	p.world.look(func() (backend.State, error) { return k.Observe(ctx, nil) })
}

// Want sets what Await waits for.
func (p *probe) Want(e Expect, _ *Nothing) error {
	p.world.want(e)
	return nil
}

// Await waits for what Want has set, at most so long.
func (p *probe) Await(limit time.Duration, s *Seen) error {
	*s = p.world.await(limit)
	return nil
}

// Started is a process that runs.
type Started struct {
	PID int
	At  int64 // just before it was started, by the monotonic clock
}

// Start starts a daemon.
func (p *probe) Start(args []string, s *Started) error {
	run := &daemonRun{cmd: exec.CommandContext(p.ctx, args[0], args[1:]...), done: make(chan struct{})}
	log, err := os.Create(fmt.Sprintf("/run/bench-%s.log", strings.ReplaceAll(args[0], "/", "-")))
	if err != nil {
		return err
	}
	defer log.Close()
	run.cmd.Stdout, run.cmd.Stderr = log, log
	s.At = now()
	if err := run.cmd.Start(); err != nil {
		return err
	}
	s.PID = run.cmd.Process.Pid
	p.mu.Lock()
	p.daemons[s.PID] = run
	p.mu.Unlock()
	go func() {
		_ = run.cmd.Wait()
		close(run.done)
	}()
	return nil
}

// Stop ends a daemon that Start has started, with SIGTERM, and with SIGKILL
// when that takes long.
func (p *probe) Stop(pid int, _ *Nothing) error {
	p.mu.Lock()
	run := p.daemons[pid]
	delete(p.daemons, pid)
	p.mu.Unlock()
	if run == nil {
		return fmt.Errorf("process %d is not known", pid)
	}
	_ = run.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-run.done:
	case <-time.After(20 * time.Second):
		_ = run.cmd.Process.Kill()
		<-run.done
	}
	return nil
}

// Usage is what a process has used.
type Usage struct {
	CPU      float64 // seconds, user and system; of its children that have ended in ticks of 10 ms
	RSS      float64 // MiB
	RSSAnon  float64 // MiB
	Threads  int
	Children int // processes whose parent it is
}

// Usage reads /proc.
func (p *probe) Usage(pid int, u *Usage) error {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return err
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	own, err := cpuClock(pid)
	if err != nil {
		return err
	}
	u.CPU = own.Seconds()
	for _, i := range []int{13, 14} { // cutime, cstime; proc_pid_stat(5)
		ticks, err := strconv.Atoi(fields[i])
		if err != nil {
			return err
		}
		u.CPU += float64(ticks) / 100
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		n, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
		switch name {
		case "VmRSS":
			u.RSS = n / 1024
		case "RssAnon":
			u.RSSAnon = n / 1024
		case "Threads":
			u.Threads = int(n)
		}
	}
	var out string
	if err := p.Run(fmt.Sprintf("grep -l '^PPid:[[:space:]]*%d$' /proc/[0-9]*/status 2>/dev/null | wc -l", pid), &out); err != nil {
		return err
	}
	_, err = fmt.Sscan(out, &u.Children)
	return err
}

// Run runs a shell script, and returns what it prints.
func (p *probe) Run(script string, out *string) error {
	b, err := exec.CommandContext(p.ctx, "sh", "-c", script).CombinedOutput()
	*out = string(b)
	if err != nil {
		return fmt.Errorf("running %q: %w: %s", script, err, b)
	}
	return nil
}
