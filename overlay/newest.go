package overlay

// NewStoreHealth returns how a store, which is made before the agent, tells of
// its connection, and what Run takes: only what was told last is kept, so that
// no store waits.
func NewStoreHealth() (tell func(error), health <-chan StoreHealth) {
	last := make(chan StoreHealth, 1)
	return func(err error) { newest(last, StoreHealth{err}) }, last
}

// newest puts a value into a channel that has a capacity, in the place of the
// oldest that waits there if it is full.
func newest[T any](to chan T, v T) {
	for { // somebody else may put one between the two
		select {
		case to <- v:
			return
		default:
		}
		select {
		case <-to:
		default:
		}
	}
}
