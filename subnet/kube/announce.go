package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/twill-net/twill/subnet"
)

// announce returns the annotations that say what a lease says besides its
// subnets. record is the inverse.
func (k names) announce(l subnet.Lease) map[string]string {
	a := map[string]string{k.managed: "true", k.backendType: l.BackendType, k.machineID: l.MachineID}
	for _, f := range subnet.Families {
		a[k.backendData[f]] = l.BackendData[f]
		if ip := l.PublicIPs[f]; ip.IsValid() {
			a[k.publicIP[f]] = ip.String()
		}
		if ip := l.Sources[f]; ip.IsValid() {
			a[k.source[f]] = ip.String()
		}
	}
	maps.DeleteFunc(a, func(_, value string) bool { return value == "" })
	return a
}

// written are the annotations that announce may write.
func (k names) written() []string {
	return slices.Concat([]string{k.managed, k.backendType, k.machineID}, k.backendData[:], k.publicIP[:], k.source[:])
}

// difference returns what has to be patched to make have want: a value, or nil
// for an annotation that has to go. Those that nobody announces stay.
func (k names) difference(have, want map[string]string) map[string]*string {
	diff := map[string]*string{}
	for _, name := range k.written() {
		is, there := have[name]
		shall, wanted := want[name]
		switch {
		case wanted && (!there || is != shall):
			diff[name] = &shall
		case !wanted && there:
			diff[name] = nil
		}
	}
	return diff
}

// Release takes the announcement of the last Hold, which must have ended, from
// our Node, if nobody else has written it since: for its peers the node is gone
// then. The podCIDRs stay.
func (s *Store) Release(ctx context.Context) error {
	s.mu.Lock()
	a := s.announced
	s.mu.Unlock()
	if a.uid == "" {
		return nil
	}
	if err := untilNoConflict(func() error { return s.withdraw(ctx, a) }); err != nil {
		return fmt.Errorf("releasing the lease of Node %s: %w", s.cfg.Node, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.announced = announcement{}
	return nil
}

func (s *Store) withdraw(ctx context.Context, a announcement) error {
	list, err := s.nodes(ctx, metav1.ListOptions{FieldSelector: s.ownSelector()})
	if err != nil {
		return err
	}
	if len(list.Items) == 0 || list.Items[0].UID != a.uid || len(s.names.difference(list.Items[0].Annotations, a.annotations)) > 0 {
		return nil
	}
	var p nodePatch
	p.Metadata.UID, p.Metadata.ResourceVersion = a.uid, list.Items[0].ResourceVersion
	p.Metadata.Annotations = s.names.difference(a.annotations, nil)
	return s.patch(ctx, p)
}
