package chain

import (
	"fmt"
	"math"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/netlab/netlabtest"
	"github.com/twill-net/twill/subnet"
)

const sinkPort = 81

// A pod with a bandwidth is held to it in both directions and families; the
// pods beside it are not, and nothing of it is on their way.
func TestBandwidth(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const (
		rate  = 16_000_000 // bit/s
		burst = 800_000    // bit
		sent  = 2_000_000  // octets
		// At the very least it takes as long as this, however idle the machine.
		least = time.Duration(float64(sent*8-burst) / rate * 0.9 * float64(time.Second))
	)
	shaped, err := l.addPod(t, "shaped", map[string]any{"bandwidth": map[string]int{"ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst}})
	require.NoError(t, err)
	free, err := l.addPod(t, "free", map[string]any{"bandwidth": map[string]int{}})
	require.NoError(t, err)
	_, err = shaped.cnitool(t.Context(), "check")
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(sh(t, &l.one.Host, "ip -o link show type ifb"), "bwp"))
	require.Equal(t, 2, strings.Count(sh(t, &l.one.Host, "tc qdisc show"), "tbf"))
	for _, p := range []*pod{shaped, free} {
		p.start(t, sinkArg, fmt.Sprint(sinkPort))
	}
	_, err = l.remote.Start("sink", selfArgs(sinkArg, fmt.Sprint(sinkPort))...)
	require.NoError(t, err)
	for _, f := range subnet.Families {
		in, out := l.transfer(t, shaped, f, sent)
		require.Greater(t, in, least, "to the shaped pod, %s", f)
		require.Greater(t, out, least, "from the shaped pod, %s", f)
		in, out = l.transfer(t, free, f, sent)
		require.Less(t, in, least, "to a pod beside it, %s", f)
		require.Less(t, out, least, "from a pod beside it, %s", f)
	}
	shaped.del(t)
	require.Empty(t, sh(t, &l.one.Host, "ip -o link show type ifb"))
	require.NotContains(t, sh(t, &l.one.Host, "tc qdisc show"), "tbf")

	// As containerd hands the annotation over: a burst that no pod ever uses up.
	kube, err := l.addPod(t, "kube", map[string]any{"bandwidth": map[string]int{
		"ingressRate": rate, "ingressBurst": math.MaxUint32, "egressRate": rate, "egressBurst": math.MaxUint32,
	}})
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(sh(t, &l.one.Host, "tc qdisc show"), " rate 16Mbit burst 512Mb"))
	kube.del(t)
	free.del(t)
}

func selfArgs(args ...string) []string { return append([]string{os.Args[0]}, args...) }

// transfer sends to and from a pod and tells how long each takes.
func (l *lab) transfer(t *testing.T, p *pod, f subnet.Family, n int) (in, out time.Duration) {
	t.Helper()
	to := func(a netip.Addr) []string {
		return selfArgs(sendArg, netip.AddrPortFrom(a, sinkPort).String(), fmt.Sprint(n))
	}
	for _, d := range []struct {
		took *time.Duration
		run  func() (string, error)
	}{
		{&in, func() (string, error) { return l.remote.Exec(t.Context(), to(p.addrs[f])...) }},
		{&out, func() (string, error) {
			return l.one.Exec(t.Context(), append([]string{"ip", "netns", "exec", p.name}, to(l.remote.Addrs[f])...)...)
		}},
	} {
		netlabtest.Eventually(t, "the transfer", func() error {
			text, err := d.run()
			if err != nil {
				return err
			}
			ns, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			*d.took = time.Duration(ns)
			return err
		})
	}
	t.Logf("%s, %s: %d octets in %v to it, %v from it", p.name, f, n, in, out)
	return in, out
}
