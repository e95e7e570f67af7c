package guard

import (
	"context"
	"errors"

	"github.com/mdlayher/netlink"

	"github.com/twill-net/twill/backend/hygiene"
)

// WithoutBridge makes the tables those of a kernel without nf_tables for
// bridges.
func (t *Tables) WithoutBridge() *Tables {
	t.probed, t.bridge = true, false
	return t
}

// DecodeElements returns how many elements of ours a message has.
func DecodeElements(data []byte) (int, error) {
	elements, err := decodeElements(netlink.Message{Data: data})
	for _, e := range elements {
		if e.set.role == rolePeers || e.set.role == roleInner {
			e.permit()
		} else {
			_ = e.link()
		}
	}
	return len(elements), err
}

// Find reports whether the kernel has an element of a Permit.
func (t *Tables) Find(ctx context.Context, p hygiene.Permit) error {
	conn, err := t.dial(ctx)
	if err != nil {
		return err
	}
	return errors.Join(find(conn, permitElement(p)), conn.Close())
}
