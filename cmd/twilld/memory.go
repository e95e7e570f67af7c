package main

import "runtime/debug"

// calmPercent is GOGC (package runtime) once a start is over. What then makes
// garbage is the look at everything each 30 s: with 20 000 peers 40 to 60 MB,
// beside 22 MB that live. For it some 10 MiB more would be resident at the
// default of 100. A start itself makes 450 MB and would take a quarter more CPU
// at 50 (0.93 s, 1.16 s): it has the default.
const calmPercent = 50

// calm is what the agent calls after a start, a burst of changes and a look at
// many objects: the memory that took goes back to the system, which at 20 000
// peers means 32 MiB rather than 65 between two looks, for CPU that does not
// show. The collector is left as it is
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
