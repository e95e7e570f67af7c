// Package journal writes log lines the way the journal takes them from a
// service's standard error: sd-daemon(3). It imports nothing else of this
// module.
package journal

import (
	"fmt"
	"os"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/sirupsen/logrus"
)

// IsStderr reports whether f is this process's standard error and the journal
// reads it: JOURNAL_STREAM names it, systemd.exec(5).
func IsStderr(f any) bool {
	if f != os.Stderr {
		return false
	}
	is, err := journal.StderrIsJournalStream()
	return is && err == nil
}

// Formatter is a logrus.Formatter: one line for each entry, after its priority
// as in <4>, and without a time, which the journal has.
type Formatter struct{}

// Format implements logrus.Formatter.
func (Formatter) Format(e *logrus.Entry) ([]byte, error) {
	text := logrus.TextFormatter{DisableColors: true, DisableTimestamp: true}
	line, err := text.Format(e)
	if err != nil {
		return nil, err
	}
	return append(fmt.Appendf(nil, "<%d>", priority(e.Level)), line...), nil
}

// priority returns syslog's number for a level; syslog(3).
func priority(l logrus.Level) journal.Priority {
	switch l {
	case logrus.PanicLevel, logrus.FatalLevel:
		return journal.PriCrit
	case logrus.ErrorLevel:
		return journal.PriErr
	case logrus.WarnLevel:
		return journal.PriWarning
	case logrus.InfoLevel:
		return journal.PriInfo
	default:
		return journal.PriDebug
	}
}
