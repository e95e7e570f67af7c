package iptables

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/twill-net/twill/backend/internal/procfile"
	"github.com/twill-net/twill/subnet"
)

// tableNames list the legacy tables that a network namespace has; there is no
// such file without the module, and nothing in it before somebody asked for a
// table (x_tables.c, xt_proto_init). It is read by way of the thread: /proc/net
// is the process's.
var tableNames = subnet.PerFamily[string]{
	subnet.IPv4: "/proc/thread-self/net/ip_tables_names",
	subnet.IPv6: "/proc/thread-self/net/ip6_tables_names",
}

// legacyTables returns the legacy tables that are there. It does not bring one
// about, as any run of iptables-legacy would.
func legacyTables(f subnet.Family) ([]string, error) {
	data, err := procfile.Read(tableNames[f])
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading which legacy tables there are: %w", err)
	}
	return strings.Fields(string(data)), nil
}

// legacyTable reports whether a legacy table is there.
func legacyTable(f subnet.Family, table string) (bool, error) {
	tables, err := legacyTables(f)
	return slices.Contains(tables, table), err
}

// LegacyUsed reports whether there is any legacy table in the network namespace
// of the calling thread.
func LegacyUsed() bool {
	return slices.ContainsFunc(subnet.Families[:], func(f subnet.Family) bool {
		tables, err := legacyTables(f)
		return err == nil && len(tables) > 0
	})
}
