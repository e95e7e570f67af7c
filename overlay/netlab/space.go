package netlab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// space is the running first process of a node, the lan or the outside host:
// what holds its namespaces.
type space struct {
	id       identity
	cmd      *exec.Cmd
	lifeline *os.File // closing it ends the node, unless it is detached
}

// startSpace starts NodeInit for name and returns once the namespaces are
// furnished. The lab's directory has the files of name.
func (l *Lab) startSpace(name string) (_ *space, err error) {
	lifelineEnd, lifeline, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer lifelineEnd.Close()
	status, statusEnd, err := os.Pipe()
	if err != nil {
		lifeline.Close()
		return nil, err
	}
	defer status.Close()
	logPath := l.logPath(name + "-init")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, errors.Join(err, lifeline.Close(), statusEnd.Close())
	}
	defer log.Close()

	cmd := exec.Command(l.opts.Binaries.Twill, initCommand(name, l.opts.Dir)...)
	cmd.Env = environ(l.opts.Binaries)
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = lifelineEnd, log, log
	cmd.ExtraFiles = []*os.File{statusEnd}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// A session of its own: ^C at the terminal is for the lab's owner.
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID,
	}
	err = cmd.Start()
	statusEnd.Close()
	if err != nil {
		lifeline.Close()
		return nil, fmt.Errorf("starting the first process of %s: %w: namespaces need root (CAP_SYS_ADMIN)", name, err)
	}
	s := &space{cmd: cmd, lifeline: lifeline}
	said, err := io.ReadAll(status)
	if err == nil && string(said) != statusReady {
		err = fmt.Errorf("%s (its log is %s)", strings.TrimSpace(string(said)), logPath)
	}
	if err == nil {
		s.id, err = identify(cmd.Process.Pid)
	}
	if err != nil {
		s.kill()
		s.wait()
		return nil, fmt.Errorf("furnishing the namespaces of %s: %w", name, err)
	}
	return s, nil
}

// kill kills the first process and with it everything in its namespaces, and
// wait waits until all that is gone.
func (s *space) kill() { _ = s.cmd.Process.Kill() }

func (s *space) wait() {
	_ = s.cmd.Wait() // "signal: killed"
	s.lifeline.Close()
}

// detach lets the node live on when this process ends.
func (s *space) detach() error {
	_, err := s.lifeline.Write([]byte{detachByte})
	return errors.Join(err, s.lifeline.Close())
}

// environ is this process's environment for what runs in the lab: with the
// lab's binaries first in the path, and without proxies, which nobody there
// can reach.
func environ(b Binaries) []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if name != "PATH" && !strings.HasSuffix(strings.ToLower(name), "_proxy") {
			env = append(env, kv)
		}
	}
	path := []string{filepath.Dir(b.Twill), os.Getenv("PATH"), "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"}
	return append(env, "PATH="+strings.Join(path, ":"))
}
