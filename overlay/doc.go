// Package overlay is the agent of one node: it joins the store's leases, the
// planner of the backend and the kernel. Whatever happens, a lease event, a
// notification of the kernel or a timer, only marks something dirty; one
// goroutine compares what is wanted with what is there and closes the gap.
//
// It defines the interfaces that it consumes, and imports neither etcd,
// Kubernetes nor netlink.
package overlay
