// Package cni is what the CNI plugin does: it turns the request of a container
// runtime and subnet.env into the config of a delegate plugin, by default
// bridge with host-local, and runs that. Fields and meanings are those of
// flannel's plugin; the type is "twill".
//
// Nothing is kept between ADD and DEL but what the kernel, host-local and the
// runtime keep anyway: the delegate's config is a function of stdin and
// subnet.env; host-local and bridge know a pod by container and interface; who
// a pod is stands in the alias of its host veth (package overlay/pods), written
// last, when ADD has succeeded; and the rules of a delegate that masquerades
// are found by name, as are those of its macspoofchk, but these by DEL alone: GC
// cannot tell by their names whose network they are.
//
//   - ADD waits for subnet.env, runs the delegate and writes the alias.
//   - CHECK compares link, addresses, routes, MTU, alias, bridge port and
//     gateway with the result of ADD, and then has the delegate do so.
//   - DEL needs neither subnet.env, prevResult nor the namespace.
//   - STATUS asks for subnet.env, the plugins and the VXLAN device, and not for
//     twilld.
//   - GC releases what is neither in the runtime's list nor in the kernel.
//
// A delegate does not outlive the plugin, which a runtime may kill.
//
// The package imports neither etcd, Kubernetes nor a logger, and netlink by way
// of backend/kernel alone: it runs twice for each pod and shall start fast.
package cni
