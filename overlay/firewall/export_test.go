package firewall

// Settled reports whether the next Sync reads nothing unless something changes.
func (f *Firewall) Settled() bool { return f.settled.generation != 0 }
