package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/internal/tasks"
)

// How many Events there may be.
const (
	eventsWaiting  = 32          // notices that wait for an API server that is away; then the oldest go
	eventsBurst    = 10          // and of which more than that of one reason,
	eventsEach     = time.Minute // and one in each of these, are dropped: one who goes on and on silences no other
	eventsKnown    = 64          // of which it is known how to count on
	eventsLife     = time.Hour   // an API server keeps an Event that long (--event-ttl)
	eventMessage   = 1024        // bytes; longer ones are refused (validation of core/v1)
	eventNamespace = "default"   // of what has none, as a Node
	eventComponent = "twilld"
)

// ReportEvents makes Events of our Node of what is told, until ctx ends. The same
// once more counts on the Event that is there. What cannot be written for want
// of rights is logged once, and waits for nothing: a cluster that wants no
// Events has none. The error is always nil.
func (s *Store) ReportEvents(ctx context.Context, notices <-chan subnet.Notice) error {
	defer s.followOwn()()
	e := &eventer{Store: s, known: map[subnet.Notice]*told{}, budgets: map[string]*budget{}, pace: tasks.NewPace(time.Second, 10*time.Second)}
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case n := <-notices:
			e.take(n, time.Now())
		case <-again:
			again = nil
		}
		if again == nil {
			if done, wait := e.send(ctx); !done {
				again = time.After(max(wait, e.pace.NextBackOff()))
			}
		}
	}
}

// eventer writes one node's Events.
type eventer struct {
	*Store
	waiting []*told
	known   map[subnet.Notice]*told
	budgets map[string]*budget // by reason, of which there are a dozen
	pace    *backoff.ExponentialBackOff
	denied  bool // it was logged that we may not
}

// budget is how many more Events of a reason there may be.
type budget struct {
	tokens float64
	at     time.Time // as of then
}

// spend reports whether there may be one more.
func (b *budget) spend(now time.Time) bool {
	b.tokens = min(eventsBurst, b.tokens+now.Sub(b.at).Minutes()/eventsEach.Minutes())
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// told is a notice, and the Event that tells it.
type told struct {
	subnet.Notice
	name        string // of the Event; "" while there is none
	uid         types.UID
	first, last time.Time
	count       int32
	waits       bool
}

// take notes something to tell.
func (e *eventer) take(n subnet.Notice, now time.Time) {
	b := e.budgets[n.Reason]
	if b == nil {
		b = &budget{tokens: eventsBurst, at: now}
		e.budgets[n.Reason] = b
	}
	if !b.spend(now) {
		e.log.WithField("reason", n.Reason).Debug("Too many Events; one is dropped")
		return
	}
	if len(n.Message) > eventMessage {
		n.Message = strings.ToValidUTF8(n.Message[:eventMessage-3], "") + "..."
	}
	t := e.known[n]
	if t == nil || now.Sub(t.last) > eventsLife {
		if len(e.known) >= eventsKnown {
			clear(e.known)
		}
		t = &told{Notice: n, first: now}
		e.known[n] = t
	}
	t.last = now
	t.count++
	if t.waits {
		return
	}
	t.waits = true
	if e.waiting = append(e.waiting, t); len(e.waiting) > eventsWaiting {
		e.waiting[0].waits = false
		e.waiting = e.waiting[1:]
	}
}

// send tells what waits, and reports whether nothing does any more; else wait is
// how long the API server wants to be left alone.
func (e *eventer) send(ctx context.Context) (done bool, wait time.Duration) {
	for len(e.waiting) > 0 {
		n, known, _ := e.own.get()
		if !known {
			return false, 0 // the API server has not told yet
		}
		t := e.waiting[0]
		err := e.write(ctx, t, n.uid)
		switch {
		case ctx.Err() != nil:
			return true, 0
		case err == nil:
			e.denied = false
		case final(err):
			if !e.denied {
				e.log.WithError(err).Warn("Events of our Node cannot be written; going on without")
			}
			e.denied = true
		default:
			e.log.WithError(err).Debug("An Event of our Node could not be written; will retry")
			seconds, _ := apierrors.SuggestsClientDelay(err)
			return false, min(time.Duration(seconds)*time.Second, eventsEach)
		}
		t.waits = false
		e.waiting = e.waiting[1:]
		e.pace.Reset()
	}
	return true, 0
}

// final reports whether an answer is one that the same request will get again:
// the server has understood, and does not want it. Anything else may pass: a
// token that is being renewed, a conflict, a server that is busy or broken, and
// what is no answer at all.
func final(err error) bool {
	var answer apierrors.APIStatus
	if !errors.As(err, &answer) {
		return false
	}
	switch code := answer.Status().Code; code {
	case http.StatusUnauthorized, http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests:
		return false
	default:
		return code >= 400 && code < 500
	}
}

// write creates the Event of a notice, or counts on the one that is there.
func (e *eventer) write(ctx context.Context, t *told, node types.UID) error {
	if node == "" {
		node = types.UID(e.cfg.Node) // as kubelets do, who need not know it either
	}
	if t.name != "" && t.uid == node {
		patch, err := json.Marshal(map[string]any{"count": t.count, "lastTimestamp": metav1.NewTime(t.last)})
		if err != nil {
			return err
		}
		request, cancel := e.request(ctx)
		defer cancel()
		err = e.api.Patch(types.StrategicMergePatchType).Namespace(eventNamespace).Resource("events").Name(t.name).Body(patch).Do(request).Error()
		if !apierrors.IsNotFound(err) {
			return wrapEvent(t, denied(err, "patch", "events", roleEvents))
		}
	}
	if t.name != "" { // it has expired, or is of the Node that was there before
		t.first, t.count = t.last, 1
	}
	kind := corev1.EventTypeNormal
	if t.Warning {
		kind = corev1.EventTypeWarning
	}
	ev := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", e.cfg.Node, time.Now().UnixNano()), Namespace: eventNamespace},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: e.cfg.Node, UID: node},
		Reason:         t.Reason, Message: t.Message, Type: kind, Count: t.count,
		FirstTimestamp: metav1.NewTime(t.first), LastTimestamp: metav1.NewTime(t.last),
		Source:              corev1.EventSource{Component: eventComponent, Host: e.cfg.Node},
		ReportingController: eventComponent, ReportingInstance: e.cfg.Node,
	}
	request, cancel := e.request(ctx)
	defer cancel()
	if err := e.api.Post().Namespace(eventNamespace).Resource("events").Body(ev).Do(request).Error(); err != nil {
		return wrapEvent(t, denied(err, "create", "events", roleEvents))
	}
	t.name, t.uid = ev.Name, node
	return nil
}

func wrapEvent(t *told, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("writing Event %s: %w", t.Reason, err)
}
