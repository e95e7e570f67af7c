// Package pods is what the node knows of its own pods: the inventory read from
// the kernel, the sweep of addresses that host-local still reserves for pods
// which are gone, and the gateway addresses of the bridges that pods hang on.
//
// # The inventory
//
// twill-cni writes who a pod is into the alias of the pod's host veth (see
// Format). The alias lives and dies with the veth, so it needs no file, no
// lock and no clean-up, and netlink announces it. Of a veth without an alias
// the kernel tells the addresses in the namespace at its other end (Take).
//
// # The sweep
//
// A crash or a reboot leaves host-local's files behind. A reservation is
// released if, under host-local's own lock,
//
//   - its network is ours and ours alone, with a delegate whose pods have a
//     veth here (Networks);
//   - it is older than MinAge;
//   - no veth has an alias with its container and interface, or its address;
//   - its address, and any other of its attachment, is on no interface behind
//     a veth without an alias;
//   - and there is no veth that may lead to its pod: without an alias, and with
//     nothing on its other end that tells whose it is (Inventory.Unknown). Only
//     a veth as old as the reservation may; a Sweeper remembers which came
//     later.
//
// Such a reservation has no pod: the bridge plugin makes the veth before it
// asks for the address, and host-local reserves it under the lock. So whoever
// holds the lock and then reads the links finds a veth for each reservation
// whose ADD is under way or done, however long that takes and whatever the
// clock does in the meantime; the address is then known by alias or by what is
// behind the veth, or the veth is unknown and the address stays. The other end
// of a veth without an alias has no address until the plugin puts there the
// first of those reserved for the attachment, which holds the others; IPv6
// addresses that a router's advertisement makes there do not count. So a veth
// with others' addresses on its other end is of somebody else, and one with
// others' addresses on our end is a link of the host. The ptp
// plugin asks for the address first. There the age alone protects an ADD, and
// it must have passed by the monotonic clock while a Sweeper looked on.
//
// After a reboot there are no veths, so everything of the time before goes at
// the first sweep. Pods made by flannel, or by a twill-cni that wrote no alias,
// keep their addresses because these are behind their veths.
//
// What else an attachment that is gone has left (host ports, above all: they
// would lead to the next pod that gets the address) is cleared away before its
// addresses are released (Leftovers; package leftover does it). A cached result
// whose reservation is gone already is held to the same bar.
//
// The package imports neither netlink, etcd, Kubernetes nor a logger: the
// kernel is read by functions that the caller hands in.
package pods
