package kube

import (
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/twill-net/twill/subnet/internal/tasks"
)

// How soon a request that failed is made again, each ±50 %. A server that is not
// there costs nothing to ask, and all news wait for it: 5 000 nodes make 10 000
// connections a second that are refused. One that answers, but not as it should, is
// busy, or starts: 5 000 nodes ask 2 000 times a second then.
const (
	retryMin = 100 * time.Millisecond
	awayMax  = time.Second
	busyMax  = 5 * time.Second
)

// When everything is listed again: at once, then with pauses that grow until a
// stream has lasted.
const (
	relistMin = time.Second
	relistMax = 30 * time.Second
	relistOK  = time.Minute
	// N nodes that list N Nodes at a time, after a restart of the API server, are
	// its heaviest load: this for each Node is what they spread it over.
	relistEach = time.Millisecond
)

// retry paces a request that fails.
type retry struct{ away, busy *backoff.ExponentialBackOff }

func newRetry() retry {
	return retry{tasks.NewPace(retryMin, awayMax), tasks.NewPace(retryMin, busyMax)}
}

// pause returns how long to wait after an error of a request that began then. A
// request that waited for an answer in vain has waited already.
func (r retry) pause(err error, began time.Time) time.Duration {
	if answered(err) {
		return r.busy.NextBackOff()
	}
	r.busy.Reset() // it starts with refusals when it is back
	return r.away.NextBackOff() - time.Since(began)
}

// answered reports whether an error is what an API server said.
func answered(err error) bool {
	var answer apierrors.APIStatus
	return errors.As(err, &answer)
}
