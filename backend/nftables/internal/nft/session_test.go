package nft_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/internal/nfnetlink"
	"github.com/twill-net/twill/backend/nftables/internal/nft"
	"github.com/twill-net/twill/backend/rulestest"
)

// A session is of use after each kind of error, and answers that nobody has
// read are not taken for others.
func TestSessionAfterErrors(t *testing.T) {
	t.Parallel()
	ns := rulestest.NewNamespace(t)
	s := nft.NewSession(ns.FD())
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	table := func(name string) *nftables.Table {
		return &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
	}
	there := func(name string) error {
		return s.Do(t.Context(), func(conn *netlink.Conn) error {
			_, err := nfnetlink.GetTable(conn, nfnetlink.Table{Family: unix.NFPROTO_INET, Name: name})
			return err
		})
	}
	stop := errors.New("stop")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for i, fails := range []func() error{
		func() error { return there("none") },
		func() error { // several errors and acknowledgements in one answer
			return s.Write(t.Context(), func(c *nftables.Conn) error {
				for range 5 {
					c.DelTable(table("none"))
					c.AddTable(table("half"))
				}
				return nil
			})
		},
		func() error {
			return s.Write(t.Context(), func(c *nftables.Conn) error {
				c.AddTable(table("half"))
				return stop
			})
		},
		func() error { // leaves its answer behind
			return s.Do(t.Context(), func(conn *netlink.Conn) error {
				_, err := conn.Send(nfnetlink.Message(unix.NFPROTO_INET, unix.NFT_MSG_GETTABLE, netlink.Dump, nil))
				return errors.Join(err, stop)
			})
		},
		func() error { return s.Write(ended, func(*nftables.Conn) error { return nil }) },
	} {
		require.Error(t, fails(), i)
		name := fmt.Sprintf("t%d", i)
		require.NoError(t, s.Write(t.Context(), func(c *nftables.Conn) error {
			c.AddTable(table(name))
			return nil
		}), i)
		require.NoError(t, there(name), i)
		require.ErrorIs(t, there("half"), unix.ENOENT, i)
	}
	require.NoError(t, s.Close())
	require.NoError(t, there("t0"), "a session may be used after Close")
}

// Notifications tell whose they are.
func TestSent(t *testing.T) {
	t.Parallel()
	rulestest.NeedNFT(t)
	ns := rulestest.NewNamespace(t)
	s := nft.NewSession(ns.FD())
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	ctx, cancel := context.WithCancel(context.Background())
	listening, mine, done := make(chan struct{}), make(chan bool, 100), make(chan error)
	go func() {
		done <- nfnetlink.Watch(ctx, ns.FD(), func() { close(listening) }, func(m netlink.Message) { mine <- s.Sent(m) })
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	await := func(want bool) {
		t.Helper()
		for range 2 { // the table, the end of the transaction
			select {
			case have := <-mine:
				require.Equal(t, want, have)
			case <-time.After(time.Minute):
				require.FailNow(t, "not told")
			}
		}
	}
	<-listening
	for i := range 3 {
		ns.Run(t, "nft", "add", "table", "inet", fmt.Sprintf("other%d", i))
		await(false)
		require.NoError(t, s.Write(t.Context(), func(c *nftables.Conn) error {
			c.AddTable(&nftables.Table{Name: fmt.Sprintf("mine%d", i), Family: nftables.TableFamilyINet})
			return nil
		}))
		await(true)
		if i == 1 {
			require.NoError(t, s.Close()) // the next socket has another port, perhaps
		}
	}
}
