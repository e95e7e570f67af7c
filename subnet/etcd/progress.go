package etcd

import (
	"context"
	"time"
)

// Progress returns when each watch that is under way last went on, by its name:
// something came of etcd, which is asked for a sign of life where there is no
// news, or it was tried again while etcd does not answer. One that has not gone
// on for minutes hangs in this process: an etcd that does not answer, and a
// stream that is dead, are found out and mended within a minute.
func (s *Store) Progress() map[string]time.Time {
	return s.progress.At()
}

// watch is persist for a run that watches: each try is progress.
func (s *Store) watch(ctx context.Context, task string, run func(ctx context.Context, good func()) error) error {
	defer s.progress.Forget(task)
	return s.persist(ctx, task, func(ctx context.Context, good func()) error {
		s.progress.Beat(task)
		return run(ctx, good)
	})
}
