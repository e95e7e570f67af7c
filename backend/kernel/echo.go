package kernel

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// dropEchoes has the kernel keep from s what the socket with that port ID did
// to routes and neighbours: 40 000 notifications at the start of a node with
// 20 000 peers. FDB entries of VXLAN devices do not say who wrote them
// (vxlan_fdb_info in drivers/net/vxlan/vxlan_core.c has nlmsg_pid 0),
// a deleted neighbour neither (neigh_remove_one in net/core/neighbour.c); what is
// told of links and addresses we need ourselves.
func (s *socket) dropEchoes(port uint32) error {
	// Classic BPF (Documentation/networking/filter.rst) loads in network byte
	// order what the header has in the host's.
	typ := func(t uint16) uint32 { return uint32(binary.BigEndian.Uint16(native.AppendUint16(nil, t))) }
	const load, jump, end = unix.BPF_LD | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	program := []unix.SockFilter{
		{Code: load | unix.BPF_H, K: 4}, // nlmsg_type
		{Code: jump, K: typ(unix.RTM_NEWROUTE), Jt: 3},
		{Code: jump, K: typ(unix.RTM_DELROUTE), Jt: 2},
		{Code: jump, K: typ(unix.RTM_NEWNEIGH), Jt: 1},
		{Code: jump, K: typ(unix.RTM_DELNEIGH), Jf: 3},
		{Code: load | unix.BPF_W, K: 12}, // nlmsg_pid
		{Code: jump, K: binary.BigEndian.Uint32(native.AppendUint32(nil, port)), Jf: 1},
		{Code: end, K: 0},
		{Code: end, K: 1<<32 - 1},
	}
	err := s.set(func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
	if err != nil {
		return fmt.Errorf("setting the filter of a netlink socket: %w", err)
	}
	return nil
}

// carry notes that a route of ours leaves by an interface.
func (k *Kernel) carry(index int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.carriers[index] = true
}

// carries reports whether a route of ours left by that interface; once it is
// gone, no more.
func (k *Kernel) carries(index int, gone bool) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	carries := k.carriers[index]
	if gone {
		delete(k.carriers, index)
	}
	return carries
}
