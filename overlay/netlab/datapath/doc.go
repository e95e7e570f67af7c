// Package datapath is the suite of the data path over several nodes: real
// daemons in namespaces of their own, pods wired by CNI, an etcd, and packets
// that are sent and counted. It holds tests only, and what they say must hold
// whatever the daemon is made of: they know it by its flags, its network
// config, subnet.env, its status, and by what ip(8), bridge(8) and ping(8)
// show.
package datapath
