package overlay

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
)

// panicError is the end of a task that panicked.
type panicError struct {
	task  string
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("%s panicked: %v", e.task, e.value) }

// catch turns a panic of f into an error.
func catch(task string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{task, p, debug.Stack()}
		}
	}()
	return f()
}

// run runs a task in g. A panic is told with its stack and ends all tasks.
func (a *Agent) run(g *errgroup.Group, name string, f func() error) {
	g.Go(func() error {
		err := catch(name, f)
		var p *panicError
		if errors.As(err, &p) {
			a.cfg.Log.WithFields(logrus.Fields{"task": p.task, "stack": string(p.stack)}).Errorf("task panicked, twilld ends: %v", p.value)
			select {
			case a.panics <- err:
			default:
			}
		}
		return err
	})
}

// panicGrace is how long the others are waited for when a task panicked: it may
// have left a lock that they wait for.
const panicGrace = 5 * time.Second

// wait returns when all tasks have ended.
func (a *Agent) wait(g *errgroup.Group) error {
	var all error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		all = g.Wait()
	}()
	select {
	case <-ended:
		return all
	case err := <-a.panics:
		select {
		case <-ended:
		case <-time.After(panicGrace):
		}
		return err
	}
}

// broke says what it means that a task broke, where it is more than that.
func broke(task string) string {
	if task == partLease {
		return "this node's subnet could not be leased or renewed, will retry"
	}
	return "task broke, will retry"
}

// supervise calls a task again when it breaks, until the context ends. It
// returns an error when the task panicked.
func (a *Agent) supervise(ctx context.Context, name string, task func(context.Context) error) error {
	wait := newBackoff(100*time.Millisecond, 5*time.Second)
	for {
		started := time.Now()
		err := task(ctx)
		var p *panicError
		if errors.As(err, &p) {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(started) > time.Minute {
			wait.Reset()
		}
		d := wait.NextBackOff()
		if err != nil && a.board.problem(name, err) {
			a.cfg.Log.WithFields(logrus.Fields{"task": name, "retry": d.Round(time.Millisecond).String()}).WithError(err).Warn(broke(name))
			a.inbox.poke() // the reason why we are not ready may be another
		}
		if !pause(ctx, d) {
			return nil
		}
	}
}
