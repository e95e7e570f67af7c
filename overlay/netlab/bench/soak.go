package bench

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Soak is what the memory of a daemon did over very many changes of leases.
type Soak struct {
	Daemon  string
	Events  int       // puts that it was told
	Seconds float64   // that they took, each burst awaited in the kernel
	RSS     []float64 // MiB, after each twentieth of them
	RSSAnon []float64
}

// soakEvents is how many leases are put.
const soakEvents = 1_000_000

// soak changes 1 000 peers again and again. It takes minutes, so that it runs
// only when it is asked for.
func (b *bench) soak(ctx context.Context) error {
	for _, c := range b.contenders {
		if err := b.soakOne(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

func (b *bench) soakOne(ctx context.Context, c contender) (err error) {
	d, err := c.start(ctx, c.daemon)
	if err != nil {
		return err
	}
	defer func() { _ = d.stop(ctx) }()
	if err := d.awaitReady(ctx, 30*time.Second); err != nil {
		return err
	}
	s := &Soak{Daemon: c.name}
	b.report.Soaks = append(b.report.Soaks, s)
	began := time.Now()
	const bursts = soakEvents / burst
	for n := 1; n <= bursts; n++ {
		e := Expect{Peers: Peers{First: 1, Count: burst, Version: n % versions}}
		if err := c.call(ctx, "Want", e, &Nothing{}); err != nil {
			return err
		}
		if err := c.call(ctx, "Burst", BurstArgs{Expect: e}, &Wrote{}); err != nil {
			return err
		}
		if _, err := c.await(ctx, 30*time.Second); err != nil {
			return err
		}
		s.Events += burst
		if n%(bursts/20) != 0 {
			continue
		}
		used, err := d.usage(ctx)
		if err != nil {
			return err
		}
		s.RSS, s.RSSAnon = append(s.RSS, used.RSS), append(s.RSSAnon, used.RSSAnon)
		b.step("soak, %s: %d events, RSS %.1f MiB, anonymous %.1f", c.name, s.Events, used.RSS, used.RSSAnon)
	}
	s.Seconds = time.Since(began).Seconds()
	return nil
}

// bar compares the last half with the first: what leaks goes on leaking.
func (s *Soak) bar() bar {
	half := len(s.RSSAnon) / 2
	return bar{fmt.Sprintf("%d lease events: anonymous memory of the second half, × the first", s.Events), median(s.RSSAnon[half:]) / median(s.RSSAnon[:half]), 1.05}
}

func (r *Report) soakTable(w io.Writer) {
	if len(r.Soaks) == 0 {
		return
	}
	fmt.Fprint(w, "## Soak\n\n1 000 peers get another MAC and public IP at once, again and again; each burst is awaited in the kernel. Memory in MiB, over the run.\n\n")
	t := table{head: []string{"daemon", "lease events", "s", "RSS", "anonymous, first half", "second half"}}
	for _, s := range r.Soaks {
		half := len(s.RSSAnon) / 2
		t.add(s.Daemon, fmt.Sprint(s.Events), fmt.Sprintf("%.0f", s.Seconds), spread(s.RSS, 1), spread(s.RSSAnon[:half], 1), spread(s.RSSAnon[half:], 1))
	}
	t.write(w)
}
