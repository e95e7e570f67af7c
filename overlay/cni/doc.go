// Package cni is what the CNI plugin does: it turns the request of a container
// runtime and subnet.env into the config of a delegate plugin, by default
// bridge with host-local, and runs that. Fields and meanings are those of
// flannel's plugin; the type is "twill".
//
// The delegate's config is a pure function of stdin and subnet.env, so nothing
// is remembered from ADD to DEL: host-local and bridge know a pod by container
// and interface. One thing cannot be asked again later, whether the delegate
// masqueraded for a pod whose network has changed since. An empty file
// <dataDir>/<name>.ipmasq says that it ever did; it is there or it is not, so
// a power loss cannot leave it half-written, and where twilld masquerades
// (--ip-masq) it is never made.
//
// The package imports neither netlink, etcd, Kubernetes nor a logger: it runs
// once for each pod and shall start fast.
package cni
