// Package install puts what a node needs onto its file system, from an image
// that is not the node's own: the CNI plugins, and the network config that
// tells the container runtime of them. Each file is replaced at once, so that
// a runtime never runs half a plugin nor reads half a config. It prepares a host
// for a daemon that may not do so itself, and takes all of it away again. It
// must not import the reconciler, stores or netlink.
package install
