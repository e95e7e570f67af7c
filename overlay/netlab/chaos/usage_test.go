package chaos

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// usage is what a daemon takes of its host.
type usage struct {
	goroutines, files, memory float64 // memory in bytes, resident
}

// What a daemon may take more at the end: a connection that is about to close,
// and what the heap keeps of its greatest size (GOGC).
const (
	moreGoroutines = 4
	moreFiles      = 4
	moreMemory     = 48 << 20
)

func (w *world) usage(ctx context.Context) ([]usage, error) {
	all := make([]usage, len(w.members))
	err := w.each(ctx, w.members, func(ctx context.Context, m *member) (err error) {
		all[m.index], err = m.usage(ctx)
		return err
	})
	return all, err
}

func (m *member) usage(ctx context.Context) (u usage, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return m.DialContext(ctx, network, address)
		}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:8471/metrics", nil)
	if err != nil {
		return u, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return u, err
	}
	defer resp.Body.Close()
	found := 0
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		to, ok := map[string]*float64{"go_goroutines": &u.goroutines, "process_open_fds": &u.files, "process_resident_memory_bytes": &u.memory}[name]
		if !ok {
			continue
		}
		if *to, err = strconv.ParseFloat(value, 64); err != nil {
			return u, err
		}
		found++
	}
	if found != 3 {
		return u, fmt.Errorf("%d of 3 metrics are there", found)
	}
	return u, nil
}

// awaitUsage waits until every daemon uses what it used before, or hardly
// more.
func (w *world) awaitUsage(ctx context.Context, before []usage) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return poll(ctx, 200*time.Millisecond, func() error {
		now, err := w.usage(ctx)
		if err != nil {
			return err
		}
		w.t.Logf("goroutines, files, memory: before %s, now %s", table(before), table(now))
		for i, u := range now {
			b := before[i]
			if u.goroutines > b.goroutines+moreGoroutines || u.files > b.files+moreFiles || u.memory > b.memory+moreMemory {
				return fmt.Errorf("%s uses more than at the beginning: %s before, %s now", w.members[i].Name, table(before[i:i+1]), table(now[i:i+1]))
			}
		}
		return nil
	})
}

func table(all []usage) string {
	var cells []string
	for _, u := range all {
		cells = append(cells, fmt.Sprintf("%.0f/%.0f/%.0fM", u.goroutines, u.files, u.memory/(1<<20)))
	}
	return strings.Join(cells, " ")
}
