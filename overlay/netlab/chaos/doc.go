// Package chaos is the suite of random mixes of faults: a few nodes under
// traffic, a seed, and one action after the other that breaks something in the
// kernel, the daemons, the store, the leases or the underlay, sometimes two at
// a time. After each step the invariants must hold (see world.check), and no
// packet may be lost of a flow that the action did not declare to touch. It
// has tests only, and knows the daemon by its binary and by the form of its
// status.
//
// An action is a value (see action); a new one goes into the file of its
// group. All that a step does follows from the seed and the step's number.
//
//	CHAOS_SECONDS  how long: 45
//	SEED           the seed of an earlier run, to replay it: by chance
//	CHAOS_STEPS    end after so many steps, whatever the time
//	CHAOS_ACTIONS  regular expression: only actions of these names
//	NODES          3 to 5: by the seed
package chaos
