// Package envfile reads and writes subnet.env, the file in which a node's
// daemon tells the CNI plugin, k3s and Docker helpers which subnet the node
// holds. Keys and syntax are flannel's:
//
//	FLANNEL_NETWORK=10.5.0.0/16
//	FLANNEL_SUBNET=10.5.52.1/24
//	FLANNEL_IPV6_NETWORK=fd00:5::/48
//	FLANNEL_IPV6_SUBNET=fd00:5:0:52::1/64
//	FLANNEL_MTU=1450
//	FLANNEL_IPMASQ=true
//
// One family is enough; its two keys come together. The NETWORK keys take
// several CIDRs separated by commas. The last line is the last to be written
// and is required, so a file that was cut off never parses.
//
// The package imports neither netlink, etcd, Kubernetes nor a logger.
package envfile
