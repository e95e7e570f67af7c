// Package sdnotify tells the service manager how the daemon is: sd_notify(3).
// It imports nothing else of this module.
package sdnotify

import (
	"context"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
)

// resend is the wait after a notification that could not be delivered. A
// READY=1 that is lost would leave the unit "activating" for ever.
const resend = time.Second

// longestStatus keeps a notification well below the 4096 bytes of which
// systemd takes one; a longer one is dropped as a whole.
const longestStatus = 500

// Notifier holds what is to be told, and Run tells it. It is not a queue: of
// what was set while the manager was slow only the newest is sent, and whoever
// sets it never waits for the manager.
type Notifier struct {
	log  *logrus.Entry
	wake chan struct{} // something was set; capacity 1

	mu     sync.Mutex
	ready  bool
	status string
}

// New returns a notifier. It starts nothing.
func New(log *logrus.Entry) *Notifier {
	return &Notifier{log: log, wake: make(chan struct{}, 1)}
}

// Ready says that the service is up: READY=1, told once. Units that are
// ordered after it start then.
func (n *Notifier) Ready() {
	n.set(func() { n.ready = true })
}

// Status says in a line what the service does or waits for; `systemctl status`
// shows it. Line breaks and control characters become blanks, and what is too
// long is cut.
func (n *Notifier) Status(text string) {
	text = oneLine(text)
	n.set(func() { n.status = text })
}

func (n *Notifier) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Run tells the manager until the context ends: what was set, each change of
// it, WATCHDOG=1 twice in the interval that the manager asks for while live
// says so, and at the end STOPPING=1. Without a manager, that is without
// NOTIFY_SOCKET, it only waits for the context.
func (n *Notifier) Run(ctx context.Context, live func() bool) {
	s := sender{log: n.log}
	var due <-chan time.Time
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		n.log.WithError(err).Warn("the service manager's watchdog is not understood, and not served")
	} else if interval > 0 {
		tick := time.NewTicker(interval / 2)
		defer tick.Stop()
		due = tick.C
	}
	again := time.NewTimer(resend)
	again.Stop()
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			s.send(daemon.SdNotifyStopping)
			return
		case <-due:
			s.ping(live())
		case <-n.wake:
			s.tell(n.told())
		case <-again.C:
			s.tell(n.told())
		}
		if s.behind {
			again.Reset(resend)
		}
	}
}

// told returns what is set.
func (n *Notifier) told() (ready bool, status string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ready, n.status
}

// sender is what Run remembers of what the manager knows.
type sender struct {
	log    *logrus.Entry
	ready  bool
	status string
	failed bool // the last notification was not delivered
	behind bool // the manager does not know all that was set
	dead   bool
}

// tell tells what the manager does not know, in one datagram.
func (s *sender) tell(ready bool, status string) {
	var lines []string
	if ready && !s.ready {
		lines = append(lines, daemon.SdNotifyReady)
	}
	if status != s.status {
		lines = append(lines, "STATUS="+status)
	}
	s.behind = len(lines) > 0 && !s.send(strings.Join(lines, "\n"))
	if !s.behind {
		s.ready, s.status = ready, status
	}
}

// ping feeds the watchdog while the daemon is alive.
func (s *sender) ping(live bool) {
	if live {
		s.send(daemon.SdNotifyWatchdog)
	} else if !s.dead {
		s.log.Error("not alive: the watchdog is not told, so that the service manager restarts us")
	}
	s.dead = !live
}

// send reports whether there is nothing left to deliver.
func (s *sender) send(text string) bool {
	_, err := daemon.SdNotify(false, text)
	if err != nil && !s.failed {
		s.log.WithError(err).Warn("the service manager could not be told, will retry")
	}
	s.failed = err != nil
	return err == nil
}

// oneLine makes text a value of a notification: one line of valid UTF-8.
func oneLine(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r)
	}), " ")
	if len(text) > longestStatus {
		text = text[:longestStatus] + "…"
	}
	return strings.ToValidUTF8(text, "")
}
