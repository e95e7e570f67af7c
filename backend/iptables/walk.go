package iptables

import "slices"

// fate is what becomes of a packet about which no conditional rule of a chain
// says anything.
type fate uint8

const (
	passes  fate = iota // it comes out at the chain's end
	accepts             // its way through the table ends, and it lives
	drops
)

// step is a rule, reduced to what it does to each packet. Of a conditional rule
// only mayLeave counts.
type step struct {
	fate     fate
	chain    string // go through this chain
	leaves   bool   // and not on to the next rule: RETURN, or a goto
	mayLeave bool   // some packets do not go on to the next rule, and live
}

// walk finds the fate of packets in chains.
type walk struct {
	read  func(chain string) ([]step, error) // none for what is no chain
	skip  string                             // a chain that does not count
	fates map[string]fate                    // of chains seen; the kernel allows no loops
}

func (w *walk) chain(name string) (fate, error) {
	if name == w.skip {
		return passes, nil
	}
	if f, ok := w.fates[name]; ok {
		return f, nil
	}
	if w.fates == nil {
		w.fates = map[string]fate{}
	}
	w.fates[name] = passes
	steps, err := w.read(name)
	if err != nil {
		return passes, err
	}
	// What follows a RETURN of some packets does not meet them, and where the
	// chain was called from they go on: it is a choice, and no end for all. (In a
	// built-in chain they go to its policy, as if it were ACCEPT or DROP that
	// the rule says.)
	if i := slices.IndexFunc(steps, func(s step) bool { return s.mayLeave }); i >= 0 {
		steps = steps[:i]
	}
	_, f, err := w.steps(steps)
	w.fates[name] = f
	return f, err
}

// steps returns the index of the step that ends the way of every packet, or the
// number of steps, and its fate.
func (w *walk) steps(steps []step) (int, fate, error) {
	for i, s := range steps {
		f := s.fate
		if s.chain != "" {
			var err error
			if f, err = w.chain(s.chain); err != nil {
				return i, f, err
			}
		}
		if f != passes || s.leaves {
			return i, f, nil
		}
	}
	return len(steps), passes, nil
}

// hook is steps for a built-in chain, where the policy decides about what comes
// out of it. It returns drops or accepts.
func (w *walk) hook(policy string, steps []step) (int, fate, error) {
	i, f, err := w.steps(steps)
	switch {
	case f != passes:
		return i, f, err
	case policy == "DROP":
		return i, drops, err
	}
	return i, accepts, err
}

// end returns the index of the first rule of a hook behind which our jump is of
// no use, our own chain aside, or the number of rules; and the chains it looked
// into.
//
// That is a rule which no packet gets past. In FORWARD it has to drop them too:
// where all are accepted, by ACCEPT or by an inspection in userspace (NFQUEUE),
// ours before it would only take the pods' packets away from that.
func end(p place, policy string, hook []string, read func(chain string) ([]step, error)) (int, []string, error) {
	w := walk{read: read, skip: p.chain}
	i, f, err := w.hook(policy, listed(hook))
	if p.chain == ForwardChain && f == accepts {
		i = len(hook)
	}
	var visited []string
	for name := range w.fates {
		visited = append(visited, name)
	}
	slices.Sort(visited)
	return i, visited, err
}

// fateOf are the targets which end a packet's way through the table
// (iptables-extensions(8)).
func fateOf(target string) fate {
	switch target {
	case "DROP", "REJECT":
		return drops
	case "ACCEPT", "MASQUERADE", "SNAT", "DNAT", "NETMAP", "REDIRECT", "QUEUE", "NFQUEUE":
		return accepts
	}
	return passes
}

// listed reduces rules as `iptables -S` lists them, without their chain.
func listed(rules []string) []step {
	var steps []step
	for _, r := range rules {
		steps = append(steps, listedStep(fields(r)))
	}
	return steps
}

func listedStep(words []string) step {
	conditional := false
	for len(words) > 1 {
		switch {
		case words[0] == "-m" && words[1] == "comment" && len(words) > 3:
			words = words[4:]
			continue
		case words[0] == "-j" || words[0] == "-g":
			return targetStep(words[0], words[1]).under(conditional)
		}
		conditional = true
		words = words[1:]
	}
	return step{}
}

// targetStep is what the option -j or -g does to the packets that get to it.
func targetStep(option, target string) step {
	switch {
	case target == "RETURN":
		return step{leaves: true}
	case fateOf(target) != passes:
		return step{fate: fateOf(target)}
	}
	return step{chain: target, leaves: option == "-g"}
}

// under returns what is left of a step that not every packet may get to.
func (s step) under(condition bool) step {
	if condition {
		return step{mayLeave: s.leaves}
	}
	return s
}
