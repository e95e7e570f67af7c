package main

import (
	"context"
	"os"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/underlay"
	"github.com/twill-net/twill/subnet/etcd"
	"github.com/twill-net/twill/subnet/kube"
)

// store is a store as main needs it.
type store interface {
	overlay.Store
	// Position returns how far the store's history has come by what it has
	// told, and Resume takes that of an earlier run.
	Position() string
	Resume(position string) error
	Close() error
}

// open makes the store that the flags choose, and has cfg say what goes with it.
// health brings what it says of its connection.
func (o *options) open(cfg *overlay.Config, log *logrus.Entry) (s store, health <-chan overlay.StoreHealth, err error) {
	tell, health := overlay.NewStoreHealth()
	if o.kube.Enabled {
		s, err = o.openKube(cfg, log, tell)
	} else {
		s, err = o.openEtcd(cfg, log, tell)
	}
	return s, health, err
}

func (o *options) openKube(cfg *overlay.Config, log *logrus.Entry, health func(error)) (store, error) {
	o.kube.Node, o.kube.Logger, o.kube.Health = cfg.Node, log, health
	s, err := kube.New(o.kube)
	if err != nil {
		return nil, err
	}
	cfg.StoreName, cfg.ReportNetwork = s.Name(), s.ReportNetwork
	cfg.NoConfig = "it is to be in " + o.kube.NetworkConfig + " (--net-config-path), from the ConfigMap"
	cfg.Announce = s.ReportEvents
	cfg.NodeAddresses = func(ctx context.Context, tell func(underlay.Node)) error {
		return s.WatchAddresses(ctx, func(a kube.Addresses) { tell(underlay.Node(a)) })
	}
	return s, nil
}

func (o *options) openEtcd(cfg *overlay.Config, log *logrus.Entry, health func(error)) (store, error) {
	o.etcd.Logger, o.etcd.Health = log, health
	s, err := etcd.New(o.etcd)
	if err != nil {
		return nil, err
	}
	cfg.LeaseTTL, cfg.NoConfig = o.etcd.LeaseTTL, "write one with twill config set FILE"
	cfg.StoreName = "etcd " + strings.Join(slices.Sorted(slices.Values(o.etcd.Endpoints)), ",") + " " + o.etcd.Prefix
	return s, nil
}

// inCluster takes the Node's name from where flannel's manifests put it, unless
// --node-name is given. The kubelet registers a host's name in lower case.
func (o *options) inCluster(given bool) {
	if given || !o.kube.Enabled {
		return
	}
	o.nodeName = strings.ToLower(o.nodeName)
	if name := os.Getenv("NODE_NAME"); name != "" {
		o.nodeName = name
	}
}
