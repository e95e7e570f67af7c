package iptables

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFields(t *testing.T) {
	t.Parallel()
	for input, want := range map[string][]string{
		``:                               nil,
		`  -j   ACCEPT `:                 {"-j", "ACCEPT"},
		`--comment "a b" -j X`:           {"--comment", "a b", "-j", "X"},
		`--comment "" -j X`:              {"--comment", "", "-j", "X"},
		`"a \"quoted\" \\ one, it\'s"`:   {`a "quoted" \ one, it's`},
		`pre"in quotes"post`:             {"prein quotespost"},
		`back\slash`:                     {`back\slash`},
		`"no end`:                        {"no end"},
		`-m comment --comment "-j DROP"`: {"-m", "comment", "--comment", "-j DROP"},
	} {
		require.Equal(t, want, fields(input), input)
	}
}

// Words survive being written and read, but for line breaks, which must not.
func FuzzLine(f *testing.F) {
	f.Add("a b", `it's "so"`, "", `\`)
	f.Add("x\ny", "\r", "\t", `-j`)
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		words := []string{a, b, c, d}
		written := line(words)
		require.NotContains(t, written, "\n")
		require.NotContains(t, written, "\r")
		for i := range words {
			words[i] = strings.NewReplacer("\n", " ", "\r", " ").Replace(words[i])
		}
		require.Equal(t, words, fields(written))
	})
}

// What is taken for one of our rules is written and read as the same.
func FuzzParse(f *testing.F) {
	f.Add(`-s 10.244.0.0/16 -m comment --comment "pods to the outside" -j MASQUERADE --random-fully`)
	f.Add(`-m mark --mark 0x4000/0x4000 -m comment --comment x -j RETURN`)
	f.Add(`! -s 10.0.0.0/8 -p tcp -m tcp --dport 80 -g X`)
	f.Add(`-m mark ! --mark 1 -j`)
	f.Fuzz(func(t *testing.T, text string) {
		words := fields(text)
		for _, p := range places() {
			r, ok := parse(p.family, words)
			if !ok {
				continue
			}
			again, ok := parse(p.family, arguments(r))
			require.True(t, ok)
			require.Equal(t, r, again)
		}
	})
}
