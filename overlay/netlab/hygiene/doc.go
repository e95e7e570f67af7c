// Package hygiene is the suite of attacks: real daemons on several nodes, and
// packets that strangers, peers and pods send to get in where they may not.
// Each attack is made again without hygiene, where it must succeed, so that one
// which would never arrive anyhow proves nothing. It holds tests only.
package hygiene
