package netlabtest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet"
)

// Devices are those of the default network config, by the tunnel's family.
var Devices = subnet.PerFamily[string]{"twill.1", "twill-v6.1"}

// Ways lists what leads to peers on a node, sorted: the routes of protocol
// 116, and the neighbours and FDB entries of our devices that are permanent or
// static, whoever made them.
func Ways(ctx context.Context, n *netlab.Node) ([]string, error) {
	const script = `
		ip -j -N -4 route show table main proto 116; echo ';'
		ip -j -N -6 route show table main proto 116; echo ';'
		ip -j neigh show nud permanent; echo ';'
		bridge -j fdb show`
	out, err := n.Exec(ctx, "sh", "-ec", script)
	if err != nil {
		return nil, err
	}
	parts := strings.Split(out, ";")
	if len(parts) != 4 {
		return nil, fmt.Errorf("reading the kernel's tables: %d parts", len(parts))
	}
	var routes4, routes6 []wayRoute
	var neighbours []wayNeighbour
	var entries []wayEntry
	for i, to := range []any{&routes4, &routes6, &neighbours, &entries} {
		if strings.TrimSpace(parts[i]) == "" { // ip's way to write an empty list
			continue
		}
		if err := json.Unmarshal([]byte(parts[i]), to); err != nil {
			return nil, fmt.Errorf("reading the kernel's tables: %w", err)
		}
	}
	var found []string
	for _, r := range append(routes4, routes6...) {
		found = append(found, fmt.Sprintf("route %s via %s dev %s %s", r.Dst, r.Gateway, r.Dev, strings.Join(r.Flags, " ")))
	}
	for _, e := range neighbours {
		if slices.Contains(Devices[:], e.Dev) {
			found = append(found, fmt.Sprintf("neighbour %s dev %s lladdr %s", e.Dst, e.Dev, e.Lladdr))
		}
	}
	for _, e := range entries {
		if learned := e.State == ""; slices.Contains(Devices[:], e.Ifname) && !learned {
			found = append(found, fmt.Sprintf("fdb %s dev %s dst %s %s", e.Mac, e.Ifname, e.Dst, e.State))
		}
	}
	slices.Sort(found)
	return found, nil
}

type wayRoute struct {
	Dst, Gateway, Dev string
	Flags             []string
}

type wayNeighbour struct{ Dst, Dev, Lladdr string }

type wayEntry struct{ Mac, Ifname, Dst, State string }

// WantedWays lists what must lead from a node to peers with these records: in
// each family a route, a neighbour and an FDB entry. Where the peers have no
// IPv6 tunnel, the IPv4 one carries both families.
func WantedWays(records []Record) []string {
	var want []string
	for _, r := range records {
		for f, p := range r.Subnets {
			if !p.IsValid() {
				continue
			}
			tunnel := subnet.Family(f)
			if tunnel == subnet.IPv6 && r.BackendV6Data == nil {
				tunnel = subnet.IPv4
			}
			dev, mac := Devices[tunnel], r.MAC(tunnel)
			want = append(want,
				fmt.Sprintf("route %s via %s dev %s onlink", p, p.Addr(), dev),
				fmt.Sprintf("neighbour %s dev %s lladdr %s", p.Addr(), dev, mac),
				fmt.Sprintf("fdb %s dev %s dst %s permanent", mac, dev, r.Announced(tunnel)))
		}
	}
	slices.Sort(want)
	return slices.Compact(want)
}

// EqualLines says which lines are missing and which are too much.
func EqualLines(want, have []string) error {
	var diff []string
	for _, w := range want {
		if !slices.Contains(have, w) {
			diff = append(diff, "missing:  "+w)
		}
	}
	for _, h := range have {
		if !slices.Contains(want, h) {
			diff = append(diff, "too much: "+h)
		}
	}
	if len(diff) == 0 {
		return nil
	}
	return fmt.Errorf("\n%s", strings.Join(diff, "\n"))
}
