package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
)

// Process is a daemon on a host. Its output goes to the file Log, run after
// run. It ends with its host.
type Process struct {
	Name string // of the log: node1-twilld
	Log  string
	host *Host
	args []string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when the run has ended
	err  error         // of the run that has ended
}

// Start runs a command on the host in the background.
func (h *Host) Start(name string, args ...string) (*Process, error) {
	name = strings.ReplaceAll(h.Name, "/", "-") + "-" + name
	p := &Process{Name: name, Log: h.lab.logPath(name), host: h, args: args}
	if err := p.Restart(); err != nil {
		return nil, err
	}
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	h.lab.processes = append(h.lab.processes, p)
	return p, nil
}

// Restart starts the command again after it has ended.
func (p *Process) Restart() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := p.host.command(context.Background(), p.args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", p.Name, err)
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	p.host.lab.running.Go(func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(done)
	})
	return nil
}

func (p *Process) run() (*exec.Cmd, chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd, p.done
}

// Signal sends sig to the command.
func (p *Process) Signal(sig syscall.Signal) error {
	cmd, done := p.run()
	select {
	case <-done:
		return fmt.Errorf("signalling %s: %w", p.Name, os.ErrProcessDone)
	default:
	}
	if err := signalEntered(cmd.Process, sig); err != nil {
		return fmt.Errorf("signalling %s: %w", p.Name, err)
	}
	return nil
}

// wake lets nsenter see the end of a command that was stopped.
func (p *Process) wake() {
	cmd, _ := p.run()
	_ = cmd.Process.Signal(syscall.SIGCONT)
}

// Running reports whether the command has not ended.
func (p *Process) Running() bool {
	_, done := p.run()
	select {
	case <-done:
		return false
	default:
		return true
	}
}

// Wait waits for the end of the command. The error wraps *exec.ExitError when
// the command failed or was killed.
func (p *Process) Wait(ctx context.Context) error {
	_, done := p.run()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("waiting for the end of %s: %w", p.Name, ctx.Err())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return fmt.Errorf("%s has ended: %w; %s", p.Name, p.err, p.tail())
	}
	return nil
}

// Stop ends the command with SIGTERM and waits for it; the error is Wait's.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return p.Wait(ctx)
}

// Kill ends the command with SIGKILL and waits for it.
func (p *Process) Kill(ctx context.Context) error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	err := p.Wait(ctx)
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return nil
	}
	return err
}

// explain adds the end of the log to an error about a command that runs still;
// the error of one that has ended has it.
func (p *Process) explain(err error) error {
	if !p.Running() {
		return err
	}
	return fmt.Errorf("%w; %s", err, p.tail())
}

// tail says where the log is and how it ends.
func (p *Process) tail() string {
	log, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	return fmt.Sprintf("its log %s ends:\n%s", p.Log, bytes.Join(lines[max(0, len(lines)-8):], []byte("\n")))
}
