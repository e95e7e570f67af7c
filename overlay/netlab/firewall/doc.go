// Package firewall is the suite of the rules on the host: real daemons on nodes
// whose firewalls drop what is forwarded, other programs that write to the same
// firewalls, and packets which tell who is seen as whom. It holds tests only.
package firewall
