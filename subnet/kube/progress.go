package kube

import (
	"maps"
	"sync"
	"time"
)

// Progress returns when each watch that is under way last went on, by its name:
// something came of the API server, if only a bookmark, which it sends every
// minute; or it was tried again while the server does not answer. One that has
// not gone on for minutes more than silence hangs in this process.
func (s *Store) Progress() map[string]time.Time {
	s.progress.mu.Lock()
	defer s.progress.mu.Unlock()
	return maps.Clone(s.progress.at)
}

// progress is when each watch last went on.
type progress struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (p *progress) beat(task string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at[task] = time.Now()
}

func (p *progress) forget(task string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.at, task)
}
