package firewall

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twill-net/twill/backend/iptables"
	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/subnet"
)

// mode is where the rules proper are.
type mode struct {
	iptables bool
	variant  iptables.Variant // with iptables
	instead  bool             // of iptables, which this host does not have
}

// String returns "nftables", "iptables-nft" or "iptables-legacy", or why it is
// the first of them.
func (m mode) String() string {
	switch {
	case m.instead:
		return "nftables, as there is no iptables here, which EnableNFTables=false asks for"
	case !m.iptables:
		return "nftables"
	case m.variant == iptables.Legacy:
		return "iptables-legacy"
	}
	return "iptables-nft"
}

// ParseAsked reads --firewall.
func ParseAsked(s string) (masq.Renderer, error) {
	switch s {
	case "auto":
		return masq.AnyRenderer, nil
	case "nftables":
		return masq.NFTables, nil
	case "iptables":
		return masq.IPTables, nil
	}
	return masq.AnyRenderer, errors.New("not auto, nftables or iptables")
}

// choose says who is to hold the rules.
func (f *Firewall) choose(ctx context.Context, config masq.Renderer) (mode, error) {
	asked, by := f.cfg.Asked, "--firewall"
	if asked == masq.AnyRenderer {
		asked, by = config, "EnableNFTables in the network config"
	}
	switch asked {
	case masq.NFTables:
		if err := f.nftables(ctx); err != nil {
			return mode{}, fmt.Errorf("nftables, asked for by %s, cannot be used: %w", by, err)
		}
		return mode{}, nil
	case masq.IPTables:
		v, ok := f.host.Own()
		// A container has no iptables, and flannel's ConfigMap has EnableNFTables
		// false as it comes: the config of a whole cluster cannot know.
		if !ok && f.cfg.Asked == masq.AnyRenderer && f.hostErr == nil && f.nftables(ctx) == nil {
			return mode{instead: true}, nil
		}
		if !ok {
			return mode{}, fmt.Errorf("iptables, asked for by %s, cannot be used: %w", by, f.noIPTables())
		}
		return mode{iptables: true, variant: v}, nil
	default:
		err := f.nftables(ctx)
		if err == nil {
			return mode{}, nil
		}
		v, ok := f.host.Own()
		if !ok {
			return mode{}, fmt.Errorf("no firewall can hold the rules: %w; %w", err, f.noIPTables())
		}
		return mode{iptables: true, variant: v}, nil
	}
}

func (f *Firewall) nftables(ctx context.Context) error {
	if f.supported {
		return nil
	}
	err := f.table.Supported(ctx)
	f.supported = err == nil // a kernel does not unlearn it
	return err
}

func (f *Firewall) noIPTables() error {
	if f.hostErr != nil {
		return f.hostErr
	}
	return errors.New("iptables, with iptables-restore, is not in PATH: install it (mostly package iptables)")
}

// detect looks which binaries of iptables there are.
func (f *Firewall) detect(ctx context.Context) {
	f.installed, f.detected = iptables.Installed(), time.Now()
	h, err := iptables.Detect(ctx)
	f.host, f.hostErr = &h, err
	f.chains = map[iptables.Variant]*iptables.Chains{}
	for _, v := range iptables.Variants {
		f.chains[v] = iptables.New(h, v)
	}
	may := h.Has(iptables.Legacy, subnet.IPv4) || h.Has(iptables.Legacy, subnet.IPv6)
	if f.mayLegacy.Swap(may) != may {
		f.turn()
	}
}

// outdated reports whether it makes sense to detect again what was found to be
// missing or not to run: when the binaries are others than then, or in case one
// failed for want of memory or the like, now and then.
func (f *Firewall) outdated() bool {
	if f.hostErr == nil && !f.missing {
		return false
	}
	return iptables.Installed() != f.installed || f.hostErr != nil && time.Since(f.detected) > detectAgain
}

const detectAgain = 30 * time.Second

// has tells for which families the binaries of a variant are there.
func (f *Firewall) has(v iptables.Variant) (has subnet.PerFamily[bool]) {
	for _, family := range subnet.Families {
		has[family] = f.host.Has(v, family)
	}
	return has
}

func (f *Firewall) hasAll(v iptables.Variant) bool {
	return f.has(v) == subnet.PerFamily[bool]{true, true}
}
