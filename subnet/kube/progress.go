package kube

import (
	"time"
)

// Progress returns when each watch that is under way last went on, by its name:
// something came of the API server, if only a bookmark, which it sends every
// minute; or it was tried again while the server does not answer. One that has
// not gone on for minutes more than silence hangs in this process.
func (s *Store) Progress() map[string]time.Time {
	return s.progress.At()
}
