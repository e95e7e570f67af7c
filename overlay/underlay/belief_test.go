package underlay_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/underlay"
)

// What a cluster says is believed at once where it can be seen to be so; what it
// leaves out is gone when it has been left out for a while.
func TestBelief(t *testing.T) {
	t.Parallel()
	const p = underlay.Patience
	host := backend.Host{Interfaces: interfaces("eth0 192.0.2.1/24 2001:db8::1/64", "eth1 down 198.51.100.1/24")}
	on, other, onV6, nat, nat2 := internal("192.0.2.1"), internal("198.51.100.1"), internal("2001:db8::1"), internal("203.0.113.1"), internal("203.0.113.2")
	both := internal("192.0.2.1", "2001:db8::1")
	type word struct {
		at       time.Duration
		says     underlay.Node
		believed underlay.Node
		until    time.Duration // 0: it stands
	}
	for name, words := range map[string][]word{
		"at first nothing":                  {{0, internal(), internal(), 0}, {1, on, on, 0}},
		"left out for a moment":             {{0, on, on, 0}, {time.Second, internal(), on, p + time.Second}, {5 * time.Second, on, on, 0}, {p + time.Second, on, on, 0}},
		"left out again starts anew":        {{0, on, on, 0}, {1, internal(), on, p + 1}, {2, on, on, 0}, {p, internal(), on, 2 * p}, {p + 1, internal(), on, 2 * p}},
		"left out for good":                 {{0, on, on, 0}, {1, internal(), on, p + 1}, {p, internal(), on, p + 1}, {p + 1, internal(), internal(), 0}, {p + 2, internal(), internal(), 0}},
		"another that is there":             {{0, on, on, 0}, {1, other, other, 0}, {2, on, on, 0}},
		"another that is there, after none": {{0, on, on, 0}, {1, internal(), on, p + 1}, {2, other, other, 0}, {p + 1, other, other, 0}},
		"another that is nowhere":           {{0, on, on, 0}, {1, nat, on, p + 1}, {p + 1, nat, nat, 0}},
		"another that is nowhere, for a moment, and none": {
			{0, on, on, 0},
			{1, nat, on, p + 1},
			{2, internal(), on, p + 1},
			{3, on, on, 0},
		},
		"behind NAT, another":               {{0, nat, nat, 0}, {1, nat2, nat2, 0}, {2, on, on, 0}},
		"behind NAT, left out for a moment": {{0, nat, nat, 0}, {1, internal(), nat, p + 1}, {2, nat, nat, 0}},
		"one family of two":                 {{0, both, both, 0}, {1, on, both, p + 1}, {2, internal(), both, p + 1}, {p + 1, internal(), on, p + 2}, {p + 2, internal(), internal(), 0}},
		"one family for the other":          {{0, on, on, 0}, {1, onV6, both, p + 1}, {p + 1, onV6, onV6, 0}},
		"an annotation is the operator's":   {{0, local("192.0.2.1"), local("192.0.2.1"), 0}, {1, local(), local(), 0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			var b underlay.Belief
			for _, w := range words {
				believed, until := b.Take(w.says, host, start.Add(w.at))
				require.Equal(t, w.believed, believed, "%+v", w)
				want := time.Time{}
				if w.until != 0 {
					want = start.Add(w.until)
				}
				require.Equal(t, want, until, "%+v", w)
			}
		})
	}
}
