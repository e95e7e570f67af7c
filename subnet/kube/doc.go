// Package kube keeps leases in the Kubernetes API, as flannel does: the subnets
// of a node are its Node's spec.podCIDRs, which the controller-manager assigns,
// and what its peers must know stands in annotations of the Node. The network
// config is a file. It must not import netlink, nftables or etcd, nor
// client-go's typed clientset: that alone doubles the binary.
//
// Nodes are listed as a stream, watched and decoded as protobuf, and cut down to
// a lease as soon as they are decoded: a Node is 10 to 20 kB, a lease 300 bytes.
// A change of a Node that changes no lease, a heartbeat above all, goes no
// further.
//
// All that is ever written is the node's own Node: annotations below our prefix,
// and the condition NetworkUnavailable, both by patches of nodes/status. Rights
// to list and watch nodes and to patch nodes/status are all that it needs.
//
// What takes long (WatchConfig, WatchLeases, WatchAddresses, Hold,
// ReportNetwork) waits by itself for an API server that cannot be reached, or
// that refuses, and says so through Config.Health.
package kube
