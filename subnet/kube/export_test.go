package kube

import "time"

// SetSilence sets how long a stream may tell nothing.
func (s *Store) SetSilence(d time.Duration) { s.silence = d }
