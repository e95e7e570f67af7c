// Package etcd keeps leases in etcd v3, under flannel's keys: the network
// config in <prefix>/config, one lease in each <prefix>/subnets/10.5.52.0-24.
// It must not import netlink, nftables or Kubernetes, nor etcd's server.
//
// A node's key hangs on one etcd lease, which is kept alive instead of the key
// being written again; a key without one is a reservation and stays for ever.
// Every write is a transaction on what was read before: nothing of another
// node's is ever overwritten.
//
// What takes long (WatchConfig, WatchLeases, Hold) waits by itself for an etcd
// that cannot be reached, and says so through Config.Health.
package etcd
