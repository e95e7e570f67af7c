package etcd

import "time"

// The names of the watches, as Progress has them.
const (
	WatchingConfig = taskConfig
	WatchingLeases = taskLeases
	WatchingOwn    = taskOwn
)

// Hasten has the store ask after so long a silence whether a watch still
// stands. It must not have been used yet.
func (s *Store) Hasten(quiet time.Duration) { s.quiet = quiet }
