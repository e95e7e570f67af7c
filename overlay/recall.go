package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/twill-net/twill/overlay/lastgood"
)

// How often what we know is written to disk, if it has changed; soon after the
// first list, so that a node that has just joined has something.
const (
	rememberFirst    = 2 * time.Second
	rememberInterval = time.Minute
)

// recall takes what an earlier run knew as the news, until the store tells what
// is so: a node that boots while the store is down has its network. Nothing is
// deleted for it (see inbox.inSync), and our lease is ours as long as it lasts.
func (a *Agent) recall(now time.Time) {
	if a.cfg.LastGood == "" {
		return
	}
	s, err := lastgood.Read(a.cfg.LastGood)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = a.outdated(s, now)
	}
	if err != nil {
		a.cfg.Log.WithError(err).Warn("what an earlier run knew is of no use: waiting for the store")
		return
	}
	a.inbox.recall(s)
	a.board.recalled(s.Saved)
	a.cfg.Log.WithFields(logrus.Fields{"age": now.Sub(s.Saved).Round(time.Second).String(), "records": len(s.Records)}).Info("what an earlier run knew is in use until the store answers")
}

// outdated says why a state must not be used.
func (a *Agent) outdated(s lastgood.State, now time.Time) error {
	age := now.Sub(s.Saved).Round(time.Second)
	switch {
	case s.Node != a.cfg.Node:
		return fmt.Errorf("%s is of node %q, this is %q", a.cfg.LastGood, s.Node, a.cfg.Node)
	case age < 0:
		return fmt.Errorf("%s is from %s ahead of now: the clock went back", a.cfg.LastGood, -age)
	case age >= a.cfg.LeaseTTL:
		return fmt.Errorf("%s is %s old, which is longer than leases last (--lease-ttl %s)", a.cfg.LastGood, age, a.cfg.LeaseTTL)
	case !s.Own.Expires.IsZero() && !now.Before(s.Own.Expires):
		return fmt.Errorf("our lease in %s ended at %s", a.cfg.LastGood, s.Own.Expires.Format(time.RFC3339))
	}
	return nil
}

// remember writes what we know to disk from time to time, and at the end.
func (a *Agent) remember(ctx context.Context) error {
	var written uint64
	due := time.NewTimer(rememberFirst)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			a.rememberNow(&written)
			return nil
		case <-due.C:
		}
		next := rememberInterval
		if a.rememberNow(&written); written == 0 {
			next = rememberFirst
		}
		due.Reset(next)
	}
}

// rememberNow writes what has changed since the news of that number.
func (a *Agent) rememberNow(written *uint64) {
	s, records, at := a.inbox.known()
	config := a.usable.Load()
	if records == nil || config == nil || at == *written {
		return
	}
	s.Saved, s.Node, s.Config = time.Now(), a.cfg.Node, *config
	err := lastgood.Write(a.cfg.LastGood, s, records)
	if a.board.problem(partRemember, err) && err != nil {
		a.cfg.Log.WithError(err).Warn("what we know could not be written down, will retry")
	}
	if err == nil {
		*written = at
	}
}
