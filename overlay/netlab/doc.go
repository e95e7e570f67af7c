// Package netlab makes the nodes of a cluster on one machine, for the demo and
// for the tests: each node is a process tree with network, mount, UTS and PID
// namespaces of its own, so that /run, /var/lib/twill, /etc/cni, the hostname
// and the machine-id are the node's and every default path works. The nodes
// hang on a bridge in a namespace "lan", which is their router, runs etcd and
// leads to a namespace "outside", a host that knows no pod addresses. The
// machine's own namespaces get no link, address, route, rule or mount.
//
// A node lives as long as its first process (NodeInit). Killing that one
// process makes the kernel end all others of the node and free its namespaces
// (pid_namespaces(7)); the lab's directory is all that remains to be removed.
//
// Netlab configures namespaces the way a person would, with ip(8) and
// nsenter(1). It imports neither netlink nor etcd's server nor anything of
// the daemon, which it knows as a binary only.
package netlab
