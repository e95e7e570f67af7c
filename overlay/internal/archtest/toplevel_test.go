package archtest

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTopLevel(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(root)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	missing, stray := compareTop(names)
	require.Empty(t, missing, "missing at the top of the repository")
	require.Empty(t, stray, "does not belong at the top of the repository")
}

// compareTop returns what of the top level is missing, and what is too much.
func compareTop(names []string) (missing, stray []string) {
	for _, want := range topLevel {
		if !slices.Contains(names, want) {
			missing = append(missing, want)
		}
	}
	for _, name := range names {
		if !slices.Contains(topLevel, name) && !slices.Contains(built, name) && !strings.HasPrefix(name, ".") {
			stray = append(stray, name)
		}
	}
	return missing, stray
}

func TestTopLevelCanFail(t *testing.T) {
	t.Parallel()
	missing, stray := compareTop(slices.Concat(topLevel, built, []string{".git", ".ci"}))
	require.Empty(t, missing)
	require.Empty(t, stray)

	missing, stray = compareTop(append(slices.Clone(topLevel[1:]), "pkg", "subnets"))
	require.Equal(t, topLevel[:1], missing)
	require.Equal(t, []string{"pkg", "subnets"}, stray)
}
