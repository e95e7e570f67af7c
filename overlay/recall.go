package overlay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/lastgood"
	"github.com/twill-net/twill/subnet"
)

// When what we know is written to disk, if it has changed: first soon after the
// first list, so that a node that has just joined has something, but not in the
// midst of programming it; then from time to time.
const (
	rememberLook     = 250 * time.Millisecond // between two looks for the first list,
	rememberSoon     = time.Second            // and after it
	rememberInterval = 10 * time.Second       // and then at least
	rememberShare    = 500                    // times as long as writing took
)

// clockError is how far a clock may go back without making what was written
// before useless: one that was not set yet, or was corrected.
const clockError = 5 * time.Minute

// recall takes what an earlier run knew as the news, when the store has told
// nothing for a while, until it tells what is so: a node that boots while the
// store is down has its network. While the kernel still has a device of ours
// it knows better, being newer than any file. Nothing is deleted for what is
// recalled (see inbox.inSync), nothing announced, and the node is not ready.
func (a *Agent) recall(ctx context.Context) error {
	if !pause(ctx, a.cfg.RecallAfter) || a.inbox.heard() {
		<-ctx.Done()
		return nil
	}
	for {
		have, err := a.kernel.Observe(ctx, nil)
		if err != nil {
			return err
		}
		if !hasLink(have) {
			break
		}
		if !pause(ctx, a.cfg.FullPass) || a.inbox.heard() {
			<-ctx.Done()
			return nil
		}
	}
	s, err := lastgood.Read(a.cfg.LastGood)
	now := time.Now()
	if err == nil {
		err = a.outdated(s, now)
	}
	if err == nil {
		err = a.elsewhere(s)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		a.cfg.Log.WithError(err).Warn("what an earlier run knew is of no use: waiting for the store")
	case a.inbox.recall(s):
		a.board.recalled(s.Saved)
		a.cfg.Log.WithFields(logrus.Fields{"age": now.Sub(s.Saved).Round(time.Second).String(), "records": len(s.Records)}).Info("what an earlier run knew is in use until the store answers")
	}
	<-ctx.Done()
	return nil
}

func hasLink(s backend.State) bool {
	for k := range s {
		if k.Kind == backend.KindLink {
			return true
		}
	}
	return false
}

// recollect takes the records that an earlier run knew as what the store's first
// list is compared with, because that list is of an older store, or another one.
func (a *Agent) recollect(list []subnet.Record) {
	if a.cfg.LastGood == "" {
		return
	}
	s, err := lastgood.Read(a.cfg.LastGood)
	if err == nil {
		err = a.outdated(s, time.Now())
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		a.cfg.Log.WithError(err).Warn("what the store lost is not known: the ways to nodes that have not announced themselves again go")
	default:
		a.inbox.recollect(s.Records, list)
	}
}

// outdated says why a state must not be used.
func (a *Agent) outdated(s lastgood.State, now time.Time) error {
	age := now.Sub(s.Saved).Round(time.Second)
	switch {
	case s.Node != a.cfg.Node:
		return fmt.Errorf("%s is of node %q, this is %q", a.cfg.LastGood, s.Node, a.cfg.Node)
	case s.Store != a.cfg.StoreName:
		return fmt.Errorf("%s is of another store, %s; this one is %s", a.cfg.LastGood, s.Store, a.cfg.StoreName)
	case age < -clockError:
		return fmt.Errorf("%s is from %s ahead of now: the clock went back", a.cfg.LastGood, -age)
	case a.cfg.LeaseTTL > 0 && age >= a.cfg.LeaseTTL:
		return fmt.Errorf("%s is %s old, which is longer than leases last (--lease-ttl %s)", a.cfg.LastGood, age, a.cfg.LeaseTTL)
	case !s.Own.Expires.IsZero() && !now.Before(s.Own.Expires):
		return fmt.Errorf("our lease in %s ended at %s", a.cfg.LastGood, s.Own.Expires.Format(time.RFC3339))
	}
	return nil
}

// elsewhere says why our lease as it was cannot be of the network config that
// there is: of a file, which is there while the store is not.
func (a *Agent) elsewhere(s lastgood.State) error {
	raw := a.usable.Load()
	if raw == nil {
		return nil
	}
	cfg, err := subnet.ParseConfig(bytes.TrimSpace(*raw))
	if err == nil {
		err = cfg.ForLease().Covers(s.Own.Lease)
	}
	if err != nil {
		return fmt.Errorf("our lease in %s is not of the network config: %w", a.cfg.LastGood, err)
	}
	return nil
}

// forget removes what was remembered: our lease is not ours any more.
func (a *Agent) forget() {
	if a.cfg.LastGood == "" {
		return
	}
	a.remembering.Lock()
	defer a.remembering.Unlock()
	if err := os.Remove(a.cfg.LastGood); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.cfg.Log.WithError(err).Warn("what was remembered of a lease that is not ours any more could not be removed")
	}
}

// remember writes what we know to disk from time to time, and at the end.
func (a *Agent) remember(ctx context.Context) error {
	m := &memory{position: a.rememberedPosition()}
	var since time.Time // when there was something to write
	due := time.NewTimer(rememberLook)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			a.rememberNow(m)
			return nil
		case <-due.C:
		}
		next, now := rememberLook, time.Now()
		if since.IsZero() && a.inbox.knows() {
			since = now
		}
		if m.written > 0 || !since.IsZero() && now.Sub(since) >= rememberSoon {
			a.rememberNow(m)
		}
		if m.written > 0 {
			next = max(rememberInterval, rememberShare*time.Since(now))
		}
		due.Reset(next)
	}
}

// memory is what is on disk of what we know.
type memory struct {
	written  uint64 // the number of the last news in it; 0: nothing of this run
	position string // the store's, when nothing in it was doubtful; "" where none is known
}

// rememberedPosition returns how far the store had come in an earlier run.
func (a *Agent) rememberedPosition() string {
	s, err := lastgood.ReadHead(a.cfg.LastGood)
	if err != nil || s.Store != a.cfg.StoreName {
		return ""
	}
	return s.Position
}

// rememberNow writes what has changed since it was last written. While records
// are doubtful it goes with the position from before the store went back, by
// which another run doubts them, too; where that is not known, what is on disk
// stays.
func (a *Agent) rememberNow(m *memory) {
	a.remembering.Lock() // what was known before a lease was lost is not written after it is forgotten
	defer a.remembering.Unlock()
	position := ""
	if a.cfg.Position != nil {
		position = a.cfg.Position() // first: what is known may be newer, never older
	}
	s, records, at, doubts := a.inbox.known()
	config := a.usable.Load()
	if records == nil || config == nil || at == m.written || doubts && m.position == "" {
		return
	}
	if !doubts {
		m.position = position
	}
	s.Saved, s.Node, s.Store, s.Config = time.Now(), a.cfg.Node, a.cfg.StoreName, *config
	s.Position = m.position
	err := lastgood.Write(a.cfg.LastGood, s, records)
	if a.board.problem(partRemember, err) && err != nil {
		a.cfg.Log.WithError(err).Warn("what we know could not be written down, will retry")
	}
	if err == nil {
		m.written = at
	}
}
