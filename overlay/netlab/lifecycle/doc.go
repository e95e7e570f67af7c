// Package lifecycle is the suite of what happens to a cluster in its life:
// nodes restart, reboot, move and leave, the store is away, compacted or holds
// nonsense, somebody else changes the kernel's state. It has tests only. They
// run the real twilld on the nodes of netlab and judge it from outside, by
// packets between pods, by what ip(8), bridge(8) and nft(8) show of the kernel,
// by what stands in etcd, and by what the daemon says of itself. It imports
// nothing of the daemon but the form of its status.
//
// TWILL_LONG=1 in the environment makes the outage of the store last for a
// minute instead of a few seconds.
package lifecycle
