package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/subnet"
)

// Pods lists the pods of a namespace that a label selector matches, by name.
// Those that are being deleted do not count.
func (c *Cluster) Pods(ctx context.Context, namespace, selector string) ([]corev1.Pod, error) {
	var list corev1.PodList
	if err := c.Get(ctx, "/api/v1/namespaces/"+namespace+"/pods?labelSelector="+url.QueryEscape(selector), &list); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil }), nil
}

// ReadyPod returns why a pod is not ready.
func ReadyPod(p corev1.Pod) error {
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("the pod %s on %s is %s, not ready", p.Name, p.Spec.NodeName, p.Status.Phase)
}

// WaitPods waits until count pods that a label selector matches are ready, and
// none is not; it returns them in the order of their nodes.
func (c *Cluster) WaitPods(ctx context.Context, namespace, selector string, count int) (pods []corev1.Pod, err error) {
	err = poll(ctx, fmt.Sprintf("%d pods %s are ready", count, selector), func() error {
		if pods, err = c.Pods(ctx, namespace, selector); err != nil {
			return err
		}
		var errs []error
		for _, p := range pods {
			errs = append(errs, ReadyPod(p))
		}
		if len(pods) != count {
			errs = append(errs, fmt.Errorf("there are %d", len(pods)))
		}
		return errors.Join(errs...)
	})
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		if a.Spec.NodeName != b.Spec.NodeName {
			return slices.Compare([]byte(a.Spec.NodeName), []byte(b.Spec.NodeName))
		}
		return slices.Compare([]byte(a.Name), []byte(b.Name))
	})
	return pods, err
}

// Host returns the network namespace of a pod, as the pod has it now: after a
// reboot of its node it has another. Commands there are the node's.
func (c *Cluster) Host(p corev1.Pod) (*netlab.Host, error) {
	i := slices.IndexFunc(c.Nodes, func(n *Node) bool { return n.Name == p.Spec.NodeName })
	if i < 0 {
		return nil, fmt.Errorf("finding the pod %s: there is no node %q", p.Name, p.Spec.NodeName)
	}
	var addrs subnet.PerFamily[netip.Addr]
	for _, ip := range p.Status.PodIPs {
		a, err := netip.ParseAddr(ip.IP)
		if err != nil {
			return nil, err
		}
		addrs[subnet.FamilyOf(a)] = a
	}
	if p.Spec.HostNetwork {
		return &c.Nodes[i].Host, nil
	}
	netns, err := c.netns(c.Nodes[i], p)
	if err != nil {
		return nil, err
	}
	return c.Nodes[i].Inside(p.Name, netns, addrs), nil
}

// netns finds a pod's network namespace in what libcni has kept of the ADD:
// /var/lib/cni/results/NETWORK-CONTAINER-IFNAME.
func (c *Cluster) netns(n *Node, p corev1.Pod) (string, error) {
	results, err := filepath.Glob(filepath.Join(c.opts.Dir, n.Name, "var-lib-cni/results/*"))
	if err != nil {
		return "", err
	}
	for _, file := range results {
		var kept struct {
			Netns   string      `json:"netns"`
			IfName  string      `json:"ifName"`
			CNIArgs [][2]string `json:"cniArgs"`
		}
		text, err := os.ReadFile(file)
		if err != nil || json.Unmarshal(text, &kept) != nil {
			continue // of a pod that goes at this moment
		}
		// A symbolic link of the node's, which leads elsewhere from here.
		kept.Netns = strings.Replace(kept.Netns, "/var/run/", "/run/", 1)
		if kept.IfName == "eth0" && slices.Contains(kept.CNIArgs, [2]string{"K8S_POD_UID", string(p.UID)}) && n.has(kept.Netns) {
			return kept.Netns, nil
		}
	}
	return "", fmt.Errorf("finding the network namespace of %s on %s: no CNI result names it", p.Name, n.Name)
}

// has reports whether a file is there on the node.
func (n *Node) has(file string) bool {
	_, err := os.Stat(n.Path(file))
	return err == nil
}
