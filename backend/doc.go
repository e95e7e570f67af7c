// Package backend is the model of what Twill wants in the kernel and of what
// it sees there: comparable objects, the Diff between two states, and the
// order in which changes are applied. It is pure: it imports neither netlink,
// etcd, Kubernetes nor a logger.
package backend
