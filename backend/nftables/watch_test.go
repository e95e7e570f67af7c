package nftables_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/rulestest"
)

// watch starts a Watch for the time of the test. Each call of onChange is one
// value of the channel; onChange blocks until it is taken.
func (ns namespace) watch(t *testing.T) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	changes, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- ns.table().Watch(ctx, func() {
			select {
			case changes <- struct{}{}:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done, "cancelling is no error")
	})
	await(t, changes, "listening")
	return changes
}

func await(t *testing.T, changes <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-changes:
	case <-time.After(20 * time.Second):
		require.Fail(t, "onChange was not called", what)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := newNamespace(t)
	changes := ns.watch(t)
	step := func(command string) {
		ns.Run(t, "sh", "-ec", command)
		await(t, changes, command)
		require.True(t, ns.sync(t, rulestest.Dual()), command)
		await(t, changes, "the echo of our own repair")
		require.False(t, ns.sync(t, rulestest.Dual()), "the echo leads to no write")
	}
	ns.sync(t, rulestest.Dual())
	await(t, changes, "our own write")

	step(`nft flush ruleset`)
	step(`nft delete rule inet twill postrouting handle $(nft -a list table inet twill | grep -m1 multicast | sed 's/.*handle //')`)
	step(`nft add rule inet twill forward drop`)
	step(`nft delete table inet twill`)
	step(`nft flush chain inet twill forward`)
	step(`nft 'add chain inet twill extra'`)
	step(`nft 'add set inet twill s { type ipv4_addr; elements = { 192.0.2.1 }; }'`)
	step(`nft 'add table inet twill { flags dormant; }'`)
}

// Changes of other tables, of one with our name in another family too, are
// nobody's business here.
func TestWatchIgnoresOthers(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := newNamespace(t)
	changes := ns.watch(t)
	var calls atomic.Int64
	var counting sync.WaitGroup
	done := make(chan struct{})
	counting.Go(func() {
		for {
			select {
			case <-changes:
				calls.Add(1)
			case <-done:
				return
			}
		}
	})
	defer counting.Wait()
	defer close(done)
	const rounds = 20
	for i := range int64(rounds) {
		ns.Run(t, "nft", fmt.Sprintf("add table ip twill; add chain ip twill c%d", i))
		ns.Run(t, "nft", fmt.Sprintf("add table inet twill2; add chain inet twill2 c%d", i))
		ns.Run(t, "nft", fmt.Sprintf("add table inet twill; add chain inet twill c%d", i))
		require.Eventually(t, func() bool { return calls.Load() > i }, 20*time.Second, time.Millisecond)
	}
	require.EqualValues(t, rounds, calls.Load())
}

// A socket that overruns costs one call of onChange, whatever was lost.
func TestWatchSurvivesOverrun(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := newNamespace(t)
	changes := ns.watch(t)
	ns.sync(t, rulestest.Dual()) // onChange is called, and keeps Watch from reading on

	var rules strings.Builder
	rules.WriteString("table ip busy {\nchain c {\n")
	for i := range 6000 {
		fmt.Fprintf(&rules, "ip saddr 10.%d.%d.0/24 ip daddr 10.%d.%d.0/24 udp dport %d counter accept comment \"%0120d\"\n",
			i/256, i%256, i%256, i/256, i+1, i)
	}
	rules.WriteString("}\n}\n")
	for range 3 {
		ns.Pipe(t, rules.String(), "nft", "-f", "-")
	}
	await(t, changes, "our own write")
	await(t, changes, "overrun")

	ns.Run(t, "nft", "flush", "ruleset")
	await(t, changes, "after the overrun")
}
