package cni_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/require"
)

// 200 pods come and go, 8 at a time, while the plugin is killed at any moment
// and the runtime does what runtimes do: DEL after an ADD that failed, and DEL
// again after one that failed, but some pods it forgets. Then nothing is left,
// and the pods that stayed all the time have what they had. SEED replays which
// pods are killed and when.
func TestStress(t *testing.T) {
	t.Parallel()
	const pods, atATime, living = 200, 8, 3
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("to replay: SEED=%d", seed)
	s := stress{
		host: newHost(t, strings.Replace(dualEnv, "IPMASQ=true", "IPMASQ=false", 1)),
		held: map[string]string{}, forgotten: map[string]bool{},
	}
	s.conf = s.host.conf(nil)

	var stay []conf
	for i := range living {
		r := attach(fmt.Sprintf("stays-%d", i), netns(t))
		c := s.host.conf(nil)
		c["prevResult"] = s.host.add(t, r, c)
		stay = append(stay, conf{"request": r, "conf": c})
	}
	reserved := s.host.reserved(t)

	jobs := make(chan int)
	var workers sync.WaitGroup
	for w := range atATime {
		ns := netns(t)
		rng := rand.New(rand.NewPCG(seed, uint64(w)))
		workers.Go(func() {
			for i := range jobs {
				s.fail(s.live(attach(fmt.Sprintf("pod-%d-%d", w, i), ns), rng))
			}
		})
	}
	for i := range pods {
		jobs <- i
	}
	close(jobs)
	workers.Wait()
	require.Empty(t, s.failures)
	t.Logf("killed %d of %d, forgot %d; before GC: %d addresses too many, %d of them not forgotten",
		s.killed, s.runs, len(s.forgotten), len(s.host.reserved(t))-len(reserved), s.leaked(t))
	require.Positive(t, s.killed)
	require.NotEmpty(t, s.forgotten)

	gc := s.host.conf(nil)
	gc["cni.dev/valid-attachments"] = []conf{{"containerID": "stays-0", "ifname": "eth0"}} // the others by the kernel
	// What a killed plugin had started itself ends a moment later.
	require.Eventually(t, func() bool {
		_, err := s.host.run("GC", request{}, gc)
		return err == nil && len(s.host.reserved(t)) == len(reserved) && len(s.host.veths(t)) == living
	}, 20*time.Second, 10*time.Millisecond)
	require.Equal(t, reserved, s.host.reserved(t))
	require.Equal(t, 2*living, strings.Count(s.host.rules(t), "id: "), "a rule for each address that is left")
	require.NotContains(t, s.host.rules(t), "id: pod-")
	require.NoDirExists(t, s.host.dataDir)
	files, err := os.ReadDir(filepath.Join(s.host.ipamDir, "cbr0"))
	require.NoError(t, err)
	for _, f := range files {
		require.Regexp(t, `^(lock|last_reserved_ip\.[01]|10\.5\..*|fd00:.*)$`, f.Name())
	}
	for _, c := range stay {
		_, err := s.host.run("CHECK", c["request"].(request), c["conf"].(conf))
		require.NoError(t, err)
		_, err = s.host.run("DEL", c["request"].(request), c["conf"].(conf))
		require.NoError(t, err)
	}
	require.Empty(t, s.host.reserved(t))
	require.Empty(t, s.host.veths(t))
	require.NotContains(t, s.host.rules(t), "id: ")
}

type stress struct {
	host host
	conf conf

	mu           sync.Mutex
	held         map[string]string // address: the container that has it
	failures     []string
	forgotten    map[string]bool
	killed, runs int
}

func (s *stress) fail(err error) {
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.failures = append(s.failures, err.Error())
	}
}

// leaked counts the reservations of pods that were deleted: what a plugin that
// was killed had started may reserve an address after the DEL.
func (s *stress) leaked(t *testing.T) (n int) {
	t.Helper()
	for _, a := range s.host.reserved(t) {
		content, err := os.ReadFile(filepath.Join(s.host.ipamDir, "cbr0", a))
		require.NoError(t, err)
		id, _, _ := strings.Cut(string(content), "\r\n")
		if strings.HasPrefix(id, "pod-") && !s.forgotten[id] {
			n++
		}
	}
	return n
}

// live is the life of one pod.
func (s *stress) live(r request, rng *rand.Rand) error {
	c := conf{}
	for k, v := range s.conf {
		c[k] = v
	}
	out, err := s.runKilled("ADD", r, c, rng, 2)
	var got []string
	if err == nil {
		result := new(current.Result)
		if err := json.Unmarshal(out, result); err != nil {
			return fmt.Errorf("%s: ADD: %w", r.container, err)
		}
		for _, ip := range result.IPs {
			got = append(got, ip.Address.IP.String())
		}
		if err := s.hold(r.container, got); err != nil {
			return err
		}
		c["prevResult"] = result
	} else if !errors.Is(err, errKilled) {
		return fmt.Errorf("%s: ADD: %w", r.container, err)
	}
	s.release(got)
	if rng.IntN(10) == 0 { // as a reboot does
		s.mu.Lock()
		s.forgotten[r.container] = true
		s.mu.Unlock()
		return s.vanish(strings.TrimPrefix(r.netns, "/run/netns/"))
	}
	for odds := 3; ; odds = 0 { // killed once at most
		_, err := s.runKilled("DEL", r, c, rng, odds)
		if err == nil {
			return nil
		}
		if !errors.Is(err, errKilled) {
			return fmt.Errorf("%s: DEL: %w", r.container, err)
		}
	}
}

// vanish puts a new namespace in the place of one. To take the interface from
// it would not do: a delegate that was killed ends its last request to the
// kernel first, which may be the one that makes it.
func (s *stress) vanish(ns string) error {
	for _, verb := range []string{"del", "add"} {
		if out, err := exec.Command("ip", "netns", verb, ns).CombinedOutput(); err != nil {
			return fmt.Errorf("ip netns %s %s: %w: %s", verb, ns, err, out)
		}
	}
	return nil
}

// hold notes that a container has addresses which no other one has.
func (s *stress) hold(container string, addresses []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range addresses {
		if other, taken := s.held[a]; taken {
			return fmt.Errorf("%s and %s both have %s", container, other, a)
		}
		s.held[a] = container
	}
	return nil
}

func (s *stress) release(addresses []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range addresses {
		delete(s.held, a)
	}
}

var errKilled = errors.New("killed")

// runKilled calls the plugin and kills it in one of so many cases, 0 for
// never, at any moment of its life.
func (s *stress) runKilled(verb string, r request, c conf, rng *rand.Rand, odds int) ([]byte, error) {
	s.mu.Lock()
	s.runs++
	s.mu.Unlock()
	if odds == 0 || rng.IntN(odds) != 0 {
		return s.host.run(verb, r, c)
	}
	cmd, stdout, _, err := s.host.command(verb, r, c)
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	kill := time.AfterFunc(time.Duration(rng.Int64N(int64(150*time.Millisecond))), func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	kill.Stop()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled() {
		s.mu.Lock()
		s.killed++
		s.mu.Unlock()
		return nil, errKilled
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, stdout)
	}
	return stdout.Bytes(), nil
}
