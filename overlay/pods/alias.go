package pods

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containernetworking/cni/pkg/utils"

	"github.com/twill-net/twill/subnet"
)

// Pod is one attachment of a container to a network of ours, as the alias of
// its host veth has it. It is comparable.
type Pod struct {
	Network   string // the CNI network's name, in the form of Name
	Container string // the CNI container ID, in the form of Name
	IfName    string // the interface in the pod
	Addresses subnet.PerFamily[netip.Addr]
	Link      string // the host veth; not part of the alias
	Bridge    string // whose port Link is, "" for none or a VRF; not part of the alias
}

// AliasSize is the longest alias in bytes: the kernel's IFALIASZ with its
// terminating zero (include/uapi/linux/if.h, net/core/dev.c).
const AliasSize = 255

// Lengths up to which names are written as they are. With the mark (6), the
// slashes (4), an interface name (15) and two addresses (15, 39) they make
// AliasSize, so that every alias fits, whatever the other fields are.
const (
	maxNetwork   = 64
	maxContainer = 112
)

const (
	mark       = "twill:"
	digestMark = "~" // no CNI name has it
	digestSize = 16  // bytes of SHA-256
)

// Named returns a Pod with the names in the form that Format writes and Parse
// returns: a network's name of more than 64 bytes and a container ID of more
// than 112 (runtimes use 64) become "~" and 32 hexadecimal digits of their
// SHA-256. To find the pod of a container, compare with what Named returns.
func Named(network, container, ifName string) Pod {
	return Pod{Network: shorten(network, maxNetwork), Container: shorten(container, maxContainer), IfName: ifName}
}

func shorten(name string, limit int) string {
	if len(name) <= limit {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return digestMark + hex.EncodeToString(sum[:digestSize])
}

// Is reports whether p is that attachment of that container.
func (p Pod) Is(network, container, ifName string) bool {
	n := Named(network, container, ifName)
	return p.Network == n.Network && p.Container == n.Container && p.IfName == n.IfName
}

// Format returns the alias for the pod's host veth,
//
//	twill:<network>/<container>/<ifname>/<IPv4 address>/<IPv6 address>
//
// at most AliasSize bytes. An address that the pod has not is empty. The
// error names the field that cannot be written: names are those of the CNI
// spec ([a-zA-Z0-9][a-zA-Z0-9_.-]*), addresses are unicast and have no zone.
func Format(p Pod) (string, error) {
	whole := p
	p.Network, p.Container = shorten(p.Network, maxNetwork), shorten(p.Container, maxContainer)
	err := p.validate()
	if err == nil && p != whole {
		err = whole.validateNames()
	}
	if err != nil {
		return "", fmt.Errorf("writing the alias of a pod: %w", err)
	}
	var b strings.Builder
	b.WriteString(mark + p.Network + "/" + p.Container + "/" + p.IfName)
	for _, a := range p.Addresses {
		b.WriteByte('/')
		if a.IsValid() {
			b.WriteString(a.String())
		}
	}
	return b.String(), nil
}

// Ours reports whether an alias has our mark. One that has and that Parse
// refuses was written by another version or by a person.
func Ours(alias string) bool { return strings.HasPrefix(alias, mark) }

// Parse reads what Format writes and nothing else: Format of the result is
// alias again. Link and Bridge are for the caller.
func Parse(alias string) (Pod, error) {
	p, err := parse(alias)
	if err != nil {
		return Pod{}, fmt.Errorf("reading the alias %.300q: %w", alias, err)
	}
	return p, nil
}

func parse(alias string) (Pod, error) {
	rest, ok := strings.CutPrefix(alias, mark)
	if !ok {
		return Pod{}, fmt.Errorf("it does not begin with %s", mark)
	}
	fields := strings.Split(rest, "/")
	const names = 3
	if len(fields) != names+len(subnet.Families) {
		return Pod{}, fmt.Errorf("it has %d fields; want network, container, interface and one address for each family", len(fields))
	}
	p := Pod{Network: fields[0], Container: fields[1], IfName: fields[2]}
	for _, f := range subnet.Families {
		text := fields[names+int(f)]
		if text == "" {
			continue
		}
		a, err := netip.ParseAddr(text)
		if err != nil || a.String() != text {
			return Pod{}, fmt.Errorf("%q is not an address in its usual form", text)
		}
		p.Addresses[f] = a
	}
	return p, p.validate()
}

// validate reports the first field that no alias has.
func (p Pod) validate() error {
	if err := p.validateNames(); err != nil {
		return err
	}
	if len(p.Network) > maxNetwork || len(p.Container) > maxContainer {
		return fmt.Errorf("%q or %q is longer than an alias has it", p.Network, p.Container)
	}
	if !isIfName(p.IfName) {
		return fmt.Errorf("%q is not the name of an interface", p.IfName)
	}
	for _, f := range subnet.Families {
		a := p.Addresses[f]
		if a.IsValid() && (a.BitLen() != f.Bits() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast()) {
			return fmt.Errorf("%s is not the %s address of a pod", a, f)
		}
	}
	return nil
}

func (p Pod) validateNames() error {
	if !isDigest(p.Network) && utils.ValidateNetworkName(p.Network) != nil {
		return fmt.Errorf("%q is not the name of a network", p.Network)
	}
	if !isDigest(p.Container) && utils.ValidateContainerID(p.Container) != nil {
		return fmt.Errorf("%q is not a container ID", p.Container)
	}
	return nil
}

// isIfName holds the CNI spec's rules for CNI_IFNAME, and that it is text: the
// alias is shown to people.
func isIfName(s string) bool {
	unprintable := func(r rune) bool { return !unicode.IsPrint(r) }
	return utils.ValidateInterfaceName(s) == nil && utf8.ValidString(s) && strings.IndexFunc(s, unprintable) < 0
}

func isDigest(name string) bool {
	digits, ok := strings.CutPrefix(name, digestMark)
	raw, err := hex.DecodeString(digits)
	return ok && err == nil && len(raw) == digestSize && digits == strings.ToLower(digits)
}
