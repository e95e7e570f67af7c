package iptables

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	goiptables "github.com/coreos/go-iptables/iptables"

	"github.com/twill-net/twill/subnet"
)

// Host says which binaries of iptables there are.
type Host struct {
	commands [len(Variants)]subnet.PerFamily[command]
	own      Variant
	any      bool
}

// Detect looks for the binaries in PATH and asks them for their versions. It
// asks the kernel nothing. That there are none is no error; an error is about
// those that do not run, and the Host holds the others.
//
// A variant counts as there, for a family, when both its command and the -restore
// that belongs to it are. The plain names (iptables) go before those that name
// the variant (iptables-nft, iptables-legacy), since they are what an
// administrator uses.
func Detect(ctx context.Context) (Host, error) {
	var h Host
	var failed []error
	for _, f := range subnet.Families {
		for _, suffix := range suffixes {
			cmd, v, err := find(ctx, f, programs[f]+suffix)
			if err != nil {
				failed = append(failed, err)
			}
			if !cmd.installed() {
				continue
			}
			if suffix == "" && !h.any {
				h.own, h.any = v, true
			}
			if !h.commands[v][f].installed() {
				h.commands[v][f] = cmd
			}
		}
	}
	for _, v := range Variants {
		if !h.any && (h.Has(v, subnet.IPv4) || h.Has(v, subnet.IPv6)) {
			h.own, h.any = v, true
		}
	}
	return h, errors.Join(failed...)
}

// Has reports whether the host has the binaries of a variant and family.
func (h Host) Has(v Variant, f subnet.Family) bool { return h.commands[v][f].installed() }

// Own returns the host's own variant, and false if it has no iptables at all.
//
// It is that of the plain name iptables (or else ip6tables), whatever rules the
// other variant holds: ours should be where `iptables -S` shows them, and each
// packet passes both anyway. Where the other one's FORWARD drops, its
// ForwardDrops says so. Without a plain name it is the one that is there, first
// nf_tables.
func (h Host) Own() (Variant, bool) { return h.own, h.any }

// String lists the binaries, such as
// "/usr/sbin/iptables v1.8.9 (nf_tables), /usr/sbin/iptables-legacy v1.8.9 (legacy)".
func (h Host) String() string {
	var list []string
	for _, v := range Variants {
		for _, f := range subnet.Families {
			if c := h.commands[v][f]; c.installed() {
				list = append(list, c.path+" "+c.version)
			}
		}
	}
	if len(list) == 0 {
		return "no iptables"
	}
	return strings.Join(list, ", ")
}

// find returns a command by its name; the zero command if it is not there.
func find(ctx context.Context, f subnet.Family, name string) (command, Variant, error) {
	var cmd command
	path, err1 := exec.LookPath(name)
	restore, err2 := exec.LookPath(name + "-restore")
	if err1 != nil || err2 != nil {
		return cmd, 0, nil
	}
	version, variant, err := ask(ctx, path)
	if err != nil {
		return cmd, 0, err
	}
	if other, v, err := ask(ctx, restore); err != nil || v != variant {
		return cmd, 0, errors.Join(err, fmt.Errorf("%s is %s but %s is %s; make both the same (on Debian: update-alternatives --config %s)",
			path, version, restore, other, programs[f]))
	}
	protocol := subnet.PerFamily[goiptables.Protocol]{
		subnet.IPv4: goiptables.ProtocolIPv4, subnet.IPv6: goiptables.ProtocolIPv6,
	}[f]
	tables, err := goiptables.New(goiptables.Path(path), goiptables.IPFamily(protocol))
	if err != nil {
		return cmd, 0, fmt.Errorf("asking %s what it can do: %w", path, err)
	}
	return command{path: path, restorePath: restore, version: version, tables: tables}, variant, nil
}

// ask returns what a binary says of itself, such as "v1.8.9 (nf_tables)".
// Before 1.8 there was only what is now called legacy, and no such word.
func ask(ctx context.Context, path string) (string, Variant, error) {
	out, err := run(ctx, "", path, "--version")
	if err != nil {
		return "", 0, fmt.Errorf("asking for the version of iptables: %w", err)
	}
	_, version, _ := strings.Cut(strings.TrimSpace(out), " ")
	if strings.Contains(version, "("+NFT.String()+")") {
		return version, NFT, nil
	}
	return version, Legacy, nil
}
