// Package chain is the suite of the plugins that follow ours in
// dist/cni-conf/10-twill.conflist: host ports and bandwidth, by packets, on
// nodes with a running daemon and the real plugins. It holds tests only.
package chain
