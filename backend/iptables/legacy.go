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

// legacyTable reports whether a legacy table is there. It does not bring it
// about, as any run of iptables-legacy would.
func legacyTable(f subnet.Family, table string) (bool, error) {
	data, err := procfile.Read(tableNames[f])
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading which legacy tables there are: %w", err)
	}
	return slices.Contains(strings.Fields(string(data)), table), nil
}

// LegacyUsed reports whether there is any legacy table in the network namespace
// of the calling thread.
func LegacyUsed() bool {
	for _, file := range tableNames {
		names, err := procfile.Read(file)
		if err == nil && len(strings.TrimSpace(string(names))) > 0 {
			return true
		}
	}
	return false
}
