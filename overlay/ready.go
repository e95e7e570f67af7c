package overlay

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/envfile"
)

// conclude writes subnet.env if all of it is true, and tells how we are.
func (a *Agent) conclude(now time.Time, read, links, rules bool) {
	s := a.state
	if read {
		a.board.readBack(now)
	}
	hostFailed, whys := !read || !links, []string{a.board.because(partKernel)}
	for k := range s.pending {
		if (k.Kind == backend.KindLink || k.Kind == backend.KindAddress) && a.desired.get(k) != nil {
			hostFailed, whys = true, append(whys, a.board.whyFails(k))
		}
	}
	a.board.contention(s.pace.contended(now))
	reasons := append(a.missing(), a.forwardingOff()...)
	if hostFailed {
		reasons = append(reasons, "the device is not as it must be"+slices.Max(whys))
	}
	if len(reasons) == 0 && !s.env {
		if err := a.writeEnv(); err != nil {
			reasons = append(reasons, err.Error())
			a.cfg.Log.WithError(err).Warn("subnet file could not be written, will retry")
		} else {
			s.env = true
			if a.cfg.Manager != nil {
				a.cfg.Manager.Ready()
			}
		}
	}
	a.board.held(*s.held) // not before subnet.env says the same
	if s.rules == nil || !rules {
		reasons = append(reasons, "the rules are not in"+a.board.because(partRules))
	}
	if s.configRecalled {
		reasons = append(reasons, "the network config is what an earlier run knew: the store has not told one")
	}
	if s.heldRecalled {
		reasons = append(reasons, "the lease is what an earlier run knew: the store has not confirmed it")
	}
	if !s.settled {
		reasons = append(reasons, "the first full list of peers is not programmed")
	}
	if len(reasons) == 0 {
		a.putCNIConf()
	}
	if !a.showReadiness(reasons) {
		return
	}
	if len(reasons) == 0 {
		a.cfg.Log.Info("ready")
	} else {
		a.cfg.Log.WithField("reasons", reasons).Warn("no longer ready")
	}
}

// forwarding are the sysctls without which no packet of a pod leaves its node.
var forwarding = map[string]bool{"net/ipv4/ip_forward": true, "net/ipv6/conf/all/forwarding": true}

// forwardingOff says that packets of pods are not forwarded, and that we cannot
// help it: no pod reaches another node then. Other sysctls that are wrong are
// told, and hold back nothing.
func (a *Agent) forwardingOff() (reasons []string) {
	for k, p := range a.state.pending {
		if k.Kind == backend.KindSysctl && p.failed && forwarding[k.Name] && a.desired.get(k) != nil {
			reasons = append(reasons, "forwarding is off"+a.board.whyFails(k))
		}
	}
	slices.Sort(reasons)
	return reasons
}

// showReadiness shows why the node is not ready, nothing for ready, and reports
// whether that turned.
func (a *Agent) showReadiness(reasons []string) (turned bool) {
	if m := a.cfg.Manager; m != nil {
		line := "waiting: " + strings.Join(reasons, "; ")
		if len(reasons) == 0 {
			line = fmt.Sprintf("ready: subnet %s, ways to %d peers", strings.Join(prefixes(a.state.held.Lease.Subnets), " and "), a.desired.peers())
		}
		m.Status(line + a.board.storeAway())
	}
	a.report(reasons)
	return a.board.readiness(reasons)
}

// reportAfter is how long a node that starts may take, with a store that answers,
// before it says that it has no network: until then what an earlier run said
// stands, and what that left goes on.
const reportAfter = time.Minute

// report tells the cluster that the node is ready, and then each time that this
// turns, or why it is not. Why it is ready never changes, as each word is a
// write to the API server.
func (a *Agent) report(reasons []string) {
	s := a.state
	next := subnet.NetworkState{Up: len(reasons) == 0, Message: strings.Join(reasons, "; ")}
	if next.Up {
		next.Message = "the overlay network is up"
	}
	starts := s.network == (subnet.NetworkState{}) && !a.board.answeredFor(reportAfter)
	if a.cfg.ReportNetwork == nil || next == s.network || !next.Up && starts {
		return
	}
	s.network = next
	newest(a.network, next)
}

// missing names what there must be before anything can be programmed.
func (a *Agent) missing() []string {
	s := a.state
	var reasons []string
	for _, m := range []struct {
		missing bool
		what    string
	}{
		{s.config == nil, "no usable network config yet" + cmp.Or(a.board.because(partConfig), a.noConfig())},
		{s.underlay == nil, "no external interface yet" + a.board.because(partUnderlay)},
		{s.config != nil && s.underlay != nil && s.planner == nil, "the network config does not fit the underlay" + a.board.because(partFit)},
		{s.held == nil, "no lease yet" + cmp.Or(a.board.because(partLease), a.board.denial())},
		{s.held != nil && s.lost != nil, fmt.Sprintf("the lease is lost: %v", s.lost)},
	} {
		if m.missing {
			reasons = append(reasons, m.what)
		}
	}
	return reasons
}

// noConfig says what to do where a store that answers has no network config, as
// a clause.
func (a *Agent) noConfig() string {
	if a.cfg.NoConfig == "" || a.board.storeAway() != "" {
		return ""
	}
	return ": " + a.cfg.NoConfig
}

// withdrawEnv takes subnet.env away, as the subnet in it is another node's now:
// no pod may get an address of it. Pods that are there go on.
func (a *Agent) withdrawEnv() {
	if err := os.Remove(a.cfg.SubnetFile); err == nil {
		a.cfg.Log.Warn("subnet file withdrawn: no pods can be added until there is a lease again")
	} else if !errors.Is(err, fs.ErrNotExist) {
		a.cfg.Log.WithError(err).Warn("subnet file could not be withdrawn")
	}
}

func (a *Agent) writeEnv() error {
	s := a.state
	env := envfile.Env{IPMasq: a.cfg.Masquerade}
	mtu := s.planner.MTU()
	for _, f := range subnet.Families {
		n, p := s.active.Networks[f], s.held.Lease.Subnets[f]
		if !n.Enabled() || !p.IsValid() {
			continue
		}
		env.Networks[f] = []netip.Prefix{n.Network}
		env.Subnets[f] = envfile.Gateway(p)
		if env.MTU == 0 || mtu[f] < env.MTU {
			env.MTU = mtu[f]
		}
	}
	changed, err := envfile.Write(a.cfg.SubnetFile, env)
	if changed {
		a.cfg.Log.WithField("file", a.cfg.SubnetFile).Info("subnet file written")
	}
	a.board.mtu(env.MTU)
	return err
}
