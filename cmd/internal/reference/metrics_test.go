package reference_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/cmd/internal/reference"
)

var metricName = regexp.MustCompile(`^twill_[a-z_]+$`)

// checkMetrics finds the metrics in the agent's source: a registry shows those
// with labels only once they have been counted.
func checkMetrics(t *testing.T) {
	files, err := filepath.Glob("../../../overlay/*.go")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var rows [][]string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		parsed, err := parser.ParseFile(token.NewFileSet(), file, source, parser.SkipObjectResolution)
		require.NoError(t, err)
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			row := metric(call)
			if row != nil {
				rows = append(rows, row)
			}
			return row == nil
		})
	}
	slices.SortFunc(rows, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	require.NotEmpty(t, rows)
	reference.Check(t, "metrics", reference.Table([]string{"metric", "kind", "meaning"}, rows))
}

// metric returns the row of a call that makes a metric: the literals in it are
// name, help and labels, in this order.
func metric(call *ast.CallExpr) []string {
	var texts []string
	ast.Inspect(call, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if s, err := strconv.Unquote(lit.Value); err == nil {
				texts = append(texts, s)
			}
		}
		return true
	})
	if len(texts) < 2 || !metricName.MatchString(texts[0]) || metricName.MatchString(texts[1]) || !firstLevel(call) {
		return nil
	}
	name, kind := texts[0], "gauge"
	if strings.HasSuffix(name, "_total") { // the convention, which promlint holds
		kind = "counter"
	}
	if labels := texts[2:]; len(labels) > 0 {
		name += "{" + strings.Join(labels, ",") + "}"
	}
	return []string{reference.Code(name), kind, reference.Prose(texts[1])}
}

// firstLevel tells a call that makes one metric from one around it.
func firstLevel(call *ast.CallExpr) bool {
	for _, arg := range call.Args {
		switch arg := arg.(type) {
		case *ast.BasicLit:
			return true
		case *ast.CompositeLit:
			for _, e := range arg.Elts {
				if kv, ok := e.(*ast.KeyValueExpr); ok {
					if id, ok := kv.Key.(*ast.Ident); ok && id.Name == "Name" {
						return true
					}
				}
			}
		}
	}
	return false
}
