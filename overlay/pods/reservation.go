package pods

import (
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/utils"
)

// Reservation is an address that host-local has given out: a file of that name
// in the network's directory which holds the container ID, CR LF, and the
// interface's name (plugins/ipam/host-local/backend/disk). Before host-local
// 0.8 it held the container ID alone.
type Reservation struct {
	Network   string
	Address   netip.Addr
	Container string // "" when the file does not tell it: cut off by a power loss, say
	IfName    string // "" when the file does not tell it
	Modified  time.Time
}

// maxReservation bounds what is read of a file, in bytes. Of a longer one the
// container is not told.
const maxReservation = 4096

// parseReservation reads a file of a network's directory. It reports false for
// one that is no reservation: lock, last_reserved_ip.0.
func parseReservation(network, file string, content []byte) (Reservation, bool) {
	a, err := netip.ParseAddr(file)
	if err != nil || a.Is4In6() || a.Zone() != "" || a.String() != file {
		return Reservation{}, false
	}
	r := Reservation{Network: network, Address: a}
	if len(content) > maxReservation {
		return r, true
	}
	id, ifName, both := strings.Cut(strings.TrimSpace(string(content)), "\r\n")
	if utils.ValidateContainerID(id) == nil && (!both || isIfName(ifName)) {
		r.Container, r.IfName = id, ifName
	}
	return r, true
}

// readReservations returns the reservations in a network's directory, in no
// particular order. One that goes meanwhile is left out.
func readReservations(root *os.Root, network string) ([]Reservation, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var all []Reservation
	for _, e := range entries {
		if _, named := parseReservation(network, e.Name(), nil); !named || !e.Type().IsRegular() {
			continue
		}
		content, info, err := readFile(root, e.Name())
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		r, _ := parseReservation(network, e.Name(), content)
		r.Modified = info.ModTime()
		all = append(all, r)
	}
	return all, nil
}

func readFile(root *os.Root, name string) ([]byte, fs.FileInfo, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	content, err := io.ReadAll(io.LimitReader(f, maxReservation+1))
	return content, info, err
}

// heldBy reports whether r belongs to p. The network is not asked: a container
// has one interface of a name, whatever network it is in.
func (r Reservation) heldBy(p Pod) bool {
	if p.Addresses[0] == r.Address || p.Addresses[1] == r.Address {
		return true
	}
	return r.Container != "" && p.Container == Named("", r.Container, "").Container &&
		(r.IfName == "" || r.IfName == p.IfName)
}
