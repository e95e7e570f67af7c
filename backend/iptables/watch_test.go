package iptables_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/iptables"
	"github.com/twill-net/twill/backend/rulestest"
)

// watch starts a Watch for the time of the test. Each call of tell is a value of
// the channel.
func (c chains) watch(t *testing.T) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	told, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- c.ns.Do(func() error {
			return c.Watch(ctx, func() {
				select {
				case told <- struct{}{}:
				case <-ctx.Done():
				}
			})
		})
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done, "cancelling is no error")
	})
	await(t, told, "listening")
	return told
}

func await(t *testing.T, told <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-told:
	case <-time.After(20 * time.Second):
		require.Fail(t, "tell was not called", what)
	}
}

// repaired syncs whenever it is told to, until a Sync has repaired something,
// and once more.
func (c chains) repaired(t *testing.T, told <-chan struct{}, what string) {
	t.Helper()
	for {
		await(t, told, what)
		if rulestest.Sync(t, c, rulestest.Dual()) {
			break
		}
	}
	await(t, told, "the echo of our own repair")
	require.False(t, rulestest.Sync(t, c, rulestest.Dual()), what)
}

func TestWatch(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	require.True(t, iptables.NFT.Notifies())
	c := newChains(t, iptables.NFT, rulestest.NewNamespace(t))
	told := c.watch(t)
	rulestest.Sync(t, c, rulestest.Dual())
	for _, command := range [][]string{
		{"nft", "flush", "ruleset"},
		{"iptables-nft", "-F"},
		{"ip6tables-nft", "-t", "nat", "-F", "TWILL-POSTRTG"},
		{"iptables-nft", "-D", "FORWARD", "1"},
		{"iptables-nft", "-I", "FORWARD", "-j", "DROP"},
		{"nft", "delete", "table", "ip6", "filter"},
	} {
		drain(told)
		c.ns.Run(t, command...)
		c.repaired(t, told, command[len(command)-1])
	}
}

// drain takes what was told before, as far as it has arrived; Watch waits in tell.
func drain(told <-chan struct{}) {
	for {
		select {
		case <-told:
		default:
			return
		}
	}
}

// The legacy variant tells once, and no more.
func TestWatchLegacy(t *testing.T) {
	t.Parallel()
	require.False(t, iptables.Legacy.Notifies())
	c := newChains(t, iptables.Legacy, rulestest.NewNamespace(t))
	told := c.watch(t)
	rulestest.Sync(t, c, rulestest.Dual())
	c.sh(t, `ipt -F`)
	select {
	case <-told:
		require.Fail(t, "told of a change of which there is no notification")
	default:
	}
}
