package kube

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/twill-net/twill/subnet/internal/tasks"
)

// silence is how long a stream may tell nothing. An API server sends a bookmark
// a minute where nothing else happens. Three missed ones: the stream has come to
// nothing, or its history is no more the store's.
const silence = 3 * time.Minute

var errSilent = errors.New("the API server does not answer")

// follower keeps a view of Nodes up to date, each as take made of it.
//
// client-go's Reflector lists and watches until the server has forgotten the
// place to go on from. What it asks of the server goes through list and watch,
// which wait for a server that is away, and doubt its history.
type follower[T any] struct {
	*Store
	task     string
	selector string

	take    func(*corev1.Node) T
	replace func(all []T, wentBack bool)
	put     func(T)
	gone    func(name string)
	moved   func(version string) // all of the history up to there was told; nil for nobody to know

	size int // of the last list; it comes from within ListAndWatch

	mu      sync.Mutex
	version string      // resource version of the last news
	back    bool        // the store's history is another one than that was of
	alarm   *time.Timer // ends a stream that is silent; nil when there is none
}

// run follows until ctx ends. version is where an earlier one ended, "" for
// nowhere.
func (f *follower[T]) run(ctx context.Context, version string) {
	f.version = version
	lw := &cache.ListWatch{ListWithContextFunc: f.list, WatchFuncWithContext: f.watch}
	r := cache.NewReflectorWithOptions(lw, &corev1.Node{}, f, cache.ReflectorOptions{Name: f.task})
	f.repeat(klog.NewContext(ctx, f.klog()), r)
	f.health.Set(f.task, nil)
	f.progress.Forget(f.task)
}

// repeat lists and watches, again and again. The Reflector's own way to do so,
// RunWithContext, pauses before each list, and after some for up to a minute.
func (f *follower[T]) repeat(ctx context.Context, r *cache.Reflector) {
	pace := tasks.NewPace(relistMin, relistMax)
	for {
		began := time.Now()
		if err := r.ListAndWatchWithContext(ctx); err != nil {
			cache.DefaultWatchErrorHandler(ctx, r, err)
		}
		next := pace.NextBackOff()
		if time.Since(began) >= relistOK {
			pace.Reset()
			next = rand.N(relistEach * time.Duration(1+f.size))
		}
		if tasks.Pause(ctx, next) != nil {
			return
		}
	}
}

// watch opens a stream, with a list of all at its beginning if opts ask for
// it. It fails only with what the Reflector knows an answer to.
func (f *follower[T]) watch(ctx context.Context, opts metav1.ListOptions) (w watch.Interface, err error) {
	opts.FieldSelector = f.selector
	err = f.persist(ctx, func() error {
		if opts.SendInitialEvents == nil {
			if err := f.verify(ctx, opts.ResourceVersion); err != nil {
				return err
			}
		}
		w, err = f.open(ctx, opts)
		return err
	})
	return w, err
}

// list reads a page, for a server that cannot stream a list. What is most of a
// Node goes at once.
func (f *follower[T]) list(ctx context.Context, opts metav1.ListOptions) (list runtime.Object, err error) {
	opts.FieldSelector = f.selector
	if opts.ResourceVersion == "0" { // what some server happens to remember may be long ago
		opts.ResourceVersion = ""
	}
	err = f.persist(ctx, func() error {
		l, err := f.nodes(ctx, opts)
		list = l
		for i := range l.Items {
			l.Items[i].ManagedFields, l.Items[i].Status.Images = nil, nil
		}
		return err
	})
	return list, err
}

// persist runs ask until it succeeds, or fails in a way that the Reflector has
// to know of, or ctx ends.
func (f *follower[T]) persist(ctx context.Context, ask func() error) error {
	again := newRetry()
	for {
		f.progress.Beat(f.task)
		began := time.Now()
		err := ask()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil || forReflector(err) {
			f.health.Set(f.task, nil)
			return err
		}
		f.health.Set(f.task, err)
		if tasks.Pause(ctx, again.pause(err, began)) != nil {
			return ctx.Err()
		}
	}
}

// forReflector reports whether an error says that the request, not the server,
// has to change: the place in its history is not there, or it cannot stream a
// list.
func forReflector(err error) bool {
	return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) ||
		apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge)
}

