package cni_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const statusHint = "; is twilld running and ready on this node? "

// STATUS needs no daemon: none runs here.
func TestStatus(t *testing.T) {
	t.Parallel()
	const (
		device = "looking for the node's VXLAN device: "
		v4     = "no VXLAN device of twill has the address 10.5.52.0/32"
		v6     = "no VXLAN device of twill has the address fd00:5:0:52::/128"
		hint   = statusHint + `with a backend that makes no device, the network config says "device": "none"`
	)
	both := func(t *testing.T, h host) {
		h.device(t, "twill.1", 1, "10.5.52.0/32")
		h.device(t, "twill-v6.1", 1, "fd00:5:0:52::/128")
	}
	for _, c := range []struct {
		name, env string
		make      func(t *testing.T, h host)
		keys      conf
		want      string
		code      uint
	}{
		{name: "ready", env: dualEnv, make: both},
		{name: "both families on one device", env: dualEnv, make: func(t *testing.T, h host) {
			h.device(t, "twill.4096", 4096, "10.5.52.0/32", "fd00:5:0:52::/128")
		}},
		{name: "no lease", make: both, code: 50, want: "reading the node's subnet: open PATH: no such file or directory" + statusHint + "`twill status` says what it waits for"},
		{name: "half a lease", env: dualEnv[:60], make: both, code: 50, want: "reading the node's subnet from PATH: "},
		{name: "no device", env: dualEnv, code: 50, want: device + v4 + ", " + v6 + hint},
		{name: "one family's", env: dualEnv, code: 51, want: device + v6 + hint, make: func(t *testing.T, h host) { h.device(t, "twill.1", 1, "10.5.52.0/32") }},
		{name: "down", env: dualEnv, code: 51, want: device + "the VXLAN device twill.1 is down" + hint, make: func(t *testing.T, h host) {
			both(t, h)
			ip(t, "-n", h.ns, "link", "set", "twill.1", "down")
		}},
		{name: "of an earlier subnet", env: v4Env, code: 50, want: device + v4 + hint, make: func(t *testing.T, h host) { h.device(t, "twill.1", 1, "10.5.53.0/32") }},
		{name: "another's", env: v4Env, code: 50, want: device + v4 + hint, make: func(t *testing.T, h host) { h.device(t, "flannel.1", 1, "10.5.52.0/32") }},
		{name: "no VXLAN device at all", env: v4Env, code: 50, want: device + v4 + hint, make: func(t *testing.T, h host) {
			ip(t, "-n", h.ns, "link", "add", "twill.1", "type", "bridge")
			ip(t, "-n", h.ns, "addr", "add", "10.5.52.0/32", "dev", "twill.1")
		}},
		{name: "a backend without a device", env: v4Env, keys: conf{"device": "none"}},
		{name: "no delegate", env: v4Env, keys: conf{"delegate": conf{"type": "ovs"}}, code: 50, want: "finding the plugin ovs: it is not in CNI_PATH, which is BIN; install the CNI reference plugins beside twill"},
		{name: "no IPAM", env: v4Env, keys: conf{"ipam": conf{"type": "pool"}}, code: 50, want: "finding the plugin pool: it is not in CNI_PATH, which is BIN; install the CNI reference plugins beside twill"},
		{name: "bad config", env: v4Env, keys: conf{"x": 1}, code: 7, want: `checking the network config "cbr0": x is not a key of type twill`},
		{name: "an address of another subnet asked for", env: v4Env, keys: conf{"ipam": conf{"rangeEnd": "10.5.53.9"}}, code: 7, want: "ipam.rangeEnd is 10.5.53.9"},
		{name: "an old version", env: v4Env, keys: conf{"cniVersion": "1.0.0"}, code: 1, want: "config version does not allow STATUS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, c.env)
			if c.make != nil {
				c.make(t, h)
			}
			_, err := h.run("STATUS", request{}, h.conf(c.keys))
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, strings.NewReplacer("PATH:", h.subnetFile+":", "BIN", h.bin).Replace(c.want))
			requireCode(t, c.code, err)
		})
	}
}

// The delegate's word counts, if it knows the verb.
func TestStatusOfTheDelegate(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	for _, c := range []struct {
		answer string
		code   uint
	}{
		{`exit 0`, 0},
		{`echo '{"code":50,"msg":"no master"}'; exit 1`, 50},
		{`echo '{"code":51,"msg":"no master"}'; exit 1`, 51},
		{`echo '{"code":999,"msg":"no master"}'; exit 1`, 50},
		{`echo '{"code":4,"msg":"unknown CNI_COMMAND: STATUS"}'; exit 1`, 0},
	} {
		dir := t.TempDir()
		script := fmt.Sprintf("#!/bin/sh\ncat >%s/stdin\n%s\n", dir, c.answer)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "odd"), []byte(script), 0o755))
		h.path = dir + ":" + h.bin
		_, err := h.run("STATUS", request{}, h.conf(conf{"device": "none", "delegate": conf{"type": "odd"}}))
		stdin, readErr := os.ReadFile(filepath.Join(dir, "stdin"))
		require.NoError(t, readErr)
		require.Contains(t, string(stdin), `"ranges":[[{"subnet":"10.5.52.0/24"}]]`)
		if c.code == 0 {
			require.NoError(t, err)
			continue
		}
		require.EqualError(t, err, "running the delegate plugin odd with STATUS: no master")
		requireCode(t, c.code, err)
	}
}

// A device that comes back within the second that the daemon needs at most is
// no reason to turn a node NotReady.
func TestStatusOfADeviceUnderRepair(t *testing.T) {
	t.Parallel()
	h := newHost(t, v4Env)
	h.device(t, "twill.1", 1, "10.5.52.0/32")
	for range 3 {
		ip(t, "-n", h.ns, "link", "set", "twill.1", "down")
		cmd, stdout, _, err := h.command("STATUS", request{}, h.conf(nil))
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		ip(t, "-n", h.ns, "link", "set", "twill.1", "up")
		require.NoError(t, cmd.Wait(), "%s", stdout)
	}
}
