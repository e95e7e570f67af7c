// Package boot is the suite of how twilld starts as a service: what it tells
// the service manager and when, with the store or the network late, after a
// reboot of the node, and with no more rights than dist/systemd/twilld.service
// gives it. It has tests only; a socket of the test's own takes the place of
// systemd.
package boot
