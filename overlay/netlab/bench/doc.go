// Package bench measures the daemon and the data path in a lab, beside the
// limit of the machine, and beside a peer daemon (flannel's) where that is
// given: `make bench`. Everything it touches is inside namespaces of the lab.
// It must not import netlink: it watches and writes through backend/kernel, or
// by running ip and bridge.
package bench
