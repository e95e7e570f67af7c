package iptables_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/iptables"
	"github.com/twill-net/twill/backend/masq"
	"github.com/twill-net/twill/backend/rulestest"
	"github.com/twill-net/twill/subnet"
)

func TestMain(m *testing.M) { rulestest.Main(m) }

// detected is the host of the tests.
var detected = sync.OnceValues(func() (iptables.Host, error) { return iptables.Detect(context.Background()) })

// suffix is what distinguishes the binaries of a variant.
func suffix(v iptables.Variant) string {
	if v == iptables.Legacy {
		return "-legacy"
	}
	return "-nft"
}

// chains are a Chains in a network namespace.
type chains struct {
	*iptables.Chains
	ns    rulestest.Namespace
	hasty bool // a held lock is an error
}

func newChains(t *testing.T, v iptables.Variant, ns rulestest.Namespace) chains {
	t.Helper()
	h, err := detected()
	require.NoError(t, err)
	for _, f := range subnet.Families {
		if !h.Has(v, f) {
			t.Skipf("needs iptables and ip6tables (%s), found %s", v, h)
		}
	}
	return chains{Chains: iptables.New(h, v), ns: ns}
}

// do calls f in the namespace, and again where that is not what is tested as long
// as another test's iptables-legacy has the lock: it may be long without the processor.
func (c chains) do(f func() error) error {
	for until := time.Now().Add(time.Minute); ; {
		err := c.ns.Do(f)
		if err == nil || c.hasty || !strings.Contains(err.Error(), "xtables lock") || time.Now().After(until) {
			return err
		}
	}
}

func (c chains) Sync(ctx context.Context, rules masq.Rules) (changed bool, err error) {
	err = c.do(func() error {
		some, err := c.Chains.Sync(ctx, rules)
		changed = changed || some
		return err
	})
	return changed, err
}

func (c chains) Remove(ctx context.Context) error {
	return c.do(func() error { return c.Chains.Remove(ctx) })
}

func (c chains) ForwardDrops(ctx context.Context) (drops subnet.PerFamily[bool], err error) {
	err = c.do(func() (err error) {
		drops, err = c.Chains.ForwardDrops(ctx)
		return err
	})
	return drops, err
}

// each runs a test with each variant.
func each(t *testing.T, test func(t *testing.T, c chains)) {
	t.Helper()
	t.Parallel()
	for _, v := range iptables.Variants {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			test(t, newChains(t, v, rulestest.NewNamespace(t)))
		})
	}
}

// sh runs a shell script in the namespace once per family, with the commands
// ipt, ipt_restore and ipt_save and the family's words in $net (the network),
// $own (our subnet) and $reject (a value of --reject-with).
func (c chains) sh(t *testing.T, script string) {
	t.Helper()
	require.NoError(t, c.ns.Do(func() error { return c.shell(script) }))
}

// shell is sh on a thread that is in the namespace.
func (c chains) shell(script string) error {
	for _, words := range []string{
		`p=iptables net=10.244.0.0/16 own=10.244.1.0/24 reject=icmp-host-prohibited`,
		`p=ip6tables net=fd00:244::/48 own=fd00:244:0:1::/64 reject=icmp6-adm-prohibited`,
	} {
		script := words + "\n" + strings.ReplaceAll(`
			ipt() { $pSUFFIX -w 60 "$@"; }
			ipt_restore() { $pSUFFIX-restore -w 60 "$@"; }
			ipt_save() { $pSUFFIX-save "$@"; }
		`, "SUFFIX", suffix(c.Variant())) + script
		if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s: %s", err, script, out)
		}
	}
	return nil
}

var counters = regexp.MustCompile(`(?m)^#.*\n| \[\d+:\d+\]$`)

// save returns all rules of the variant, without counters.
func (c chains) save(t *testing.T) string {
	t.Helper()
	s := c.ns.Run(t, "iptables"+suffix(c.Variant())+"-save") + c.ns.Run(t, "ip6tables"+suffix(c.Variant())+"-save")
	return counters.ReplaceAllString(s, "")
}

var oursLine = regexp.MustCompile(`(?m)^.*TWILL-.*\n`)

// hook lists what follows -A in one built-in chain, of IPv4.
func (c chains) hook(t *testing.T, table, chain string) []string {
	t.Helper()
	var rules []string
	for l := range strings.Lines(c.ns.Run(t, "iptables"+suffix(c.Variant()), "-w", "60", "-t", table, "-S", chain)) {
		if rule, ok := strings.CutPrefix(strings.TrimSpace(l), "-A "+chain+" "); ok {
			rules = append(rules, rule)
		}
	}
	return rules
}

// busyHost are others' rules in both tables, with the built-in chains that ours
// need.
const busyHost = `ipt_restore --noflush <<-EOF
	*nat
	:PREROUTING ACCEPT
	:POSTROUTING ACCEPT
	:KUBE-POSTROUTING - [0:0]
	-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
	-A POSTROUTING -o docker0 -j MASQUERADE
	-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
	-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
	-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
	COMMIT
	*filter
	:INPUT ACCEPT
	:FORWARD DROP
	:DOCKER-USER - [0:0]
	-A FORWARD -j DOCKER-USER
	-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
	-A DOCKER-USER -p tcp --dport 12345 -m comment --comment "the administrator's \"rule\"" -j DROP
	-A DOCKER-USER -j RETURN
	COMMIT
EOF
`

// logged writes down each run of the binaries of a host.
type logged struct{ log string }

// detectLogged returns a host with the binaries named, each as it is called and,
// after a =, as which binary of /usr/sbin it runs.
func detectLogged(t *testing.T, names ...string) (iptables.Host, logged) {
	t.Helper()
	dir := t.TempDir()
	l := logged{filepath.Join(dir, "log")}
	for _, name := range names {
		name, binary, _ := strings.Cut(name, "=")
		for _, s := range []string{"", "-restore"} {
			path, err := exec.LookPath("/usr/sbin/" + binary + s)
			if err != nil {
				t.Skipf("needs %s: %v", binary+s, err)
			}
			script(t, dir, name+s, "echo "+name+s+" \"$@\" >>"+l.log+"; exec "+path+" \"$@\"")
		}
	}
	h, err := detectIn(t, dir)
	require.NoError(t, err)
	l.take(t)
	return h, l
}

func script(t *testing.T, dir, name, body string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+body+"\n"), 0o755))
}

// detectIn is Detect with a PATH of one directory.
func detectIn(t *testing.T, dir string) (iptables.Host, error) {
	t.Helper()
	before := os.Getenv("PATH")
	t.Setenv("PATH", dir)
	h, err := iptables.Detect(t.Context())
	t.Setenv("PATH", before)
	return h, err
}

// take returns the runs since it was last called, one per line.
func (l logged) take(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(l.log)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(l.log, 0))
	return string(data)
}
