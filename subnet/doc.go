// Package subnet is the language of leases: the network config, leases and
// their keys and values as flannel writes them, allocation, and the Snapshot
// that settles which peers count. It is pure: it imports neither netlink,
// etcd, Kubernetes nor a logger.
package subnet
