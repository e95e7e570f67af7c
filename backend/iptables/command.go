package iptables

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	goiptables "github.com/coreos/go-iptables/iptables"

	"github.com/twill-net/twill/subnet"
)

const (
	// lookWait and writeWait bound, in seconds, how long iptables-legacy
	// waits for the lock that each of its runs takes (/run/xtables.lock), to
	// list and to write. A look is repeated anyway, and who looks has other
	// things to do.
	lookWait  = 1
	writeWait = 5

	// killWait bounds how long a killed process may take to let go of its
	// pipes.
	killWait = 2 * time.Second
)

// command is the binaries of one family and variant. The zero command is not
// installed.
type command struct {
	path, restorePath string
	version           string
	tables            *goiptables.IPTables
}

func (c command) installed() bool { return c.tables != nil }

// randomFully tells iptables 1.6.2 and newer, which is also where
// iptables-restore got its option for the lock, and both a time to wait for it.
func (c command) randomFully() bool { return c.installed() && c.tables.HasRandomFully() }

// chain lists one chain: its policy, if it is a built-in one, and its rules
// without their chain. That there is no such chain is no error.
func (c command) chain(ctx context.Context, table, name string) (policy string, rules []string, exists bool, err error) {
	args := []string{"-t", table, "-S", name}
	if c.randomFully() {
		args = append(args, "--wait", strconv.Itoa(lookWait))
	}
	out, err := run(ctx, "", c.path, args...)
	if absent(err) {
		return "", nil, false, nil
	}
	if err != nil {
		return "", nil, false, fmt.Errorf("listing chain %s of table %s: %w%s", name, table, err, advice(err))
	}
	for l := range strings.Lines(out) {
		l = strings.TrimSuffix(l, "\n")
		if rule, ok := strings.CutPrefix(l, "-A "+name+" "); ok {
			rules = append(rules, rule)
		} else if p, ok := strings.CutPrefix(l, "-P "+name+" "); ok {
			policy = p
		}
	}
	return policy, rules, true, nil
}

// restore runs iptables-restore, which leaves alone what the script does not name.
func (c command) restore(ctx context.Context, script string) error {
	args := []string{"--noflush"}
	if c.randomFully() {
		args = append(args, "-w", strconv.Itoa(writeWait))
	}
	if _, err := run(ctx, script, c.restorePath, args...); err != nil {
		return fmt.Errorf("%w%s; the input was: %s", err, advice(err), strings.ReplaceAll(strings.TrimSpace(script), "\n", "; "))
	}
	return nil
}

// run runs a process and returns its standard output; an error holds its
// standard error.
func run(ctx context.Context, input, path string, args ...string) (string, error) {
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	cmd.WaitDelay = killWait
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("running %s: %w: %s", strings.Join(cmd.Args, " "), errors.Join(ctx.Err(), err), strings.Join(strings.Fields(stderr.String()), " "))
	}
	return stdout.String(), nil
}

// What the binaries say when there is no such chain (legacy; and some releases
// of nf_tables), when a kernel lacks a table, and when the lock is held.
const (
	noChain  = "No chain/target/match by that name"
	notThere = "does not exist"
	noTable  = "do you need to insmod" // after notThere
	noLock   = "holding the xtables lock"
)

// absent reports whether there is no such chain.
func absent(err error) bool {
	has := func(text string) bool { return err != nil && strings.Contains(err.Error(), text) }
	return has(noChain) || has(notThere) && !has(noTable)
}

// locked reports whether another program held the lock for too long.
func locked(err error) bool { return err != nil && strings.Contains(err.Error(), noLock) }

// advice says what to do about an error, or nothing.
func advice(err error) string {
	has := func(text string) bool { return strings.Contains(err.Error(), text) }
	switch {
	case locked(err):
		return "; find who holds it (fuser -v /run/xtables.lock) if this goes on"
	case has(noTable), has("Failed to initialize nft"), has("Could not fetch rule set generation id"):
		return "; the kernel has no tables of this variant (legacy: CONFIG_IP_NF_FILTER, CONFIG_IP_NF_NAT and the like for IPv6; " +
			"nf_tables: CONFIG_NF_TABLES, CONFIG_NFT_COMPAT); use the other variant, or nftables"
	case has("Permission denied"), has("Operation not permitted"), has("Read-only file system"):
		return "; this needs CAP_NET_ADMIN, for the legacy variant CAP_NET_RAW too, and to write /run/xtables.lock"
	case has("is incompatible, use 'nft' tool"), has("CHAIN_ADD failed"):
		return "; another program has in that table what is none of iptables' (nft list ruleset shows it); move it to a table of its own, or use nftables"
	}
	return ""
}

// missing is the error of a family whose binaries are not there.
func (c *Chains) missing(f subnet.Family) error {
	suffix := "-nft"
	if c.variant == Legacy {
		suffix = "-legacy"
	}
	return fmt.Errorf("neither %[1]s (%[2]s) nor %[1]s%[3]s, with its -restore, is in PATH; "+
		"install it (mostly package iptables, or iptables%[3]s), or use nftables", programs[f], c.variant, suffix)
}
