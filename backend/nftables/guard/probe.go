package guard

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/hygiene"
	"github.com/twill-net/twill/backend/internal/nfnetlink"
)

const requirement = "this needs a kernel with nf_tables for family inet: Linux 5.2 or newer with CONFIG_NF_TABLES_INET"

// Supported returns nil when the kernel can hold both tables; hygiene.ErrNoBridge when
// it can hold that of the VTEP alone, and Observe, Apply and Watch then mean
// that one; and another error, which says what is missing, when it can hold
// neither. It changes nothing.
func (t *Tables) Supported(ctx context.Context) error {
	err := t.probe(ctx, vtep(), pods())
	t.mu.Lock()
	t.probed, t.bridge = err == nil, err == nil // anew: a module may have been loaded
	t.mu.Unlock()
	if err == nil {
		return nil
	}
	if err := t.probe(ctx, vtep()); err != nil {
		return err
	}
	tables, err := t.tables(ctx)
	if err == nil && len(tables) == 1 {
		return hygiene.ErrNoBridge
	}
	return err
}

// probe returns nil when the kernel can hold tables like ours.
func (t *Tables) probe(ctx context.Context, like ...nfnetlink.Table) error {
	var steps []nfnetlink.Step
	for _, l := range like {
		what := "a table like " + describe(l)
		chain := nfnetlink.Chain{
			Table: nfnetlink.Table{Family: l.Family, Name: "twill-probe"}, Name: "prerouting",
			Hook: nfnetlink.Hook{Type: string(nftables.ChainTypeFilter), Number: unix.NF_INET_PRE_ROUTING},
		}
		steps = append(steps, nfnetlink.StepTable(what, chain.Table), nfnetlink.StepChain(what, chain))
	}
	if err := nfnetlink.Probe(ctx, t.cfg.NetNS, steps...); err != nil {
		return fmt.Errorf("%w%s", err, advice(err))
	}
	return nil
}

// unsupported reports whether an error says that the kernel lacks something.
func unsupported(err error) bool {
	for _, errno := range []unix.Errno{
		unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ENOENT, unix.EINVAL,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// advice says what to do about an error of the kernel, or nothing.
func advice(err error) string { return nfnetlink.Advice(err, requirement) }
