package kube

import "flag"

// RegisterFlags adds the flags with flannel's names to fs; c holds the
// defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	fs.BoolVar(&c.Enabled, "kube-subnet-mgr", c.Enabled, "keep leases in the Kubernetes API instead of etcd: the subnets are the Node's spec.podCIDRs")
	fs.StringVar(&c.Kubeconfig, "kubeconfig-file", c.Kubeconfig, "kubeconfig `file` that says how to reach the API server (default: the Pod's service account)")
	fs.StringVar(&c.APIURL, "kube-api-url", c.APIURL, "`URL` of the API server, with the credentials of the kubeconfig or the service account (default: that of the kubeconfig, or of the Pod's environment)")
	fs.StringVar(&c.AnnotationPrefix, "kube-annotation-prefix", c.AnnotationPrefix, "`prefix` of the Nodes' annotations")
	fs.StringVar(&c.NetworkConfig, "net-config-path", c.NetworkConfig, "`file` with the network config, with --kube-subnet-mgr")
	fs.BoolVar(&c.SetUnavailable, "set-node-network-unavailable", c.SetUnavailable, "keep the Node's condition NetworkUnavailable true to the facts")
}
