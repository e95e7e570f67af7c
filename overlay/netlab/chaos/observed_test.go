package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

// link is what `ip -j -d link` and `ip -j address` tell of our devices.
type link struct {
	Ifname, Address string
	MTU             int
	Flags           []string
	Linkinfo        struct {
		Kind string `json:"info_kind"`
		Data struct {
			ID       int
			Port     int
			Local    string
			Local6   string
			Link     string
			Learning bool
		} `json:"info_data"`
	}
	AddrInfo []struct {
		Local     string
		Prefixlen int
		Scope     string
	} `json:"addr_info"`
}

// checkLinks checks the devices and their addresses, and that there is none
// too many.
func (m *member) checkLinks(ctx context.Context) error {
	out, err := m.sh(ctx, "ip -j -d address show type vxlan")
	if err != nil {
		return err
	}
	var links []link
	if err := json.Unmarshal([]byte(out), &links); err != nil {
		return fmt.Errorf("reading ip's output: %w", err)
	}
	var have, want []string
	for _, l := range links {
		if !strings.HasPrefix(l.Ifname, "twill") {
			continue
		}
		d := l.Linkinfo.Data
		have = append(have, fmt.Sprintf("%s mtu %d address %s vni %d port %d local %s dev %s learning %v up %v", l.Ifname, l.MTU, l.Address,
			d.ID, d.Port, d.Local+d.Local6, d.Link, d.Learning, slices.Contains(l.Flags, "UP")))
		for _, a := range l.AddrInfo {
			if a.Scope != "link" {
				have = append(have, fmt.Sprintf("%s address %s/%d", l.Ifname, a.Local, a.Prefixlen))
			}
		}
	}
	for tunnel, dev := range netlabtest.Devices {
		f := subnet.Family(tunnel)
		want = append(want, fmt.Sprintf("%s mtu %d address %s vni 1 port 8472 local %s dev eth0 learning false up true", dev,
			subnet.PerFamily[int]{1450, 1430}[f], m.record.MAC(f), m.record.Announced(f)))
		for _, p := range m.record.Subnets {
			want = append(want, fmt.Sprintf("%s address %s/%d", dev, p.Addr(), p.Addr().BitLen()))
		}
	}
	if err := netlabtest.EqualLines(want, have); err != nil {
		return fmt.Errorf("its devices: %w", err)
	}
	return nil
}

var (
	setOf    = regexp.MustCompile(`(?s)set ([a-z0-9-]+) \{.*?\n\t\}`)
	elements = regexp.MustCompile(`(?s)elements = \{(.*?)\}`)
	iface    = regexp.MustCompile(`"veth[0-9a-f]+"`)
)

// checkRules compares the three tables with what follows from lease, peers and
// pods. All but the sets' elements is the same on every node, once its subnets
// are blanked.
func (w *world) checkRules(ctx context.Context, m *member, peers []netlabtest.Record) error {
	text, err := m.sh(ctx, "for t in 'inet twill' 'inet twill-vtep' 'bridge twill-pods'; do nft -s list table $t; done")
	if err != nil {
		return err
	}
	if len(peers) == 0 {
		return nil // some sets are missing
	}
	var have []string
	shape := setOf.ReplaceAllStringFunc(text, func(set string) string {
		name := setOf.FindStringSubmatch(set)[1]
		if at := elements.FindStringSubmatch(set); at != nil {
			for e := range strings.SplitSeq(at[1], ",") {
				have = append(have, name+": "+iface.ReplaceAllString(strings.Join(strings.Fields(e), " "), "veth"))
			}
		}
		return "set " + name
	})
	for f, p := range m.record.Subnets {
		shape = strings.ReplaceAll(shape, p.String(), fmt.Sprintf("<own subnet %d>", f))
	}
	want := w.wantedElements(m, peers)
	if err := netlabtest.EqualLines(want, have); err != nil {
		return fmt.Errorf("its sets: %w", err)
	}
	if len(want) != len(have) {
		return fmt.Errorf("its sets: %d elements and not %d:\n%s", len(have), len(want), strings.Join(have, "\n"))
	}
	blocks := strings.Split(shape, "\n\n")
	for i, b := range blocks {
		lines := strings.Split(b, "\n")
		if strings.HasPrefix(strings.TrimSpace(lines[0]), "set ") || strings.HasPrefix(strings.TrimSpace(lines[0]), "table") {
			slices.Sort(lines) // sets are in no order
		}
		blocks[i] = strings.Join(lines, "\n")
	}
	slices.Sort(blocks)
	shape = strings.Join(blocks, "\n")
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.shape == "" {
		w.shape = shape
	}
	if err := netlabtest.EqualLines(strings.Split(w.shape, "\n"), strings.Split(shape, "\n")); err != nil {
		return fmt.Errorf("its rules: %w", err)
	}
	if len(shape) != len(w.shape) {
		return errors.New("its rules: a line is there twice:\n" + shape)
	}
	return nil
}

// wantedElements lists what the sets must hold, as "set: element".
func (w *world) wantedElements(m *member, peers []netlabtest.Record) (want []string) {
	add := func(format string, args ...any) { want = append(want, fmt.Sprintf(format, args...)) }
	for _, r := range peers {
		for _, outer := range subnet.Families {
			add("peers-%s: %s", lower(outer), r.Announced(outer))
			for inner, p := range r.Subnets {
				add("%s-%d-in-%s: %s . %s", lower(subnet.Family(inner)), p.Bits(), lower(outer), r.Announced(outer), p.Addr())
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range m.pods {
		for range 2 { // in both tables
			add("pod-ports: veth")
			for _, f := range subnet.Families {
				add("pods-%s: veth . %s", lower(f), p.Addrs[f])
			}
		}
	}
	return want
}

func lower(f subnet.Family) string { return strings.ToLower(f.String()) }
