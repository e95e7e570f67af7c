package kube

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/twill-net/twill/subnet"
)

// ownNode is our own Node, as much of it as matters.
type ownNode struct {
	uid         types.UID // "" where there is no such Node
	created     metav1.Time
	spec        corev1.NodeSpec   // its podCIDRs alone
	annotations map[string]string // ours
	internal    subnet.PerFamily[netip.Addr]
	condition   corev1.NodeCondition // NetworkUnavailable; zero where it was never set
}

// own shares one view of our Node among those who want it.
type own struct {
	running sync.Mutex // held to start and to end
	users   int
	stop    func()

	mu      sync.Mutex
	known   bool // the first list has arrived
	node    ownNode
	changed chan struct{} // closed at each change
}

// get returns our Node, whether it is known yet, and what is closed when it
// has changed.
func (o *own) get() (n ownNode, known bool, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.node, o.known, o.changed
}

func (o *own) set(n ownNode, known bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known == known && o.node.equal(n) {
		return
	}
	o.known, o.node = known, n
	close(o.changed)
	o.changed = make(chan struct{})
}

// equal reports whether nothing that matters differs: the kubelet writes the
// condition's heartbeat, and much else, every few minutes.
func (n ownNode) equal(o ownNode) bool {
	a, b := n.condition, o.condition
	return n.uid == o.uid && n.internal == o.internal && maps.Equal(n.annotations, o.annotations) &&
		n.spec.PodCIDR == o.spec.PodCIDR && slices.Equal(n.spec.PodCIDRs, o.spec.PodCIDRs) &&
		a.Type == b.Type && a.Status == b.Status && a.Reason == b.Reason && a.Message == b.Message
}

// followOwn keeps s.own up to date until release is called.
func (s *Store) followOwn() (release func()) {
	o := &s.own
	o.running.Lock()
	defer o.running.Unlock()
	if o.users++; o.users == 1 {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.ownFollower().run(ctx, "")
		}()
		o.stop = func() {
			cancel()
			<-done
		}
	}
	return func() {
		o.running.Lock()
		defer o.running.Unlock()
		if o.users--; o.users == 0 {
			o.stop()
			o.set(ownNode{}, false) // what it will be is not known
		}
	}
}

func (s *Store) ownFollower() *follower[ownNode] {
	return &follower[ownNode]{
		Store: s, task: taskOwn,
		selector: fields.OneTermEqualSelector(metav1.ObjectNameField, s.cfg.Node).String(),
		take:     s.names.own,
		replace: func(all []ownNode, _ bool) {
			var n ownNode
			if len(all) > 0 {
				n = all[0]
			}
			s.own.set(n, true)
		},
		put:  func(n ownNode) { s.own.set(n, true) },
		gone: func(string) { s.own.set(ownNode{}, true) },
	}
}

// own returns what of our Node matters.
func (k names) own(n *corev1.Node) ownNode {
	own := ownNode{
		uid: n.UID, created: n.CreationTimestamp,
		spec:        corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR, PodCIDRs: n.Spec.PodCIDRs},
		annotations: map[string]string{},
	}
	for name, value := range n.Annotations {
		if strings.HasPrefix(name, k.prefix) {
			own.annotations[name] = value
		}
	}
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP && !ip.Is4In6() && ip.Zone() == "" && ip.IsGlobalUnicast() {
			if f := subnet.FamilyOf(ip); !own.internal[f].IsValid() {
				own.internal[f] = ip
			}
		}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			own.condition = c
		}
	}
	return own
}

// Addresses are what a Node says of the underlay of its node.
type Addresses struct {
	// Internal is the first InternalIP of each family: how the other nodes know
	// this one, and so the public IP where nobody names another.
	Internal subnet.PerFamily[netip.Addr]
	// Local is of the interface to use: the annotations node-public-ip and
	// node-public-ipv6.
	Local   subnet.PerFamily[netip.Addr]
	LocalBy subnet.PerFamily[string] // the names of those annotations, where they are used
	// Unusable is why an annotation of Local, or one that has peers told another
	// address (public-ip-overwrite and public-ipv6-overwrite), is passed over; ""
	// for none.
	Unusable subnet.PerFamily[string]
}

// WatchAddresses tells the addresses that our Node names, first as they are,
// then each change, one call at a time, until ctx ends. It waits for a Node
// that cannot be read yet. One that is not there names none; while one that was is
// not, the last ones stand. The error is always nil.
func (s *Store) WatchAddresses(ctx context.Context, tell func(Addresses)) error {
	defer s.followOwn()()
	var last *Addresses
	for {
		n, known, changed := s.own.get()
		if n.uid != "" || known && last == nil {
			a := s.addresses(n)
			if last == nil || *last != a {
				last = &a
				tell(a)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// addresses returns what WatchAddresses tells of our Node.
func (s *Store) addresses(n ownNode) Addresses {
	a := Addresses{Internal: n.internal}
	for _, f := range subnet.Families {
		var wrong []string
		for _, name := range []string{s.names.local[f], s.names.overwrite[f]} {
			ip, err := s.override(n, name, f)
			switch {
			case err != nil:
				wrong = append(wrong, err.Error())
			case name == s.names.local[f] && ip.IsValid():
				a.Local[f], a.LocalBy[f] = ip, name
			}
		}
		a.Unusable[f] = strings.Join(wrong, "; ")
	}
	return a
}

// override returns an address that somebody may have written to our Node for
// us to read; why one cannot be used is logged once.
func (s *Store) override(n ownNode, name string, f subnet.Family) (netip.Addr, error) {
	ip, err := host(n.annotations, name, f)
	why := ""
	if err != nil {
		why = err.Error()
	}
	s.mu.Lock()
	news := s.passed[name] != why
	s.passed[name] = why // of four names
	s.mu.Unlock()
	if news && err != nil {
		s.log.WithError(err).Warn("An annotation of our Node is passed over")
	}
	return ip, err
}
