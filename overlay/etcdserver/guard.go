package etcdserver

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// guard stands between etcd and the end of the process: what etcd logs at
// fatal or panic, as of damaged data or a full disk, ends the goroutine and
// Run, with an error that says what to do.
type guard struct{ failed chan error }

func newGuard() *guard { return &guard{make(chan error, 1)} }

// OnWrite implements zapcore.CheckWriteHook. It does not return.
func (g *guard) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := errors.New(e.Message)
	for _, f := range fields {
		if cause, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			err = fmt.Errorf("%s: %w", e.Message, cause)
		}
	}
	g.fail(err)
	runtime.Goexit()
}

// fail keeps the first error: others come from it.
func (g *guard) fail(err error) {
	select {
	case g.failed <- err:
	default:
	}
}

// options make a logger report to the guard.
func (g *guard) options() []zap.Option {
	return []zap.Option{zap.WithFatalHook(g), zap.WithPanicHook(g)}
}

// start is embed.StartEtcd, which neither panics nor ends the process. After
// an error of the guard's the member is in pieces: it cannot be closed, and
// this process should end. (The goroutine may wait for another one that has
// ended; nothing else can be done about it.)
func (g *guard) start(cfg *embed.Config) (*embed.Etcd, error) {
	type result struct {
		etcd *embed.Etcd
		err  error
	}
	done := make(chan result, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				g.fail(fmt.Errorf("panic: %v", p))
			}
		}()
		etcd, err := embed.StartEtcd(cfg)
		done <- result{etcd, err}
	}()
	select {
	case r := <-done:
		return r.etcd, r.err
	case err := <-g.failed:
		return nil, damaged{err}
	}
}

// damaged marks an error that etcd met in its data.
type damaged struct{ error }

func (d damaged) Unwrap() error { return d.error }

// hint says what to do about an error that an operator can mend.
func hint(err error, dir string) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return ": another process listens there; stop it or choose other listen-client-urls"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return ": this host has no such address; choose other listen-client-urls"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Sprintf(": the disk of %s is full: make room (etcd wants some 200 MB) and start again; what was acknowledged is safe", dir)
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Sprintf(": this user must own %s and all in it, and be able to write there", dir)
	case errors.Is(err, syscall.EIO):
		return fmt.Sprintf(": the disk of %s fails: replace it and restore a backup there: twill store restore FILE", dir)
	case errors.As(err, new(damaged)):
		return fmt.Sprintf(`: the data is damaged beyond what a power cut does. Take it away:
  mv %[1]s/member %[1]s-damaged
and restore the newest that is sound, either its database or a backup:
  twill store restore --skip-hash-check %[1]s-damaged/snap/db --data-dir %[1]s
  twill store restore FILE --data-dir %[1]s
With neither start empty: running nodes announce themselves again with the subnets they have. Then put the
network config (twill config set) and reservations (twill reserve) back.`, dir)
	}
	return ""
}
