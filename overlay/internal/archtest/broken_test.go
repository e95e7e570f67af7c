package archtest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every rule is broken on purpose, in each way that it forbids, and must say so.
func TestEveryRuleCanFail(t *testing.T) {
	t.Parallel()
	for _, r := range rules {
		for _, pattern := range r.bound {
			bound := module + "/" + strings.ReplaceAll(pattern, "...", "madeup")
			test := " [" + bound + ".test]"
			for _, never := range r.never {
				below := never + "/madeup"
				for name, g := range map[string]graph{
					"package":       graphOf(bound, never),
					"below":         graphOf(bound, below),
					"internal test": graphOf(bound, "").with(node{ImportPath: bound + test, ForTest: bound, Imports: []string{never}}),
					"external test": graphOf(bound, "").with(node{ImportPath: bound + "_test" + test, ForTest: bound, Imports: []string{never}}),
				} {
					require.Len(t, r.check(g), 1, "%s: %s importing %s, %s", r.name, bound, never, name)
				}
				require.Empty(t, r.check(graphOf(bound, never+"more")), "%s: %smore is another path", r.name, never)

				far := graphOf(bound, "example.com/a").with(node{ImportPath: "example.com/a", Imports: []string{never}})
				if r.reach == transitive {
					require.Len(t, r.check(far), 1, "%s: %s reaching %s", r.name, bound, never)
				} else {
					require.Empty(t, r.check(far), "%s: %s reaching %s", r.name, bound, never)
				}
			}
		}
		for _, pattern := range r.free {
			require.Empty(t, r.check(graphOf(module+"/"+pattern, r.never[0])), "%s: %s is free", r.name, pattern)
		}
	}
}

func TestCheckNamesTheChain(t *testing.T) {
	t.Parallel()
	r := rule{name: "a does not know z", bound: []string{"a/..."}, never: []string{"example.com/z"}, reach: transitive}
	g := graphOf(module+"/a/b", module+"/c").
		with(node{ImportPath: module + "/c", Imports: []string{"fmt", module + "/d"}}).
		with(node{ImportPath: module + "/d", Imports: []string{module + "/c", "example.com/z/y"}})
	require.Equal(t, []string{"a does not know z: a/b → c → d → example.com/z/y"}, r.check(g))
}

func graphOf(path, imported string) graph {
	n := node{ImportPath: path}
	if imported != "" {
		n.Imports = []string{imported}
	}
	return graph{}.with(n)
}

func (g graph) with(n node) graph {
	g[n.ImportPath] = n
	return g
}
