package overlay

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// noticeSettle is how long something must last to be told: what a pass mends
// is no news.
const noticeSettle = 2 * time.Second

// noticesWaiting bounds what nobody took yet; the oldest go.
const noticesWaiting = 32

// fewAlike bounds the notices of things of which there may be thousands: they must
// not crowd out all others.
const fewAlike = 5

// reasonOf are the parts of which an operator of the cluster is told when they
// are unwell.
var reasonOf = map[string]string{
	partConfig:  "NetworkConfigRefused",
	partFit:     "NetworkConfigRefused",
	partForward: "ForwardingBlocked",
	partCNI:     "ForeignCNIConfig",
	partInstall: "CNIConfigNotInstalled",
	partAddress: "NodeAddress",
}

// notices tells the operator of the cluster what the board shows and he must
// know: each thing when it has lasted for a while, and again when it comes
// back. It waits for nobody.
func (a *Agent) notices(ctx context.Context) error {
	told, created := told{}, int64(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.board.changed:
		}
		before := a.facts()
		if !pause(ctx, noticeSettle) {
			return nil
		}
		now := a.facts()
		if c := a.board.created(); c != created {
			if created != 0 {
				clear(told) // Events are of one Node object, and this is another one
			}
			created = c
		}
		for _, n := range told.news(before, now) {
			newest(a.told, n)
		}
	}
}

// told is what of the facts was told, as long as they stand.
type told map[string]subnet.Notice

// news returns what is to be told: facts that there were before, too, if not in
// the same words, which may be others each time. What is younger is looked at
// again, as what has changed it asks for that.
func (t told) news(before, now map[string]subnet.Notice) (news []subnet.Notice) {
	if u, ok := now[partUnderlay]; ok && t[partUnderlay].Reason == "" { // what it is at first is no news
		t[partUnderlay] = u
	}
	for what, n := range now {
		if t[what] != n && before[what].Reason == n.Reason {
			news = append(news, n)
			t[what] = n
		}
	}
	maps.DeleteFunc(t, func(what string, _ subnet.Notice) bool { return now[what].Reason == "" })
	return news
}

// facts returns the board's, and which records do not count because of this node.
func (a *Agent) facts() map[string]subnet.Notice {
	facts := a.board.facts()
	for _, r := range a.inbox.refusedForUs() {
		facts["refused "+r.Key] = subnet.Notice{Warning: true, Reason: "RecordRefused", Message: fmt.Sprintf("record %s of node %s does not count: %s", r.Key, r.Node, r.Reason)}
	}
	return facts
}

// facts returns what is so now and an operator must know, by what it is about.
func (b *board) facts() map[string]subnet.Notice {
	b.mu.Lock()
	defer b.mu.Unlock()
	facts := map[string]subnet.Notice{}
	ready := subnet.Notice{Reason: "TwillReady", Message: "the overlay network is up"}
	if len(b.reasons) > 0 {
		ready = subnet.Notice{Warning: true, Reason: "TwillNotReady", Message: strings.Join(b.reasons, "; ")}
	}
	facts["ready"] = ready
	for part, reason := range reasonOf {
		if p, ok := b.problems[part]; ok {
			facts[part] = subnet.Notice{Warning: true, Reason: reason, Message: p.What + ": " + p.Error}
		}
	}
	if p, ok := b.problems[partUnderlay]; ok && p.Error != errNoWord.Error() { // beside the fact of that name, which is the choice before
		facts["no "+partUnderlay] = subnet.Notice{Warning: true, Reason: "NodeAddress", Message: p.Error}
	}
	for k, f := range b.failing {
		if k.Kind == backend.KindSysctl {
			facts[f.Object] = subnet.Notice{Warning: true, Reason: "WrongSysctl", Message: f.Object + " is not as it must be: " + f.Error}
		}
	}
	for _, c := range b.status.Contended[:min(fewAlike, len(b.status.Contended))] {
		facts["contended "+c.Object] = subnet.Notice{Warning: true, Reason: "Contended", Message: "something keeps undoing our work: " + c.Object}
	}
	if len(b.status.OtherCNI) > 0 {
		facts["other CNI"] = subnet.Notice{Reason: "OtherCNIConfig", Message: "behind ours, and so without effect, are CNI configs of others: " + strings.Join(b.status.OtherCNI, ", ")}
	}
	if u := b.status.Underlay; u != nil {
		facts[partUnderlay] = subnet.Notice{Reason: "UnderlayChanged", Message: fmt.Sprintf("peers are told %s, on %s, chosen by %s", strings.Join(u.PublicIPs, ", "), u.Interface, u.ChosenBy)}
		if len(u.Notes) > 0 {
			facts["address"] = subnet.Notice{Warning: true, Reason: "NodeAddress", Message: strings.Join(u.Notes, "; ")}
		}
	}
	if n := len(b.status.Stranded); n > 0 {
		facts["stranded"] = subnet.Notice{Warning: true, Reason: "PodsStranded", Message: fmt.Sprintf("%d pods have addresses outside of this node's subnet and must be made anew", n)}
	}
	return facts
}

// created returns when our record was made: another one is another Node.
func (b *board) created() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.recordCreated
}

// touch has facts looked at again. Called with or without the lock held.
func (b *board) touch() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// refusedForUs returns the records that do not count because of what this node
// has, at most a few.
func (b *inbox) refusedForUs() []subnet.Refusal {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.own == nil {
		return nil
	}
	own := b.own.Lease.ID()
	list := slices.DeleteFunc(b.snapshot.Refused(), func(r subnet.Refusal) bool {
		return r.Node != own && !strings.HasSuffix(r.Reason, " of this node")
	})
	return list[:min(fewAlike, len(list))]
}
