package main

import (
	"bytes"
	"flag"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/lastgood"
	"github.com/twill-net/twill/overlay/version"
	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd"
)

// clear takes our variables out of the test's environment.
func clear(t *testing.T) {
	var o options
	o.flags().VisitAll(func(f *flag.Flag) { t.Setenv(variable(f.Name), "") })
}

func TestUsageErrors(t *testing.T) {
	clear(t)
	for _, c := range []struct {
		name string
		args []string
		env  [2]string
		want string
	}{
		{"unknown flag", []string{"--bogus"}, [2]string{}, "twilld: there is no flag --bogus; see twilld --help\n"},
		{"argument", []string{"up"}, [2]string{}, "twilld: argument \"up\" is not a flag; see twilld --help\n"},
		{"level", []string{"--log-level=loud"}, [2]string{}, "twilld: --log-level \"loud\" is not debug, info, warn or error\n"},
		{"format", []string{"-log-format", "xml"}, [2]string{}, "twilld: --log-format \"xml\" is not auto, text, json or journal\n"},
		{"regex", []string{"--iface-regex=eth["}, [2]string{}, "twilld: --iface-regex \"eth[\" is not a regular expression: error parsing regexp: missing closing ]: `[`\n"},
		{"can reach", []string{"--iface-can-reach=host"}, [2]string{}, "twilld: --iface-can-reach \"host\" is not an address\n"},
		{"public IP of the wrong family", []string{"--public-ip=fd00::1"}, [2]string{}, "twilld: --public-ip \"fd00::1\" is not an IPv4 address of a host\n"},
		{"public IPv6 of the wrong family", []string{"--public-ipv6=192.0.2.1"}, [2]string{}, "twilld: --public-ipv6 \"192.0.2.1\" is not an IPv6 address of a host\n"},
		{"public IP that no host has", []string{"--public-ip=224.0.0.1"}, [2]string{}, "twilld: --public-ip \"224.0.0.1\" is not an IPv4 address of a host\n"},
		{"healthz address", []string{"--healthz-ip=all", "--healthz-port=1"}, [2]string{}, "twilld: --healthz-ip \"all\" is not an address\n"},
		{"healthz port", []string{"--healthz-port=65536"}, [2]string{}, "twilld: --healthz-port 65536 is not from 0 to 65535\n"},
		{"node name", []string{"--node-name="}, [2]string{}, "twilld: --node-name is empty, and this host has no name either\n"},
		{"firewall", []string{"--firewall=ufw"}, [2]string{}, "twilld: --firewall \"ufw\" is not auto, nftables or iptables\n"},
		{"firewall of a cleanup", []string{"--cleanup", "--firewall=nft"}, [2]string{}, "twilld: --firewall \"nft\" is not auto, nftables or iptables\n"},
		{"resync as text", []string{"--iptables-resync=often"}, [2]string{}, "twilld: invalid value \"often\" for flag --iptables-resync: it must be a number of seconds or a duration such as 5s, from 1s to 1h; see twilld --help\n"},
		{"resync without a pause", []string{"--iptables-resync=0"}, [2]string{}, "twilld: invalid value \"0\" for flag --iptables-resync: it must be a number of seconds or a duration such as 5s, from 1s to 1h; see twilld --help\n"},
		{"forward rules", []string{"--iptables-forward-rules=some"}, [2]string{}, "twilld: invalid value \"some\" for flag --iptables-forward-rules: want true or false; see twilld --help\n"},
		{"variable", nil, [2]string{"TWILLD_HEALTHZ_PORT", "http"}, "twilld: environment variable TWILLD_HEALTHZ_PORT: \"http\": want a whole number; see twilld --help\n"},
		{"Kubernetes", []string{"--kube-subnet-mgr", "--node-name=n1", "--kube-api-url=x"}, [2]string{}, "twilld: --kube-api-url is no URL such as https://192.0.2.1:6443, or has a user or a query in it\n"},
		{"CNI config", []string{"--cni-conf-install=/nonexistent"}, [2]string{}, "twilld: --cni-conf-install: reading the CNI config to install: open /nonexistent: no such file or directory\n"},
		{"etcd", []string{"--etcd-endpoints=ftp://x"}, [2]string{}, "twilld: --etcd-endpoints: \"ftp://x\" is no URL such as http://127.0.0.1:2379 or https://etcd.example.com:2379\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.env[0] != "" {
				t.Setenv(c.env[0], c.env[1])
			}
			var stdout, stderr bytes.Buffer
			code := run(append([]string{"--state-dir", t.TempDir()}, c.args...), &stdout, &stderr)
			require.Equal(t, c.want, stderr.String())
			require.Equal(t, 64, code)
			require.Empty(t, stdout.String())
		})
	}
}

