package overlay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
)

// serve starts the health listener and the status socket in g.
func (a *Agent) serve(ctx context.Context, g *errgroup.Group) error {
	if a.cfg.HealthAddr.Port() != 0 {
		l, err := net.Listen("tcp", a.cfg.HealthAddr.String())
		if err != nil {
			return fmt.Errorf("listening for health checks on %s (--healthz-ip, --healthz-port): %w", a.cfg.HealthAddr, err)
		}
		g.Go(func() error { return serveHTTP(ctx, l, a.healthMux()) })
	}
	if a.cfg.Socket != "" {
		l, err := listenUnix(a.cfg.Socket)
		if err != nil {
			return fmt.Errorf("listening for status requests on %s (--socket): %w", a.cfg.Socket, err)
		}
		g.Go(func() error { return serveHTTP(ctx, l, http.HandlerFunc(a.serveStatus)) })
	}
	return nil
}

// listenUnix makes the socket anew, unless somebody answers on it.
func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	switch info, err := os.Lstat(path); {
	case err == nil && info.Mode().Type() != fs.ModeSocket:
		return nil, errors.New("something else than a socket is there")
	case err == nil:
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return nil, errors.New("another twilld answers there: stop it first, a host has one")
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s: %w", l.Addr(), err)
	}
	return nil
}

func (a *Agent) healthMux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if why := a.dead(time.Now()); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		reasons, degraded := a.board.ready()
		switch {
		case len(reasons) > 0:
			http.Error(w, "not ready: "+strings.Join(reasons, "; "), http.StatusServiceUnavailable)
		case degraded != nil:
			fmt.Fprintf(w, "ready, store degraded since %s\n", degraded.Format(time.RFC3339))
		default:
			fmt.Fprintln(w, "ready")
		}
	})
	if a.cfg.Metrics != nil {
		a.cfg.Metrics.MustRegister(newCollector(a.counts))
		mux.Handle("GET /metrics", promhttp.HandlerFor(a.cfg.Metrics, promhttp.HandlerOpts{}))
	}
	return mux
}

// storeSilence is how long a store may take to find out that a connection has
// come to nothing: there is no progress until then, and nothing hangs.
const storeSilence = 3 * time.Minute

// dead says why the daemon is not alive, "" while it is. The reconciler comes
// round at least once in each FullPass, and the watches of this host work; a
// store that does not answer is asked again and again, which is progress.
func (a *Agent) dead(now time.Time) string {
	patience := 4*a.cfg.FullPass + 10*time.Second
	if quiet := now.Sub(a.board.lastReadBack()); quiet > patience {
		return fmt.Sprintf("the kernel's state was last read %s ago", quiet.Round(time.Second))
	}
	for name, w := range map[string]*watch{taskKernel: &a.watches.kernel, taskGuard: &a.watches.guard, taskRules: &a.watches.rules} {
		if why := w.dead(now, patience); why != "" {
			return fmt.Sprintf("the %s %s%s", name, why, a.board.because(name))
		}
	}
	for what, at := range a.store.Progress() {
		if quiet := now.Sub(at); quiet > patience+storeSilence {
			return fmt.Sprintf("the store's watch of %s has made no progress for %s", strings.TrimPrefix(what, "watching "), quiet.Round(time.Second))
		}
	}
	return ""
}

// Status returns how the daemon is now.
func (a *Agent) Status() Status {
	peers, refused := a.inbox.leasesSeen()
	s := a.board.fill(peers, refused, a.inbox.isInSync(), a.dead(time.Now()) == "")
	s.Dropped = a.drops()
	return s
}

// drops returns how many packets the guard dropped, by reason; nil when that
// is not known.
func (a *Agent) drops() map[string]uint64 {
	if a.cfg.Drops == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	drops, err := a.cfg.Drops(ctx)
	if err != nil {
		return nil // there is no guard, which problems tell
	}
	return drops
}

// counts returns what the metrics tell of the status, without making all of it.
func (a *Agent) counts() counts {
	c := a.board.counts()
	c.peers, c.refused = a.inbox.counts()
	c.storeUp = c.storeUp && a.inbox.isInSync()
	c.drops = a.drops()
	return c
}

func (a *Agent) serveStatus(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(a.Status()) // the reader went away
}
