package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend"
)

// Attributes of RTM_NEWNETCONF (linux/netconf.h).
const (
	netconfIndex      = 1
	netconfForwarding = 2
	netconfRPFilter   = 3

	netconfAll     = -1 // as index: conf/all
	netconfDefault = -2
)

// netconf decodes RTM_NEWNETCONF (struct netconfmsg: the family, padded to 4
// bytes) and tells of the sysctls in it.
func (w *watcher) netconf(msg []byte) error {
	values := map[uint16]int32{}
	attrs := after("netconf", msg, 4)
	for attrs.next() {
		values[attrs.typ] = int32(attrs.uint32())
	}
	if attrs.err != nil {
		return attrs.err
	}
	var where string
	switch index := values[netconfIndex]; index {
	case netconfAll:
		where = "all"
	case netconfDefault:
		where = "default"
	default:
		where = w.name(int(index))
	}
	family := map[byte]string{unix.AF_INET: "ipv4", unix.AF_INET6: "ipv6"}[msg[0]]
	if where == "" || family == "" {
		return nil
	}
	tell := func(name string, value int32) {
		s := backend.Sysctl{Name: name, Value: fmt.Sprint(value)}
		w.notify(backend.Event{Key: s.Key(), Object: s})
	}
	dir := "net/" + family + "/conf/" + where + "/"
	if v, ok := values[netconfForwarding]; ok {
		tell(dir+"forwarding", v)
		if dir == "net/ipv4/conf/all/" { // the other name of the same setting
			tell("net/ipv4/ip_forward", v)
		}
	}
	if v, ok := values[netconfRPFilter]; ok {
		tell(dir+"rp_filter", v)
	}
	return nil
}