// A misspelt variable is told, also before what is wrong otherwise.
func TestMisspeltVariable(t *testing.T) {
	clear(t)
	t.Setenv("TWILLD_IP_MASK", "true")
	t.Setenv("TWILLD_PORT_443_TCP", "tcp://192.0.2.1:443")
	var stdout, stderr bytes.Buffer
	require.Equal(t, 64, run([]string{"--firewall=ufw", "--state-dir", t.TempDir()}, &stdout, &stderr))
	require.Contains(t, stderr.String(), `level=warning msg="TWILLD_IP_MASK is no variable of twilld; did you mean TWILLD_IP_MASQ?"`)
	require.NotContains(t, stderr.String(), "443")
}

func TestVersion(t *testing.T) {
	clear(t)
	for _, arg := range []string{"--version", "-version"} {
		var stdout, stderr bytes.Buffer
		require.Zero(t, run([]string{arg}, &stdout, &stderr))
		require.Equal(t, "twilld "+version.Version+"\n", stdout.String())
	}
}

func TestFlagWinsOverVariable(t *testing.T) {
	clear(t)
	t.Setenv("TWILLD_IFACE", "eth1,eth2")
	t.Setenv("TWILLD_PUBLIC_IP", "192.0.2.1")
	var o options
	require.NoError(t, o.parse(o.flags(), []string{"-public-ip", "192.0.2.2"}))
	u, err := o.iface.Options()
	require.NoError(t, err)
	require.Equal(t, []string{"eth1", "eth2"}, u.Interfaces, "a repeatable flag takes a comma list")
	require.Equal(t, "192.0.2.2", o.publicIPs[0])
}

func TestRepeatedFlagsAdd(t *testing.T) {
	clear(t)
	var o options
	require.NoError(t, o.parse(o.flags(), []string{"--iface=eth0", "--iface", "eth1, 192.0.2.7"}))
	u, err := o.iface.Options()
	require.NoError(t, err)
	require.Equal(t, []string{"eth0", "eth1", "192.0.2.7"}, u.Interfaces)
}

// Flannel's scripts give seconds, ours may give a duration.
func TestResync(t *testing.T) {
	clear(t)
	for value, want := range map[string]time.Duration{"5": 5 * time.Second, "1m30s": 90 * time.Second, "3600": time.Hour} {
		var o options
		require.NoError(t, o.parse(o.flags(), []string{"--iptables-resync", value}))
		require.Equal(t, seconds(want), o.iptablesResync)
	}
	var o options
	require.NoError(t, o.parse(o.flags(), nil))
	require.Equal(t, "5s", o.iptablesResync.String())
	require.True(t, o.forwardRules)
}

// A password is never told, not even in the error of a bad value beside it.
func TestPasswordStaysSecret(t *testing.T) {
	clear(t)
	const secret = "correct-horse"
	t.Setenv("TWILLD_ETCD_PASSWORD", secret)
	for _, args := range [][]string{
		{"--etcd-username="}, {"--help"}, {"--etcd-endpoints=http://user:" + secret + "@host:2379"},
		{"--etcd-username=u", "--etcd-endpoints=ftp://x", "--log-level=debug"},
	} {
		var stdout, stderr bytes.Buffer
		run(append(args, "--state-dir", t.TempDir()), &stdout, &stderr)
		require.NotContains(t, stdout.String()+stderr.String(), secret)
	}
}

// A store goes on from where an earlier run of ours left it, and from nowhere else.
func TestResume(t *testing.T) {
	for name, c := range map[string]struct{ store, position, at, err string }{
		"ours":            {store: "s", position: `1f 7 6 "k"`, at: `1f 7 6 "k"`},
		"another store's": {store: "other", position: `1f 7 6 "k"`},
		"none":            {store: "s"},
		"garbage":         {store: "s", position: "x", err: `taking up position "x" in etcd's history: it is not one that Position returned`},
	} {
		t.Run(name, func(t *testing.T) {
			store, err := etcd.New(etcd.DefaultConfig())
			require.NoError(t, err)
			defer store.Close()
			cfg := overlay.Config{LastGood: filepath.Join(t.TempDir(), lastgood.FileName), StoreName: "s"}
			require.NoError(t, resume(store, cfg), "there is no file")
			own := subnet.Lease{Subnets: subnet.PerFamily[netip.Prefix]{netip.MustParsePrefix("10.244.1.0/24")}}
			state := lastgood.State{Store: c.store, Position: c.position, Config: []byte("{}"), Own: subnet.Held{Lease: own}}
			require.NoError(t, lastgood.Write(cfg.LastGood, state, slices.Values[[]subnet.Record](nil)))
			if err := resume(store, cfg); c.err != "" {
				require.EqualError(t, err, c.err)
			} else {
				require.NoError(t, err)
			}
			require.Equal(t, c.at, store.Position())
		})
	}
}
