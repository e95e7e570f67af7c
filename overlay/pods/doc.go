// Package pods is what the node knows of its own pods: the inventory read from
// the kernel, the sweep of addresses that host-local still reserves for pods
// which are gone, and the gateway addresses of the bridges that pods hang on.
//
// # The inventory
//
// twill-cni writes who a pod is into the alias of the pod's host veth (see
// Format). The alias lives and dies with the veth, so it needs no file, no
// lock and no clean-up, and netlink announces it.
//
// The package imports neither netlink, etcd, Kubernetes nor a logger: the
// kernel is read by functions that the caller hands in.
package pods
