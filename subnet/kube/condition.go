package kube

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/twill-net/twill/subnet"
)

// The condition's reasons, when we wrote it.
const (
	reasonUp   = "TwillIsUp"
	reasonDown = "TwillIsNotReady"
)

const (
	downFor  = 2 * time.Second
	otherFor = 5 * time.Second
)

// ReportNetwork keeps the condition NetworkUnavailable of our Node as the
// newest of states says, whoever changes it, until ctx ends. Before the first
// it is left as it is: a daemon that starts does not know yet. A condition that
// says the same for another reason, a cloud's routes, is left to whom it is of.
// With SetUnavailable off nothing is written. That the network is down must last
// for downFor, and another reason why for otherFor: a taint follows, and what the
// daemon mends in a moment is none of the scheduler's business. The error is
// always nil.
func (s *Store) ReportNetwork(ctx context.Context, states <-chan subnet.NetworkState) error {
	if !s.cfg.SetUnavailable {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-states:
			}
		}
	}
	defer s.followOwn()()
	defer s.health.Set(taskCondition, nil)
	var want, next *subnet.NetworkState
	var lasts <-chan time.Time // then next is what we want
	pace := newRepeat()
	for {
		n, known, changed := s.own.get()
		if want != nil && known && n.uid != "" {
			s.settleCondition(ctx, n, *want, pace)
		}
		select {
		case <-ctx.Done():
			return nil
		case w := <-states:
			switch {
			case w.Up || want == nil:
				want, next, lasts = &w, nil, nil
			case want.Up && next == nil:
				next, lasts = &w, time.After(downFor)
			case next == nil:
				next, lasts = &w, time.After(otherFor)
			default:
				next = &w
			}
		case <-lasts:
			want, next, lasts = next, nil, nil
		case <-changed:
		case <-pace.wait():
		}
	}
}

func (s *Store) settleCondition(ctx context.Context, n ownNode, want subnet.NetworkState, pace *repeat) {
	c := condition(want, n.condition, time.Now())
	if c == n.condition || !pace.turn(time.Now(), fmt.Sprint(n.uid, want)) {
		return
	}
	var p nodePatch
	p.Metadata.UID = n.uid
	p.Status.Conditions = []corev1.NodeCondition{c}
	err := s.patch(ctx, p)
	s.health.Set(taskCondition, err)
	if err != nil {
		pace.failed(err)
	}
}

// condition returns the condition that says w; that is old where it says so
// already.
func condition(w subnet.NetworkState, old corev1.NodeCondition, now time.Time) corev1.NodeCondition {
	c := corev1.NodeCondition{
		Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue, Reason: reasonDown, Message: w.Message,
		LastHeartbeatTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
	}
	if w.Up {
		c.Status, c.Reason = corev1.ConditionFalse, reasonUp
	}
	if old.Status == c.Status {
		if old.Reason != c.Reason || old.Message == c.Message {
			return old
		}
		c.LastTransitionTime = old.LastTransitionTime
	}
	return c
}
