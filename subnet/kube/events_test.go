package kube_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/kube"
	"github.com/twill-net/twill/subnet/subnettest"
)

// mayTell are the rights to Events, which the shipped role has in namespace
// default alone.
var mayTell = rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}}

// report has a store make Events of what the test sends.
func report(t *testing.T, b backend, node string) chan<- subnet.Notice {
	notices := make(chan subnet.Notice)
	s := b.open(t, node)
	subnettest.During(t, func(ctx context.Context) { _ = s.ReportEvents(ctx, notices) })
	return notices
}

// of returns the Events of a reason.
func (b backend) of(t *testing.T, reason string) []corev1.Event {
	return slices.DeleteFunc(b.server.Events(t), func(e corev1.Event) bool { return e.Reason != reason })
}

func events(t *testing.T, b backend) {
	b.server.Grant(t, append(least(t), mayTell)...)
	b.Join(t, "n1")
	notices := report(t, b, "n1")
	down := subnet.Notice{Warning: true, Reason: "TwillNotReady", Message: "no lease yet"}
	notices <- down
	subnettest.Eventually(t, "it is told", func() bool { return len(b.of(t, down.Reason)) == 1 })
	e := b.of(t, down.Reason)[0]
	require.Equal(t, corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: "n1", UID: b.server.Node(t, "n1").UID}, e.InvolvedObject)
	require.Equal(t, corev1.EventSource{Component: "twilld", Host: "n1"}, e.Source)
	require.Equal(t, "no lease yet", e.Message)
	require.Equal(t, corev1.EventTypeWarning, e.Type)
	require.Equal(t, int32(1), e.Count)
	require.WithinDuration(t, time.Now(), e.FirstTimestamp.Time, time.Minute)

	notices <- down
	notices <- down
	subnettest.Eventually(t, "it is counted", func() bool { return b.of(t, down.Reason)[0].Count == 3 })
	again := b.of(t, down.Reason)
	require.Len(t, again, 1)
	require.Equal(t, e.Name, again[0].Name)
	require.False(t, again[0].LastTimestamp.Before(&again[0].FirstTimestamp))

	stands := subnet.Notice{Reason: "Stands", Message: "x"}
	notices <- stands
	subnettest.Eventually(t, "what stands", func() bool { return len(b.of(t, "Stands")) == 1 })
	was := b.of(t, "Stands")[0]
	notices <- subnet.Notice{Reason: "TwillReady", Message: strings.Repeat("ä", 1000)}
	subnettest.Eventually(t, "another", func() bool { return len(b.of(t, "TwillReady")) == 1 })
	require.Equal(t, corev1.EventTypeNormal, b.of(t, "TwillReady")[0].Type)

	b.server.DeleteEvents(t)
	notices <- down
	subnettest.Eventually(t, "one that has expired is made anew", func() bool { l := b.of(t, down.Reason); return len(l) == 1 && l[0].Count == 1 })

	b.Leave(t, "n1")
	b.Join(t, "n1")
	uid := b.server.Node(t, "n1").UID
	tries := 0
	subnettest.Eventually(t, "a Node made anew has its own", func() bool {
		tries++ // of one reason there are ten
		notices <- subnet.Notice{Reason: fmt.Sprint("Anew", tries), Message: "x"}
		return slices.ContainsFunc(b.server.Events(t), func(e corev1.Event) bool {
			return strings.HasPrefix(e.Reason, "Anew") && e.InvolvedObject.UID == uid
		})
	})

	notices <- stands
	subnettest.Eventually(t, "what stood is told of the new one, as for the first time", func() bool {
		return slices.ContainsFunc(b.of(t, "Stands"), func(e corev1.Event) bool {
			return e.InvolvedObject.UID == uid && e.Count == 1 && e.Name != was.Name
		})
	})

	for i := range 100 { // of one who goes on and on
		notices <- subnet.Notice{Reason: "Noise", Message: fmt.Sprint(i)}
	}
	subnettest.Eventually(t, "some are told", func() bool { return len(b.of(t, "Noise")) > 0 })
	notices <- subnet.Notice{Reason: "Other", Message: "x"}
	subnettest.Eventually(t, "nobody else is silenced", func() bool { return len(b.of(t, "Other")) == 1 })
	require.LessOrEqual(t, len(b.of(t, "Noise")), 10) // those came before
}

// A cluster that wants no Events has none, and all else works.
func eventsDenied(t *testing.T, b backend) {
	var log subnettest.Log
	var health subnettest.Reports
	b.change = func(c *kube.Config) { c.Logger, c.Health = log.Entry(), health.Take }
	b.Join(t, "n1")
	notices := report(t, b, "n1")
	for i := range 3 {
		notices <- subnet.Notice{Reason: "TwillReady", Message: fmt.Sprint(i)}
	}
	subnettest.Eventually(t, "it is logged", func() bool { return strings.Contains(log.String(), "Events of our Node cannot be written") })
	_, err := health.Last()
	require.NoError(t, err, "it is no trouble with the store")
	require.Equal(t, 1, strings.Count(log.String(), "cannot be written"))
	b.server.Grant(t, append(least(t), mayTell)...)
	subnettest.Eventually(t, "rights that come later count", func() bool {
		notices <- subnet.Notice{Reason: "TwillReady", Message: "later"}
		return len(b.of(t, "TwillReady")) > 0
	})
}

// What happened while the API server was away is told when it is back.
func eventsLater(t *testing.T, b backend) {
	b.server.Grant(t, append(least(t), mayTell)...)
	b.Join(t, "n1")
	way := b.server.Proxy(t)
	b.url = way.Endpoint
	notices := report(t, b, "n1")
	notices <- subnet.Notice{Reason: "First", Message: "x"}
	subnettest.Eventually(t, "it is told", func() bool { return len(b.of(t, "First")) == 1 })
	way.Cut()
	for i := range 40 { // nobody waits
		notices <- subnet.Notice{Reason: "Away", Message: fmt.Sprint(i / 4)}
	}
	way.Heal()
	subnettest.Eventually(t, "they are told", func() bool {
		n := int32(0)
		for _, e := range b.of(t, "Away") {
			n += e.Count
		}
		return n > 5
	})
}
