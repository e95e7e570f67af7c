package etcd

import (
	"context"
	"maps"
	"sync"
	"time"
)

// Progress returns when each watch that is under way last went on, by its name:
// something came of etcd, which is asked for a sign of life where there is no
// news, or it was tried again while etcd does not answer. One that has not gone
// on for minutes hangs in this process: an etcd that does not answer, and a
// stream that is dead, are found out and mended within a minute.
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
	if p.at == nil {
		p.at = map[string]time.Time{}
	}
	p.at[task] = time.Now()
}

func (p *progress) forget(task string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.at, task)
}

// watch is persist for a run that watches: each try is progress.
func (s *Store) watch(ctx context.Context, task string, run func(ctx context.Context, good func()) error) error {
	defer s.progress.forget(task)
	return s.persist(ctx, task, func(ctx context.Context, good func()) error {
		s.progress.beat(task)
		return run(ctx, good)
	})
}
