// Package envflag fills flags from the environment: --etcd-endpoints from
// TWILLD_ETCD_ENDPOINTS. A flag that is given wins over its variable. It
// imports nothing of a store or the kernel.
package envflag

import (
	"errors"
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/twill-net/twill/subnet/nearest"
)

// Parse parses args and then fills the flags which are not among them, as
// Apply does. Errors are those of flag.FlagSet.Parse, with two dashes and with
// what is wanted; flag.ErrHelp is as it is.
func Parse(fs *flag.FlagSet, prefix string, args []string, lookup func(name string) (string, bool)) error {
	if err := fs.Parse(args); err != nil {
		return plain(fs, err)
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	return Apply(fs, prefix, func(name string) bool { return given[name] }, lookup)
}

// Apply sets each flag that is not given from the variable of its name, where
// lookup (os.LookupEnv) finds one that is not empty.
func Apply(fs *flag.FlagSet, prefix string, given func(flag string) bool, lookup func(name string) (string, bool)) error {
	var errs []error
	fs.VisitAll(func(f *flag.Flag) {
		name := Name(prefix, f.Name)
		value, ok := lookup(name)
		if !ok || value == "" || given(f.Name) {
			return
		}
		if err := fs.Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("environment variable %s: %q: %s", name, value, reason(f, err.Error())))
		}
	})
	return errors.Join(errs...)
}

// The errors of flag.FlagSet.Parse, which are no more than text.
var (
	undefined = regexp.MustCompile(`^flag provided but not defined: -(.*)$`)
	invalid   = regexp.MustCompile(`^invalid (?:boolean )?value (".*") for (?:flag )?-([^":]+): (.*)$`)
	argument  = regexp.MustCompile(`^flag needs an argument: -(.*)$`)
)

// plain says the same in the words of our documentation.
func plain(fs *flag.FlagSet, err error) error {
	text := err.Error()
	if m := undefined.FindStringSubmatch(text); m != nil {
		var names []string
		fs.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
		text = "there is no flag --" + m[1]
		if meant := nearest.Name(m[1], names); meant != "" {
			text += " (did you mean --" + meant + "?)"
		}
		return errors.New(text)
	}
	if m := invalid.FindStringSubmatch(text); len(m) > 2 && fs.Lookup(m[2]) != nil {
		return fmt.Errorf("invalid value %s for flag --%s: %s", m[1], m[2], reason(fs.Lookup(m[2]), m[3]))
	}
	if m := argument.FindStringSubmatch(text); m != nil {
		return errors.New("flag needs an argument: --" + m[1])
	}
	return err
}

// reason says what a flag wants, where package flag says that it cannot read it.
func reason(f *flag.Flag, text string) string {
	getter, ok := f.Value.(flag.Getter)
	if !ok || text != "parse error" {
		return text
	}
	switch getter.Get().(type) {
	case bool:
		return "want true or false"
	case time.Duration:
		return "want a duration such as 24h"
	case int, int64, uint, uint64:
		return "want a whole number"
	}
	return text
}

// Unknown says of each variable in environ (os.Environ) that looks like one of
// a flag, and is not empty, that there is no such flag. Those that the kubelet
// makes of a Service whose name begins as the prefix does are passed over.
func Unknown(fs *flag.FlagSet, prefix string, environ []string) (warnings []string) {
	var names []string
	fs.VisitAll(func(f *flag.Flag) { names = append(names, Name(prefix, f.Name)) })
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if value == "" || !strings.HasPrefix(name, prefix+"_") || slices.Contains(names, name) || ofService(name, value) {
			continue
		}
		text := fmt.Sprintf("%s is no variable of %s", name, fs.Name())
		if meant := nearest.Name(name, names); meant != "" {
			text += "; did you mean " + meant + "?"
		}
		warnings = append(warnings, text)
	}
	slices.Sort(warnings)
	return warnings
}

// The names are those of https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables;
// that of a port may also be one of ours misspelt, so that its value counts.
var (
	serviceName = regexp.MustCompile(`_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$`)
	servicePort = regexp.MustCompile(`^(tcp|udp|sctp)://`)
)

// ofService reports whether a variable is one of a Service.
func ofService(name, value string) bool {
	return serviceName.MatchString(name) || strings.HasSuffix(name, "_PORT") && servicePort.MatchString(value)
}

// Name returns the variable of a flag: TWILLD_LEASE_TTL of lease-ttl.
func Name(prefix, flag string) string {
	return prefix + "_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}
