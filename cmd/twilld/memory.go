package main

import "runtime/debug"

// calmPercent is GOGC (package runtime) once a start is over. What then makes
// garbage, for the most part, is the look at everything each 30 s: with 20 000
// peers some 20 MB beside 22 MB that live, and at the default of 100 another 10
// to 15 MiB of memory are held for it. A start itself, which makes 400 MB,
// would take a quarter more CPU at 50: it has the default.
const calmPercent = 50

// calm is what the agent calls after a start and after each burst of changes:
// the memory that took goes back to the system. The collector is left as it is
// for whoever said how it must be, by GOGC or GOMEMLIMIT.
func calm(lookup func(string) (string, bool)) func() {
	percent := calmPercent
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		if _, ok := lookup(name); ok {
			percent = 0
		}
	}
	return func() {
		if percent != 0 {
			debug.SetGCPercent(percent)
		}
		debug.FreeOSMemory()
	}
}
