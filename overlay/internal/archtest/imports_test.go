package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../../.."

// node is one package as `go list -deps -test` describes it. A package with
// tests appears up to three times: itself, "p [p.test]" with its internal test
// files and "p_test [p.test]".
type node struct {
	ImportPath string
	ForTest    string // the package under test, in the latter two
	Imports    []string
}

// graph holds the packages of the module and all they reach, by import path.
type graph map[string]node

func TestImports(t *testing.T) {
	t.Parallel()
	g := load(t)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			for _, v := range r.check(g) {
				t.Error(v)
			}
		})
	}
}

// A name in the table that matches nothing, or an exception that nothing
// needs, is a rule that no longer says what it seems to.
func TestRulesAreCurrent(t *testing.T) {
	t.Parallel()
	g := load(t)
	for _, r := range rules {
		for _, pattern := range slices.Concat(r.bound, r.free) {
			found := slices.ContainsFunc(g.own(), func(p string) bool { return matches(pattern, p) })
			require.True(t, found, "%s: no package is named %s", r.name, pattern)
		}
		for _, pattern := range r.free {
			strict := r
			strict.free = nil
			strict.bound = []string{pattern}
			require.NotEmpty(t, strict.check(g), "%s: %s needs no exception", r.name, pattern)
		}
	}
}

func load(t *testing.T) graph {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-test", "-json=ImportPath,ForTest,Imports", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "listing the packages of the module: %s", &stderr)
	g := graph{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var n node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return g
		}
		require.NoError(t, err)
		g[n.ImportPath] = n
	}
}

// own returns the module's packages without the module path, sorted.
func (g graph) own() []string {
	var own []string
	for path, n := range g {
		if p, ok := strings.CutPrefix(path, module+"/"); ok && n.ForTest == "" && !strings.HasSuffix(p, ".test") {
			own = append(own, p)
		}
	}
	slices.Sort(own)
	return own
}

// check returns one line for each package that breaks the rule, with the chain
// of imports that does it.
func (r rule) check(g graph) []string {
	var violations []string
	for _, p := range g.own() {
		if !matchesAny(r.bound, p) || matchesAny(r.free, p) {
			continue
		}
		path := module + "/" + p
		for _, start := range []string{path, path + " [" + path + ".test]", path + "_test [" + path + ".test]"} {
			for _, never := range r.never {
				if chain := g.chain(start, never, r.reach); chain != nil {
					violations = append(violations, fmt.Sprintf("%s: %s", r.name, strings.Join(chain, " → ")))
				}
			}
		}
	}
	return violations
}

// chain returns the shortest way from a package to one at or below the import
// path never, or nil. It looks one step far, or as far as there are imports.
func (g graph) chain(start, never string, far reach) []string {
	from := map[string]string{start: ""}
	for queue := []string{start}; len(queue) > 0; queue = queue[1:] {
		p := queue[0]
		for _, imported := range g[p].Imports {
			if _, seen := from[imported]; seen {
				continue
			}
			from[imported] = p
			if matches(never+"/...", plain(imported)) {
				return backtrack(from, imported)
			}
			if far == transitive {
				queue = append(queue, imported)
			}
		}
	}
	return nil
}

func backtrack(from map[string]string, p string) []string {
	var chain []string
	for ; p != ""; p = from[p] {
		chain = append(chain, strings.TrimPrefix(p, module+"/"))
	}
	slices.Reverse(chain)
	return chain
}

// plain takes the " [p.test]" off a package that was recompiled for a test.
func plain(path string) string {
	path, _, _ = strings.Cut(path, " ")
	return path
}

func matchesAny(patterns []string, p string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, p) })
}

func matches(pattern, p string) bool {
	if pattern == "..." {
		return true
	}
	if prefix, ok := strings.CutSuffix(pattern, "/..."); ok {
		return p == prefix || strings.HasPrefix(p, prefix+"/")
	}
	return p == pattern
}
