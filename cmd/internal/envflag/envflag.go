// Package envflag fills flags from the environment: --etcd-endpoints from
// TWILLD_ETCD_ENDPOINTS. A flag that is given wins over its variable. It
// imports the standard library only.
package envflag

import (
	"errors"
	"flag"
	"fmt"
	"strings"
)

// Parse parses args and then fills the flags which are not among them, as
// Apply does. Errors are as of flag.FlagSet.Parse; the flag set says itself
// what is wrong with args, where it has an output.
func Parse(fs *flag.FlagSet, prefix string, args []string, lookup func(name string) (string, bool)) error {
	if err := fs.Parse(args); err != nil {
		return err
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
			errs = append(errs, fmt.Errorf("environment variable %s: %q: %w", name, value, err))
		}
	})
	return errors.Join(errs...)
}

// Name returns the variable of a flag: TWILLD_LEASE_TTL of lease-ttl.
func Name(prefix, flag string) string {
	return prefix + "_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}
