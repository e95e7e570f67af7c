package cni

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/twill-net/twill/subnet"
)

// natTable is the table nat of iptables in one variant and family.
type natTable struct{ command string }

// natTables returns those that may have rules: chain says whether that of
// nf_tables has, and the kernel lists the legacy tables in use.
func natTables(f subnet.Family, chain bool) (all []natTable) {
	name, names := "iptables", "/proc/self/net/ip_tables_names"
	if f == subnet.IPv6 {
		name, names = "ip6tables", "/proc/self/net/ip6_tables_names"
	}
	legacy, _ := os.ReadFile(names) // not there: no legacy iptables
	for variant, used := range map[string]bool{"-nft": chain, "-legacy": slices.Contains(strings.Fields(string(legacy)), "nat")} {
		if !used {
			continue
		}
		command := name + variant
		if _, err := exec.LookPath(command); err != nil {
			command = name // a host with one variant
		}
		all = append(all, natTable{command})
	}
	return all
}

// remove deletes the jumps to a container's chain from these addresses, from
// all if none are known, and with the last jump the chain.
func (t natTable) remove(ctx context.Context, chain string, addresses []netip.Addr) error {
	if _, err := tool(ctx, "", t.command, "-w", "5", "-t", "nat", "-S", chain); err != nil {
		return nil // it has none of that name
	}
	jumps, err := t.jumps(ctx)
	if err != nil {
		return err
	}
	var mine []string
	left := 0
	for _, j := range jumps {
		switch {
		case !strings.Contains(j, " -j "+chain):
		case len(addresses) == 0 || slices.ContainsFunc(addresses, func(a netip.Addr) bool {
			return strings.Contains(j, " -s "+netip.PrefixFrom(a, a.BitLen()).String()+" ")
		}):
			mine = append(mine, j)
		default:
			left++
		}
	}
	return t.drop(ctx, mine, map[string]bool{chain: left == 0})
}

func (t natTable) collect(ctx context.Context, network string, stay []types.GCAttachment) error {
	jumps, err := t.jumps(ctx)
	if err != nil {
		return err
	}
	// Network, container and chain in a rule as iptables lists it.
	jumpTo := regexp.MustCompile(`--comment "name: \\"(.*)\\" id: \\"(.*)\\"" -j (CNI-[0-9a-f]{24})$`)
	var stale []string
	chains := map[string]bool{}
	for _, j := range jumps {
		m := jumpTo.FindStringSubmatch(j)
		if len(m) != 4 || m[1] != network || m[3] != iptablesChain(m[1], m[2]) ||
			slices.ContainsFunc(stay, func(a types.GCAttachment) bool { return a.ContainerID == m[2] }) {
			continue
		}
		stale = append(stale, j)
		chains[m[3]] = true
	}
	return t.drop(ctx, stale, chains)
}

// jumps returns the rules of POSTROUTING in the syntax of iptables-restore.
func (t natTable) jumps(ctx context.Context) ([]string, error) {
	out, err := tool(ctx, "", t.command, "-w", "5", "-t", "nat", "-S", "POSTROUTING")
	if err != nil {
		return nil, err
	}
	return strings.Split(out, "\n"), nil
}

// drop deletes rules, and those chains that are true, in one step.
func (t natTable) drop(ctx context.Context, rules []string, chains map[string]bool) error {
	var script strings.Builder
	for _, r := range rules {
		script.WriteString("-D" + strings.TrimPrefix(r, "-A") + "\n")
	}
	for chain, whole := range chains {
		if whole {
			script.WriteString("-F " + chain + "\n-X " + chain + "\n")
		}
	}
	if script.Len() == 0 {
		return nil
	}
	_, err := tool(ctx, "*nat\n"+script.String()+"COMMIT\n", t.command+"-restore", "-w", "5", "--noflush")
	return err
}
