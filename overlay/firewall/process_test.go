package firewall_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/masq"
)

var path = os.Getenv("PATH")

func link(t *testing.T, program, as string) {
	t.Helper()
	for _, dir := range filepath.SplitList(path) { // whatever PATH is by now
		if file, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			require.NoError(t, os.Symlink(file, as))
			return
		}
	}
	t.Skipf("needs %s (package iptables)", program)
}

// counted puts shell scripts in the place of iptables, which write down their
// runs; it returns what they did since it was last asked.
func counted(t *testing.T) (runs func() string) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	for _, p := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-restore", "-nft", "-nft-restore", "-legacy", "-legacy-restore"} {
			file, err := exec.LookPath(p + suffix)
			require.NoError(t, err)
			script := fmt.Sprintf("#!/bin/sh\necho %s \"$@\" >>%s\nexec %s \"$@\"\n", p+suffix, log, file)
			require.NoError(t, os.WriteFile(filepath.Join(dir, p+suffix), []byte(script), 0o755))
		}
	}
	t.Setenv("PATH", dir+":"+path)
	return func() string {
		text, err := os.ReadFile(log)
		if err != nil {
			return ""
		}
		require.NoError(t, os.Remove(log))
		return string(text)
	}
}

// Once all is as it should be, a look at it runs no process, whatever else is
// going on, but where iptables-legacy is in use.
func TestNoProcesses(t *testing.T) {
	for _, mode := range []masq.Renderer{masq.NFTables, masq.IPTables} {
		as(t, "nft")
		runs := counted(t)
		h := newHost(fresh(t), masq.AnyRenderer)
		h.sh(t, "iptables-nft -P FORWARD DROP; ip6tables-nft -N c; ip6tables-nft -A c -j REJECT; ip6tables-nft -A FORWARD -j c")
		h.mustSync(t, rules(mode))
		require.NotEmpty(t, runs())
		for range 3 {
			require.False(t, h.mustSync(t, rules(mode)).Changed)
		}
		require.Empty(t, runs())
		h.Run(t, "nft", "add table ip filter; add chain ip filter KUBE-SERVICES; add rule ip filter KUBE-SERVICES drop; add table ip other")
		require.False(t, h.mustSync(t, rules(mode)).Changed)
		require.Empty(t, runs())

		h.Run(t, "iptables-legacy", "-P", "FORWARD", "DROP")
		require.True(t, h.mustSync(t, rules(mode)).Changed)
		runs()
		h.mustSync(t, rules(mode))
		require.NotEmpty(t, runs(), "the count works")
	}

	// Where nothing drops, no binary is even asked for more than its version.
	runs := counted(t)
	h := newHost(fresh(t), masq.AnyRenderer)
	h.mustSync(t, rules(masq.AnyRenderer))
	runs()
	h.mustSync(t, rules(masq.AnyRenderer))
	require.Empty(t, runs())
}

// What others got in the way of is told, tried again without a further
// notification, and holds back nothing else.
func TestPlaceFails(t *testing.T) {
	as(t, "nft")
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	restore, err := exec.LookPath("iptables-restore")
	require.NoError(t, err)
	link(t, "iptables", filepath.Join(dir, "iptables"))
	script := fmt.Sprintf("#!/bin/sh\n[ $1 = --version ] || [ ! -e %s ] || { echo busy >&2; exit 4; }\nexec %s \"$@\"\n", broken, restore)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "iptables-restore"), []byte(script), 0o755))
	require.NoError(t, os.WriteFile(broken, nil, 0o644))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))

	h := newHost(fresh(t), masq.AnyRenderer)
	h.sh(t, "iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP; nft 'add table inet filter; add chain inet filter forward { type filter hook forward priority 0; policy drop; }'")
	told := h.watch(t)
	report := h.mustSync(t, rules(masq.NFTables))
	require.Len(t, report.Blocked, 1)
	require.Contains(t, report.Blocked[0].Reason, "busy")
	require.Contains(t, report.Forward, "inet filter forward")
	require.Contains(t, h.everything(t), "ip6 nft TWILL-FORWARD\n", "the other family")
	for range 3 {
		require.Len(t, h.mustSync(t, rules(masq.NFTables)).Blocked, 1)
		drain(told)
		await(t, told, "tried again")
	}
	require.NoError(t, os.Remove(broken))
	require.Empty(t, h.mustSync(t, rules(masq.NFTables)).Blocked)
	require.Contains(t, h.everything(t), "ip nft TWILL-FORWARD\n")
}

// What was missing, or did not run, is used once it is there and does, without a
// restart.
func TestDetectsAgain(t *testing.T) {
	as(t, "nft")
	bin := os.Getenv("PATH")
	for name, tt := range map[string]struct {
		damage func(dir string)
		drop   string
		place  string
	}{
		"legacy is missing": {func(dir string) {
			for _, p := range []string{"iptables", "ip6tables"} {
				for _, suffix := range []string{"", "-restore"} {
					link(t, p+"-nft"+suffix, filepath.Join(dir, p+suffix))
				}
			}
			t.Setenv("PATH", dir)
		}, "iptables-legacy -P FORWARD DROP", "ip filter FORWARD (iptables-legacy)"},
		"iptables does not run": {func(dir string) {
			for _, p := range []string{"iptables", "iptables-nft"} {
				require.NoError(t, os.WriteFile(filepath.Join(dir, p), []byte("#!/bin/false\n"), 0o755))
			}
			t.Setenv("PATH", dir+":"+bin)
		}, "iptables-nft -P FORWARD DROP", "ip filter FORWARD (iptables-nft)"},
	} {
		t.Setenv("PATH", bin)
		h := newHost(fresh(t), masq.AnyRenderer)
		h.sh(t, tt.drop)
		tt.damage(t.TempDir())
		require.NotContains(t, h.mustSync(t, rules(masq.NFTables)).Forward, tt.place, name)
		require.NotContains(t, h.mustSync(t, rules(masq.NFTables)).Forward, tt.place, name)
		t.Setenv("PATH", bin)
		require.Contains(t, h.mustSync(t, rules(masq.NFTables)).Forward, tt.place, name)
	}

	// Of the rules proper likewise.
	dir := t.TempDir()
	link(t, "iptables-nft", filepath.Join(dir, "iptables"))
	link(t, "iptables-nft-restore", filepath.Join(dir, "iptables-restore"))
	h := newHost(fresh(t), masq.AnyRenderer)
	t.Setenv("PATH", dir)
	_, err := h.sync(t, rules(masq.IPTables))
	require.ErrorContains(t, err, "ip6tables")
	t.Setenv("PATH", bin)
	h.mustSync(t, rules(masq.IPTables))
}
