package kube

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// However long an API server was away, it is asked soon after it is back; one
// that refuses is left alone longer.
func TestRetries(t *testing.T) {
	refused := os.NewSyscallError("connect", syscall.ECONNREFUSED)
	busy := apierrors.NewTooManyRequests("busy", 0)
	for name, c := range map[string]struct {
		err         error
		takes       time.Duration // each request
		least, most time.Duration // between two of them, once it has lasted
	}{
		"refused connections":      {refused, 0, 500 * time.Millisecond, 1500 * time.Millisecond},
		"a balancer that hangs up": {errors.New("EOF"), 0, 500 * time.Millisecond, 1500 * time.Millisecond},
		"no answer":                {errSilent, requestTimeout, requestTimeout, requestTimeout},
		"a busy server":            {busy, 0, 2500 * time.Millisecond, 7500 * time.Millisecond},
		"a slow, busy server":      {busy, requestTimeout, requestTimeout + 2500*time.Millisecond, requestTimeout + 7500*time.Millisecond},
		"no server behind a balancer": {
			apierrors.NewGenericServerResponse(http.StatusServiceUnavailable, "get", metav1.SchemeGroupVersion.WithResource("nodes").GroupResource(), "", "no server is available", 0, true),
			0, 2500 * time.Millisecond, 7500 * time.Millisecond,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &follower[int]{Store: store(t), task: "asking"}
				began := time.Now()
				var last time.Time
				require.NoError(t, f.persist(t.Context(), func() error {
					if now := time.Now(); now.Sub(began) > 10*time.Minute {
						require.WithinRange(t, now, last.Add(c.least), last.Add(c.most))
					}
					last = time.Now()
					if time.Since(began) > time.Hour {
						return nil
					}
					<-time.After(c.takes)
					return c.err
				}))
			})
		})
	}
}

// A server that starts after an outage refuses at first: the pauses of the
// outage are not those.
func TestRetriesAfterAway(t *testing.T) {
	again := newRetry()
	for range 100 {
		again.pause(syscall.ECONNREFUSED, time.Now())
		again.pause(apierrors.NewTooManyRequests("busy", 0), time.Now())
	}
	again.pause(syscall.ECONNREFUSED, time.Now())
	require.LessOrEqual(t, again.pause(apierrors.NewTooManyRequests("busy", 0), time.Now()), retryMin*3/2)
}

// A write that nobody answered is made again soon, however long that has
// lasted; one that is refused, or undone, later and later.
func TestRepeatedWrites(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		most time.Duration
	}{
		"nobody answers": {syscall.ECONNREFUSED, 1500 * time.Millisecond},
		"refused":        {apierrors.NewTooManyRequests("busy", 0), 15 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRepeat()
				longest := time.Duration(0)
				for range 100 {
					began := time.Now()
					require.True(t, r.turn(began, "this"))
					r.failed(c.err)
					<-r.wait()
					longest = max(longest, time.Since(began))
				}
				require.LessOrEqual(t, longest, c.most)
				require.Greater(t, longest, c.most/2)
			})
		})
	}
}

func store(t *testing.T) *Store {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Node, cfg.NetworkConfig, cfg.Kubeconfig = "n1", "/dev/null", filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(cfg.Kubeconfig, []byte("apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: \"https://192.0.2.1\"}}]\n"), 0o600))
	s, err := New(cfg)
	require.NoError(t, err)
	return s
}
