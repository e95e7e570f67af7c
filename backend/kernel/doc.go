// Package kernel shows the model of package backend in the Linux kernel:
// Observe reads what carries our mark, Apply changes it, Watch tells what
// others change. It is the only package of the daemon that imports netlink;
// net.IP, interface indexes and namespaces do not leave it. It imports neither
// etcd, Kubernetes, nftables nor a logger.
//
// Our mark is: VXLAN devices by the pattern of their name, what is permanent
// on them (addresses, neighbours, FDB entries), and routes of our protocol
// number in the main table. Everything else is the host's, and only read.
package kernel