// verify checks that the history in which version was is still the store's. A
// server whose etcd was restored from a backup is silent towards a watch from
// ahead of it, until it is there again.
func (f *follower[T]) verify(ctx context.Context, version string) error {
	// Our own Node alone, or an empty list: what counts is the list's version.
	now, err := f.nodes(ctx, metav1.ListOptions{FieldSelector: f.ownSelector(), Limit: 1})
	if err != nil {
		return fmt.Errorf("asking for the newest resource version: %w", err)
	}
	if behind(now.ResourceVersion, version) {
		f.mu.Lock()
		f.back = true
		f.mu.Unlock()
		return apierrors.NewResourceExpired(fmt.Sprintf("the newest resource version is %s, and %s has been", now.ResourceVersion, version))
	}
	return nil
}

// behind reports whether a resource version is from before another one.
func behind(version, other string) bool {
	order, err := resourceversion.CompareResourceVersion(version, other)
	return err == nil && order < 0
}

// open opens one stream, which ends when it has been silent for too long.
func (f *follower[T]) open(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	timeout := requestTimeout
	if opts.SendInitialEvents != nil { // the server may first have to catch up
		timeout *= 3
	}
	ctx, cancel := context.WithCancelCause(ctx)
	late := time.AfterFunc(timeout, func() { cancel(errSilent) })
	opts.Watch = true
	w, err := f.api.Get().Resource("nodes").VersionedParams(&opts, metav1.ParameterCodec).Watch(ctx)
	if !late.Stop() && err == nil {
		w.Stop()
		err = errSilent
	}
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
			err = cause
		}
		cancel(nil)
		return nil, denied(err, "watch", "nodes", roleNodes)
	}
	st := &stream{Interface: w, cancel: func() { cancel(nil) }}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.alarm = time.AfterFunc(f.silence, func() {
		f.log.WithField("silence", f.silence.String()).Warn("The API server told nothing new of the Nodes; asking again")
		w.Stop() // as if the server had ended it: it is resumed
	})
	st.alarm = f.alarm
	return st, nil
}

// stream is a watch and what goes with it.
type stream struct {
	watch.Interface
	cancel func()
	alarm  *time.Timer
}

// Stop ends the stream.
func (s *stream) Stop() {
	s.alarm.Stop()
	s.Interface.Stop()
	s.cancel()
}

// UpdateResourceVersion is called with each event and each bookmark.
func (f *follower[T]) UpdateResourceVersion(version string) {
	f.alive()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version = version
	if f.moved != nil {
		f.moved(version)
	}
}

// alive notes that the stream told something.
func (f *follower[T]) alive() {
	f.progress.Beat(f.task)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.alarm.Reset(f.silence)
}

// Transformer cuts Nodes down while a list comes in as a stream.
func (f *follower[T]) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		f.alive()
		return f.cut(obj), nil
	}
}

// cut returns what take makes of a Node; what was made already stays.
func (f *follower[T]) cut(obj any) any {
	if n, ok := obj.(*corev1.Node); ok {
		return f.take(n)
	}
	return obj
}

// Replace takes a full list.
func (f *follower[T]) Replace(list []any, version string) error {
	all := make([]T, 0, len(list))
	for _, obj := range list {
		if t, ok := f.cut(obj).(T); ok {
			all = append(all, t)
		}
	}
	f.mu.Lock()
	back := f.back || behind(version, f.version)
	f.back, f.version = false, version
	f.mu.Unlock()
	f.size = len(all)
	f.replace(all, back)
	if f.moved != nil {
		f.moved(version)
	}
	return nil
}

// Add takes a new Node.
func (f *follower[T]) Add(obj any) error { return f.Update(obj) }

// Update takes a changed Node.
func (f *follower[T]) Update(obj any) error {
	if t, ok := f.cut(obj).(T); ok {
		f.put(t)
	}
	return nil
}

// Delete takes the end of a Node.
func (f *follower[T]) Delete(obj any) error {
	if n, ok := obj.(*corev1.Node); ok {
		f.gone(n.Name)
	}
	return nil
}

// Resync is never asked for.
func (f *follower[T]) Resync() error { return nil }
