package underlay

import (
	"flag"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// Flags are those by which the interface is chosen, of twilld and of what
// prepares a host for it.
type Flags struct {
	ifaces, patterns commaList
	canReach         string
}

// Register defines the flags in fs.
func (f *Flags) Register(fs *flag.FlagSet) {
	fs.Var(&f.ifaces, "iface", "external interface by its `name` or address; repeated or comma separated, the first that is there counts (default: the default route's; without one, the only interface that has an address)")
	fs.Var(&f.patterns, "iface-regex", "external interface by a regular `expression` for its name or address; looked at after --iface; repeated or comma separated")
	fs.StringVar(&f.canReach, "iface-can-reach", "", "external interface by the route to this `address`")
}

// Options returns what the flags say.
func (f *Flags) Options() (Options, error) {
	o := Options{Interfaces: f.ifaces}
	for _, p := range f.patterns {
		re, err := regexp.Compile(p)
		if err != nil {
			return o, fmt.Errorf("--iface-regex %q is not a regular expression: %w", p, err)
		}
		o.Patterns = append(o.Patterns, re)
	}
	var err error
	if f.canReach != "" {
		if o.CanReach, err = netip.ParseAddr(f.canReach); err != nil {
			return o, fmt.Errorf("--iface-can-reach %q is not an address", f.canReach)
		}
	}
	return o, nil
}

// commaList is a repeatable flag which also takes comma lists. Nothing quotes
// what is between the commas: regular expressions have quotes of their own.
type commaList []string

func (l *commaList) String() string { return strings.Join(*l, ",") }

func (l *commaList) Set(v string) error {
	for s := range strings.SplitSeq(v, ",") {
		if s = strings.TrimSpace(s); s != "" {
			*l = append(*l, s)
		}
	}
	return nil
}
