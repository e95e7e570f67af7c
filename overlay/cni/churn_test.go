package cni_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/pods"
)

// 100 pods with host ports and bandwidths, 8 at a time, by libcni and the list
// of dist/. Plugins of the chain are killed half way through every third ADD and
// every third DEL, and the runtime does what a kubelet has it do: DEL after an
// ADD that failed, and again until one succeeds; a few pods it forgets. What is
// left then is the daemon's sweep's, which leaves nothing. SEED replays it.
func TestChurn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		backend string
		pods    int
		forgets bool // with iptables empty chains stay behind, see TestLeftovers
	}{{"nftables", 100, true}, {"iptables", 24, false}} {
		t.Run(c.backend, func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			if s, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
				seed = s
			}
			t.Logf("to replay: SEED=%d", seed)
			n := newNode(t, dualEnv, c.backend, nil)
			stays := n.add(t, "living-pod", 7000)
			alone := n.traces(t)

			const atATime = 8
			all := make([]*libcni.RuntimeConf, c.pods)
			namespaces := make(chan string, atATime)
			for range atATime {
				namespaces <- netns(t)
			}
			for i := range all {
				all[i] = runtimeConf(fmt.Sprintf("p%d-pod", i), "", 8000+i)
			}
			var killed, forgotten atomic.Int32
			errs := n.each(t.Context(), all, atATime, func(ctx context.Context, rt *libcni.RuntimeConf) error {
				ns := <-namespaces
				defer func() { namespaces <- ns }()
				rt.NetNS = netnsPath(ns)
				number := slices.Index(all, rt)
				rng := rand.New(rand.NewPCG(seed, uint64(number)))
				mortal := libcni.NewCNIConfigWithCacheDir([]string{n.bin}, n.cache,
					dying{inside{&invoke.DefaultExec{RawExec: &invoke.RawExec{}}, n.ns}, rng, &killed})
				adds, dels := n.cni, n.cni
				if number%3 == 0 {
					adds = mortal
				}
				if number%3 == 1 {
					dels = mortal
				}
				if _, err := adds.AddNetworkList(ctx, n.list, rt); err != nil && !errors.Is(err, errKilled) {
					return err
				}
				if c.forgets && number%10 == 9 {
					forgotten.Add(1)
					return renew(ns)
				}
				for range 2 {
					if err := dels.DelNetworkList(ctx, n.list, rt); err != nil && !errors.Is(err, errKilled) {
						return err
					}
				}
				if err := n.del(ctx, rt); err != nil {
					return err
				}
				return renew(ns)
			})
			for i, err := range errs {
				require.NoError(t, err, "pod %d", i)
			}
			require.Positive(t, killed.Load())
			t.Logf("%d plugins were killed, %d pods forgotten; left before the sweep: %d",
				killed.Load(), forgotten.Load(), len(subtract(n.traces(t), alone)))

			sweeper := n.sweeper(t)
			_, err := sweeper.Sweep(t.Context(), []pods.Network{n.network()})
			require.NoError(t, err)
			left := func() []string { return slices.DeleteFunc(n.traces(t), ofNoReservation) }
			require.Equal(t, alone, left())
			require.NoError(t, n.cni.CheckNetworkList(t.Context(), n.list, stays))
			require.NoError(t, n.del(t.Context(), stays))
			require.Empty(t, left())
		})
	}
}

// ofNoReservation reports whether a trace is one that the sweep cannot know:
// the bridge plugin makes the chains of macspoofchk before it asks for an address,
// and one that is killed in between for a pod that is forgotten leaves nothing
// else. Of the pods here that is p9, p39, p69 and p99.
func ofNoReservation(trace string) bool {
	return regexp.MustCompile(`(cni-br-iface|macspoofchk)-p[0369]?9-pod-`).MatchString(trace)
}

// renew puts a new namespace in the place of one, as the next sandbox is.
func renew(ns string) error {
	for _, verb := range []string{"del", "add"} {
		if out, err := exec.Command("ip", "netns", verb, ns).CombinedOutput(); err != nil {
			return fmt.Errorf("ip netns %s %s: %w: %s", verb, ns, err, out)
		}
	}
	return nil
}

// dying is a runtime whose plugins are killed at any moment, half of them.
type dying struct {
	inside
	rng    *rand.Rand
	killed *atomic.Int32
}

func (d dying) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	if d.rng.IntN(2) == 0 {
		return d.inside.ExecPlugin(ctx, path, stdin, environ)
	}
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", d.ns, path)
	cmd.Env, cmd.Stdin = environ, bytes.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	kill := time.AfterFunc(time.Duration(d.rng.Int64N(int64(100*time.Millisecond))), func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !kill.Stop() && err != nil {
		d.killed.Add(1)
		return nil, fmt.Errorf("%s: %w", path, errKilled)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", path, err, &out)
	}
	return out.Bytes(), nil
}
