// Package kube makes a Kubernetes cluster on one machine, of real parts only:
// etcd, kube-apiserver, kube-controller-manager and kube-scheduler, and on each
// node containerd, runc, kubelet and kube-proxy. Nodes are those of package
// netlab, with network, mount, UTS and PID namespaces of their own; the lan is
// their router and runs etcd, the control plane is on node1, and the host
// "outside" is where people, kubectl and clients of NodePorts are.
//
// Nodes start as a new machine does: with an empty /etc/cni/net.d and
// /opt/cni/bin, and without forwarding. They become Ready by what is installed
// with kubectl, from images that were imported into each node's containerd, as
// in a cluster without a registry.
//
// Nothing runs outside the namespaces, and no traffic leaves them. When the
// program that has made a cluster ends or is killed, the cluster goes with all
// that it has made: processes, namespaces, cgroups and files. Detach leaves it
// running; netlab.Down ends it then.
//
// What it costs: the first build of all programs takes 15 to 20 minutes of two
// cores and is kept in .cache/kubernetes; a cluster of three nodes is up after
// about half a minute, and needs 2 GB of memory and 2 GB of disk.
//
// The package knows Twill as an image and a manifest only. It imports neither
// netlink nor the typed Kubernetes clients nor anything of the daemon.
package kube
