package bench

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/twill-net/twill/backend/vxlan"
	"github.com/twill-net/twill/subnet"
)

// NetConf has room for 20 000 synthesized peers, below 10.200.0.0, and for the
// lab's own nodes above it.
const NetConf = `{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.200.0.0","SubnetMax":"10.254.255.0","Backend":{"Type":"vxlan"}}`

// subnetsKey is where the leases are, with the default --etcd-prefix.
const subnetsKey = "/coreos.com/network/subnets/"

// leaseTTL is that of flannel's and Twill's leases, seconds.
const leaseTTL = 24 * 3600

// peer is a node that exists in the store only. Another version has another
// public IP and another MAC.
type peer struct{ number, version int }

// peers returns count peers from the number first on, which counts from 1.
func peers(first, count, version int) []peer {
	all := make([]peer, count)
	for i := range all {
		all[i] = peer{first + i, version}
	}
	return all
}

// Peers are Count peers from the number First on.
type Peers struct{ First, Count, Version int }

func (p Peers) all() []peer { return peers(p.First, p.Count, p.Version) }

// maxPeers is how many public IPs a version has.
const maxPeers = 1 << 16

func (p peer) subnet() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(p.number >> 8), byte(p.number), 0}), 24)
}

func (p peer) publicIP() netip.Addr {
	return netip.AddrFrom4([4]byte{172, byte(16 + p.version%16), byte(p.number >> 8), byte(p.number)})
}

func (p peer) mac() subnet.MAC {
	return subnet.MAC{2, 0xbe, byte(p.version), byte(p.number >> 16), byte(p.number >> 8), byte(p.number)}
}

func (p peer) name() string {
	return subnet.EncodeKey(subnet.PerFamily[netip.Prefix]{p.subnet()})
}

func (p peer) key() string { return subnetsKey + p.name() }

// lease returns what the peer has announced: every other one is a flannel
// node, which writes no name.
func (p peer) lease() subnet.Lease {
	l := subnet.Lease{
		Subnets: subnet.PerFamily[netip.Prefix]{p.subnet()}, PublicIPs: subnet.PerFamily[netip.Addr]{p.publicIP()},
		BackendType: "vxlan", BackendData: subnet.PerFamily[string]{vxlan.Data{VNI: 1, VtepMAC: p.mac()}.Encode()},
	}
	if p.number%2 == 0 {
		l.Node, l.MachineID = fmt.Sprintf("peer-%05d", p.number), fmt.Sprintf("%032x", p.number)
	}
	return l
}

// writers is how many of the requests to etcd are under way at once.
const writers = 48

// announce writes the peers' leases as flannel does: each key hangs on an etcd
// lease of its own.
func announce(ctx context.Context, c *clientv3.Client, all []peer) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for _, p := range all {
		g.Go(func() error {
			granted, err := c.Grant(ctx, leaseTTL)
			if err != nil {
				return fmt.Errorf("granting a lease to %s: %w", p.subnet(), err)
			}
			return p.put(ctx, c, granted.ID)
		})
	}
	return g.Wait()
}

func (p peer) put(ctx context.Context, c *clientv3.Client, id clientv3.LeaseID) error {
	value, err := subnet.EncodeValue(p.lease())
	if err == nil {
		_, err = c.Put(ctx, p.key(), string(value), clientv3.WithLease(id))
	}
	if err != nil {
		return fmt.Errorf("putting the lease of %s: %w", p.subnet(), err)
	}
	return nil
}

// txnOps is how many requests go into one transaction: etcd takes 128.
const txnOps = 100

// atOnce makes changes in as few requests as etcd takes: the writer is not what
// is measured.
func atOnce(ctx context.Context, c *clientv3.Client, ops []clientv3.Op) error {
	var g errgroup.Group
	for part := range slices.Chunk(ops, txnOps) {
		g.Go(func() error {
			_, err := c.Txn(ctx).Then(part...).Commit()
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("writing %d leases at once: %w", len(ops), err)
	}
	return nil
}

// puts returns the requests that write the leases of peers below a prefix.
func puts(all []peer, prefix string, id clientv3.LeaseID) ([]clientv3.Op, error) {
	ops := make([]clientv3.Op, len(all))
	for i, p := range all {
		value, err := subnet.EncodeValue(p.lease())
		if err != nil {
			return nil, err
		}
		ops[i] = clientv3.OpPut(prefix+p.name(), string(value), clientv3.WithLease(id))
	}
	return ops, nil
}

// withdraw revokes the peers' leases, as when they expire.
func withdraw(ctx context.Context, c *clientv3.Client, all []peer) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for _, p := range all {
		g.Go(func() error {
			if _, err := c.Delete(ctx, p.key()); err != nil {
				return fmt.Errorf("deleting the lease of %s: %w", p.subnet(), err)
			}
			return nil
		})
	}
	return g.Wait()
}
