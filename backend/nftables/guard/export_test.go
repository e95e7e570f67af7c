package guard

import "github.com/mdlayher/netlink"

// WithoutBridge makes the tables those of a kernel without nf_tables for
// bridges.
func (t *Tables) WithoutBridge() *Tables {
	t.probed, t.bridge = true, false
	return t
}

// DecodeElements returns how many elements of ours a message has.
func DecodeElements(data []byte) (n int, err error) {
	err = decodeElements(netlink.Message{Data: data}, func(e *element) {
		n++
		if e.ofPod() {
			_ = e.link()
		} else {
			e.permit()
		}
	})
	return n, err
}
