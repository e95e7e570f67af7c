package netlabtest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet"
)

// Counters are what the kernel counts, by place and name: "node1: Ip6InDiscards",
// "the machine: ndisc_cache table_fulls".
type Counters map[string]uint64

// machine is the place of what all namespaces share.
const machine = "the machine"

// lossy are the counters that may tell where a packet was lost.
var lossy = regexp.MustCompile(`(?i)discard|drop|err|fail|noroute|no_route|noport|overflow|full|prune|reasmtimeout|invalid|csum|truncated|guard `)

// tables of the machine in /proc/net/stat: the neighbour tables are one for all
// namespaces, and so is their limit (gc_thresh3, arp(7)).
var tables = []string{"arp_cache", "ndisc_cache"}

// Count reads the counters of the machine and of some hosts. Those of a host
// that is not there are left out.
func Count(ctx context.Context, hosts ...*netlab.Host) Counters {
	all := Counters{}
	var mu sync.Mutex
	put := func(place string, from map[string]uint64) {
		mu.Lock()
		defer mu.Unlock()
		for name, n := range from {
			all[place+": "+name] = n
		}
	}
	var g errgroup.Group
	for i, h := range hosts {
		g.Go(func() error {
			for file, parse := range files {
				if text, err := h.ReadNet(file); err == nil {
					put(h.Name, parse(string(text)))
				}
			}
			if out, err := h.Exec(ctx, "nft", "-j", "list", "counters"); err == nil {
				put(h.Name, parseNFT(out))
			}
			if i > 0 {
				return nil
			}
			for _, table := range tables {
				if text, err := h.ReadNet("stat/" + table); err == nil {
					put(machine, parseStat(table)(string(text)))
				}
			}
			if text, err := h.ReadNet("softnet_stat"); err == nil {
				put(machine, parseSoftnet(string(text)))
			}
			return nil
		})
	}
	_ = g.Wait() // has no errors
	return all
}

// Since tells which counters of lost packets have grown, line by line; those
// that have become smaller are of something that was made anew.
func (c Counters) Since(before Counters) string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(c)) {
		was, is := before[name], c[name]
		switch {
		case !lossy.MatchString(name) || is == was:
		case is > was:
			lines = append(lines, fmt.Sprintf("%s +%d", name, is-was))
		default:
			lines = append(lines, fmt.Sprintf("%s %d, anew", name, is))
		}
	}
	if len(lines) == 0 {
		return "no counter of lost packets has grown"
	}
	return strings.Join(lines, "\n")
}

// Overflowed reports whether the machine has refused a neighbour entry because
// its table was full, whoever filled it.
func (c Counters) Overflowed(before Counters) bool {
	return slices.ContainsFunc(tables, func(table string) bool {
		name := machine + ": " + table + " table_fulls"
		return c[name] > before[name]
	})
}

// Refused returns how many echo replies a host has not sent because the kernel
// had no room for them. One socket for each processor sends those of all
// namespaces of the machine (icmp_init in net/ipv4/icmp.c, icmpv6_init in
// net/ipv6/icmp.c): where replies cannot leave, as those of a node that is cut
// off, they fill its send buffer, and then nobody's pings are answered. Such a
// packet has come to where it was sent.
func (c Counters) Refused(before Counters, h *netlab.Host, f subnet.Family) int {
	name := h.Name + ": " + subnet.PerFamily[string]{"IcmpOutErrors", "Icmp6OutErrors"}[f]
	return int(c[name] - min(c[name], before[name]))
}

// files are those of /proc/net that each host has of its own.
var files = map[string]func(string) map[string]uint64{
	"snmp": parsePairs, "netstat": parsePairs, "snmp6": parseList, "dev": parseDev, "stat/nf_conntrack": parseStat("nf_conntrack"),
}

// parsePairs reads lines of names each of which is followed by one of values:
//
//	Ip: Forwarding DefaultTTL
//	Ip: 1 64
func parsePairs(text string) map[string]uint64 {
	all := map[string]uint64{}
	var names []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if names == nil {
			names = words
			continue
		}
		for i := 1; i < min(len(names), len(words)); i++ {
			if n, err := strconv.ParseUint(words[i], 10, 64); err == nil {
				all[strings.TrimSuffix(names[0], ":")+names[i]] = n
			}
		}
		names = nil
	}
	return all
}

// parseList reads lines of a name and a value.
func parseList(text string) map[string]uint64 {
	all := map[string]uint64{}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) != 2 {
			continue
		}
		if n, err := strconv.ParseUint(words[1], 10, 64); err == nil {
			all[words[0]] = n
		}
	}
	return all
}

// parseDev reads /proc/net/dev: errors and drops by link and direction.
func parseDev(text string) map[string]uint64 {
	all := map[string]uint64{}
	for line := range strings.Lines(text) {
		link, rest, _ := strings.Cut(line, ":")
		words := strings.Fields(rest)
		if len(words) != 16 {
			continue // the headings
		}
		for i, name := range map[int]string{2: "rx errors", 3: "rx dropped", 10: "tx errors", 11: "tx dropped"} {
			if n, err := strconv.ParseUint(words[i], 10, 64); err == nil {
				all[strings.TrimSpace(link)+" "+name] = n
			}
		}
	}
	return all
}

// parseStat reads a file of /proc/net/stat: names, then a line of hexadecimal
// values for each processor. The first is no counter.
func parseStat(table string) func(string) map[string]uint64 {
	return func(text string) map[string]uint64 {
		all := map[string]uint64{}
		head, rows, _ := strings.Cut(text, "\n")
		names := strings.Fields(head)
		for row := range strings.Lines(rows) {
			for i, word := range strings.Fields(row) {
				if n, err := strconv.ParseUint(word, 16, 64); err == nil && i > 0 && i < len(names) {
					all[table+" "+names[i]] += n
				}
			}
		}
		return all
	}
}

// parseSoftnet reads /proc/net/softnet_stat: the second number of each
// processor is how many packets its queue had no room for.
func parseSoftnet(text string) map[string]uint64 {
	all := map[string]uint64{}
	for row := range strings.Lines(text) {
		if words := strings.Fields(row); len(words) > 1 {
			if n, err := strconv.ParseUint(words[1], 16, 64); err == nil {
				all["softnet dropped"] += n
			}
		}
	}
	return all
}

// parseNFT reads `nft -j list counters`: our guard's have a reason for a name.
func parseNFT(text string) map[string]uint64 {
	var list struct {
		NFTables []struct {
			Counter *struct {
				Table, Name string
				Packets     uint64
			}
		}
	}
	all := map[string]uint64{}
	if json.Unmarshal([]byte(text), &list) != nil {
		return all
	}
	for _, e := range list.NFTables {
		if c := e.Counter; c != nil {
			all["guard "+c.Table+" "+c.Name] = c.Packets
		}
	}
	return all
}
