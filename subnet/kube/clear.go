package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Clear takes from our Node all that a daemon has written to it, whichever that
// was: the annotations of a lease, and the condition NetworkUnavailable if it
// is ours. It returns what it took; a Node that is not there has nothing. No
// daemon may run, or it writes it again.
func (s *Store) Clear(ctx context.Context) (taken []string, err error) {
	err = untilNoConflict(func() error {
		taken, err = s.clear(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("clearing Node %s of what twilld wrote to it: %w", s.cfg.Node, err)
	}
	return taken, nil
}

func (s *Store) clear(ctx context.Context) (taken []string, err error) {
	list, err := s.nodes(ctx, metav1.ListOptions{FieldSelector: s.ownSelector()})
	if err != nil || len(list.Items) == 0 {
		return nil, err
	}
	node := &list.Items[0]
	metadata := map[string]any{"uid": node.UID, "resourceVersion": node.ResourceVersion}
	patch := map[string]any{"metadata": metadata}
	annotations := map[string]any{}
	for _, name := range s.names.written() {
		if _, there := node.Annotations[name]; there {
			annotations[name] = nil
			taken = append(taken, "annotation "+name)
		}
	}
	if len(annotations) > 0 {
		metadata["annotations"] = annotations
	}
	if slices.ContainsFunc(node.Status.Conditions, ours) {
		taken = append(taken, "condition "+string(corev1.NodeNetworkUnavailable))
		patch["status"] = map[string]any{"conditions": []any{map[string]any{"type": corev1.NodeNetworkUnavailable, "$patch": "delete"}}}
	}
	if len(taken) == 0 {
		return nil, nil
	}
	return taken, s.patch(ctx, patch)
}

// ours reports whether we wrote a condition; flannel's daemon says FlannelIsUp,
// and a cloud's routes have reasons of their own.
func ours(c corev1.NodeCondition) bool {
	return c.Type == corev1.NodeNetworkUnavailable && strings.HasPrefix(c.Reason, "Twill")
}
