package kube

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/twill-net/twill/subnet"
)

// Hold announces the claim at our Node, for the subnets of its podCIDRs, and
// keeps the announcement as it shall be until ctx ends (nil). held is called
// with the lease once it stands there, and when it has become another: other
// podCIDRs of a Node that was created anew, another public IP by annotation.
// It does not expire. One call at a time.
//
// Hold returns when there is no lease: with an error that wraps
// subnet.ErrNoLease where there is no such Node, or no podCIDRs, or none that
// fit the network config, and with one that wraps subnet.ErrDuplicate. Called
// again, it waits until that has changed.
func (s *Store) Hold(ctx context.Context, claim subnet.Claim, held func(subnet.Held)) error {
	defer s.followOwn()()
	h := &holder{Store: s, claim: claim, held: held, log: s.log.WithField("node", s.cfg.Node), pace: newRepeat()}
	defer s.health.Set(taskHold, nil)
	for {
		n, known, changed := s.own.get()
		if known {
			if err := h.settle(ctx, n); err != nil && ctx.Err() == nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-h.pace.wait():
		}
	}
}

type holder struct {
	*Store
	claim subnet.Claim
	held  func(subnet.Held)
	log   *logrus.Entry
	pace  *repeat
	told  subnet.Held
}

// settle makes the Node say what it shall, and tells the lease.
func (h *holder) settle(ctx context.Context, n ownNode) error {
	lease, err := h.lease(n)
	if err != nil {
		h.told = subnet.Held{}
		return h.without(err)
	}
	want := h.names.announce(lease)
	if diff := h.names.difference(n.annotations, want); len(diff) > 0 {
		if !h.pace.turn(time.Now(), fmt.Sprint(n.uid, want)) {
			return nil
		}
		if h.wrote(n, want) {
			h.log.WithField("annotations", len(diff)).Warn("Somebody else changed our annotations; writing them again")
		}
		var p nodePatch
		p.Metadata.UID, p.Metadata.Annotations = n.uid, diff
		err := h.patch(ctx, p)
		h.health.Set(taskHold, err)
		if err != nil {
			h.pace.failed(err)
			return nil
		}
	}
	h.health.Set(taskHold, nil)
	h.mu.Lock()
	h.lack, h.announced = "", announcement{uid: n.uid, annotations: want}
	h.mu.Unlock()
	if held := (subnet.Held{Lease: lease, Key: h.cfg.Node, Created: n.created.Unix()}); held != h.told {
		h.log.WithField("created", n.created.Time).Debug("Holding a lease")
		h.told = held
		h.held(held)
	}
	return nil
}

// without returns why there is no lease, once; the same reason again is waited
// out.
func (h *holder) without(why error) error {
	h.health.Set(taskHold, nil)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lack == why.Error() {
		return nil
	}
	h.lack = why.Error()
	return why
}

// wrote reports whether this Store wrote just that to the Node before.
func (h *holder) wrote(n ownNode, want map[string]string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.announced.uid == n.uid && maps.Equal(h.announced.annotations, want)
}

// NoLeaseError says why a node has no lease: nobody has assigned it one that it
// could hold.
type NoLeaseError struct{ Node, Reason string }

func (e *NoLeaseError) Error() string { return fmt.Sprintf("Node %s: %s", e.Node, e.Reason) }

// Is makes it a subnet.ErrNoLease.
func (e *NoLeaseError) Is(target error) bool { return target == subnet.ErrNoLease }

// lease returns our lease, as the Node and the claim make it.
func (h *holder) lease(n ownNode) (subnet.Lease, error) {
	no := func(format string, args ...any) (subnet.Lease, error) {
		return subnet.Lease{}, &NoLeaseError{Node: h.cfg.Node, Reason: fmt.Sprintf(format, args...)}
	}
	if n.uid == "" {
		return no("it does not exist: it was deleted, or the kubelet has not registered it yet, or under another name than --node-name")
	}
	subnets, err := podCIDRs(n.spec)
	if err != nil {
		return no("%v", err)
	}
	for _, f := range subnet.Families {
		switch on := h.claim.Config.Networks[f].Enabled(); {
		case !on:
			subnets[f] = netip.Prefix{}
		case !subnets[f].IsValid():
			return no("its spec.podCIDRs have no %s subnet, and the network config has %s on: the controller-manager assigns them (--allocate-node-cidrs, --cluster-cidr)", f, f)
		}
	}
	lease := h.claim.Announcement(subnets)
	if err := h.claim.Config.Covers(lease); err != nil {
		return no("%v of the network config, which must be the controller-manager's --cluster-cidr", err)
	}
	for _, f := range subnet.Families {
		if ip, _ := h.override(n, h.names.overwrite[f], f); ip.IsValid() && lease.PublicIPs[f].IsValid() && ip != lease.PublicIPs[f] {
			if !lease.Sources[f].IsValid() {
				lease.Sources[f] = lease.PublicIPs[f]
			}
			lease.PublicIPs[f] = ip
		}
	}
	return lease, h.duplicate(n, lease)
}

// duplicate says that another machine announces itself at our Node: one that
// has the Node's address, as we have not. A machine that was installed anew
// keeps its address, and one that moved is where the Node is.
func (h *holder) duplicate(n ownNode, l subnet.Lease) error {
	other, err := word(n.annotations, h.names.machineID)
	if err != nil || other == "" || l.MachineID == "" || other == l.MachineID {
		return nil
	}
	for _, f := range subnet.Families {
		theirs, err := host(n.annotations, h.names.publicIP[f], f)
		if err != nil || !theirs.IsValid() || theirs != n.internal[f] {
			continue
		}
		if ours := h.claim.PublicIPs[f]; ours != theirs && l.PublicIPs[f] != theirs {
			return fmt.Errorf("%w: Node %s belongs to two machines, this one (public IP %s, machine ID %s) and the one with its InternalIP %s (machine ID %s); register one of them under another name",
				subnet.ErrDuplicate, h.cfg.Node, ours, l.MachineID, theirs, other)
		}
	}
	return nil
}
