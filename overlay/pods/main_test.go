package pods_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/overlay/pods"
)

// binaries is a directory with the reference plugins, built when first asked
// for: most tests need none.
var binaries = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "twill-pods-"); err != nil {
		return "", err
	}
	built.Store(&dir)
	const reference = "github.com/containernetworking/plugins/plugins/"
	cmd := exec.Command("go", "-C", "../../dist/cni", "build", "-o", dir, reference+"main/bridge", reference+"ipam/host-local")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("building the reference plugins: %w\n%s", err, out)
	}
	return dir, nil
})

var built atomic.Pointer[string]

// holdEnv makes the test binary a process that sweeps the directory of that
// name and stays in the middle of it, with the lock.
const holdEnv = "TWILL_TEST_SWEEP"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holdEnv); dir != "" {
		calls := 0
		s := pods.Sweeper{Inventory: func(ctx context.Context) (pods.Inventory, error) {
			if calls++; calls == 2 {
				fmt.Println("locked")
				<-ctx.Done()
			}
			return pods.Inventory{}, nil
		}}
		_, err := s.Sweep(context.Background(), []pods.Network{{Name: "cbr0", Dir: dir, VethFirst: true}})
		fmt.Println(err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if dir := built.Load(); dir != nil {
			_ = os.RemoveAll(*dir)
		}
		os.Exit(code)
	}))
}

var namespaces atomic.Int32

// netns adds a namespace with lo up and returns its name.
func netns(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	name := fmt.Sprintf("twpods-%d-%d", os.Getpid(), namespaces.Add(1))
	run(t, "ip netns add "+name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	run(t, "ip -n "+name+" link set lo up")
	return name
}

func run(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.Command("/bin/sh", "-c", command).CombinedOutput()
	require.NoError(t, err, "%s: %s", command, out)
	return string(out)
}

// machine is a node: a namespace and its disk.
type machine struct {
	t  *testing.T
	ns string
	ipam
	*kernel.Kernel
}

// newMachine boots a node from a disk, or from a new one.
func newMachine(t *testing.T, disk *ipam) machine {
	t.Helper()
	m := machine{t: t, ns: netns(t)}
	if disk == nil {
		n := pods.Network{Name: "cbr0", Dir: filepath.Join(t.TempDir(), "cbr0"), Bridge: "cni0", VethFirst: true}
		disk = &ipam{t, n}
	}
	m.ipam = *disk
	fd, err := unix.Open("/run/netns/"+m.ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	m.Kernel, err = kernel.New(kernel.Config{NetNS: fd})
	require.NoError(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

// patience is how long what must come is waited for, on a busy machine, too.
const patience = time.Minute

// sweeper returns a Sweeper over the real kernel for which nothing is too
// young.
func (m machine) sweeper() *pods.Sweeper {
	return &pods.Sweeper{MinAge: time.Nanosecond, Wait: patience, Inventory: m.inventory}
}

func (m machine) inventory(ctx context.Context) (pods.Inventory, error) {
	return pods.Read(ctx, m.Kernel, pods.Ground{Overlay: node().Overlay, Bridges: []string{m.Bridge}})
}

// plugin runs a reference plugin on the machine. A failure is the *types.Error
// that it printed.
func (m machine) plugin(name, verb, container, podNS string, subnets ...string) (*current.Result, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	type object = map[string]any
	ranges := [][]object{}
	for _, s := range subnets {
		ranges = append(ranges, []object{{"subnet": s}})
	}
	stdin, err := json.Marshal(object{
		"cniVersion": "1.0.0", "name": "cbr0", "type": name, "isGateway": true, "isDefaultGateway": name == "bridge", "mtu": 1450,
		"ipam": object{"type": "host-local", "dataDir": filepath.Dir(m.Dir), "ranges": ranges},
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", m.ns, filepath.Join(bin, name))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+container, "CNI_IFNAME=eth0", "CNI_NETNS=/run/netns/"+podNS, "CNI_PATH="+bin)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		e := new(types.Error)
		if json.Unmarshal(out, e) == nil {
			return nil, e
		}
		return nil, fmt.Errorf("%s: %w: %s%s", name, err, out, exit.Stderr)
	}
	if err != nil || verb != "ADD" {
		return nil, err
	}
	result := new(current.Result)
	return result, json.Unmarshal(out, result)
}

// add makes a pod by the bridge plugin and gives its veth the alias, as
// twill-cni does.
func (m machine) add(container, podNS string, subnets ...string) (*current.Result, error) {
	result, err := m.plugin("bridge", "ADD", container, podNS, subnets...)
	if err != nil {
		return nil, err
	}
	p := pods.Named("cbr0", container, "eth0")
	for _, ip := range result.IPs {
		a := addr(ip.Address.IP.String())
		f := 0
		if a.Is6() {
			f = 1
		}
		p.Addresses[f] = a
	}
	alias, err := pods.Format(p)
	if err != nil {
		return nil, err
	}
	out, err := exec.Command("ip", "-n", m.ns, "link", "set", result.Interfaces[1].Name, "alias", alias).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("writing the alias: %w: %s", err, out)
	}
	return result, nil
}

func ipsOf(r *current.Result) string {
	var all []string
	for _, ip := range r.IPs {
		all = append(all, ip.Address.IP.String())
	}
	return strings.Join(all, " ")
}
