package nfnetlink_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
	"github.com/twill-net/twill/backend/rulestest"
)

// A socket that overruns is followed by another, whatever was lost.
func TestWatchSurvivesOverrun(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := rulestest.NewNamespace(t)
	ctx, cancel := context.WithCancel(context.Background())
	listening, ended, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	tell := func(c chan struct{}) {
		select {
		case c <- struct{}{}:
		case <-ctx.Done():
		}
	}
	go func() {
		done <- nfnetlink.Watch(ctx, ns.FD(), func() { tell(listening) }, func(m netlink.Message) {
			if nfnetlink.EndOfTransaction(m) {
				tell(ended)
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done, "cancelling is no error")
	})
	await := func(c chan struct{}, what string) {
		t.Helper()
		select {
		case <-c:
		case <-time.After(time.Minute):
			require.FailNow(t, "not told", what)
		}
	}
	await(listening, "at the start")
	ns.Run(t, "nft", "add", "table", "ip", "first") // tell keeps Watch from reading on

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
	await(ended, "the first table")
	await(listening, "overrun")

	ns.Run(t, "nft", "add", "table", "ip", "last") // little: a flush might overrun again
	await(ended, "after the overrun")
}
