package reference_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

var (
	fenced  = regexp.MustCompile("(?s)(?:^|\n) *```.*?\n *```")
	inline  = regexp.MustCompile("`[^`\n]*`")
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
)

// A relative link leads to a file that is there, and to a heading in it.
func TestLinks(t *testing.T) {
	t.Parallel()
	const root = "../../.."
	pages := 0
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && path != root:
			return nil // what another test has made there, and taken away
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin"):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".md":
			return nil
		}
		pages++
		page, err := os.ReadFile(path)
		for _, problem := range broken(path, string(page)) {
			t.Error(problem)
		}
		return err
	}))
	require.NotZero(t, pages)
}

func TestLinksCanFail(t *testing.T) {
	t.Parallel()
	page := filepath.Join(t.TempDir(), "page.md")
	text := "# A `b` c, d\n[1](#a-b-c-d) [2](page.md#a-b-c-d) [3](https://example.com/x) `[4](gone.md)`\n```\n# no heading\n[5](gone.md)\n```\n"
	require.NoError(t, os.WriteFile(page, []byte(text), 0o600))
	require.Empty(t, broken(page, text))
	require.Len(t, broken(page, text+"[6](gone.md) [7](#no-heading) [8](page.md#gone)"), 3)
}

// broken returns the links of a page that lead nowhere.
func broken(path, page string) (problems []string) {
	text := inline.ReplaceAllString(fenced.ReplaceAllString(page, ""), "")
	for _, m := range link.FindAllStringSubmatch(text, -1) {
		to, err := url.Parse(m[1])
		if err != nil || to.Scheme != "" {
			continue
		}
		target := path
		if to.Path != "" {
			target = filepath.Join(filepath.Dir(path), to.Path)
		}
		if _, err := os.Stat(target); err != nil {
			problems = append(problems, fmt.Sprintf("%s: %s: no such file", path, m[1]))
			continue
		}
		if to.Fragment == "" {
			continue
		}
		content, err := os.ReadFile(target)
		if err != nil || !anchors(string(content))[to.Fragment] {
			problems = append(problems, fmt.Sprintf("%s: %s: no such heading", path, m[1]))
		}
	}
	return problems
}

// anchors returns those of a page's headings, as GitHub makes them.
func anchors(page string) map[string]bool {
	all := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
		anchor := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, m[1])
		for n, base := 1, anchor; all[anchor]; n++ {
			anchor = fmt.Sprintf("%s-%d", base, n)
		}
		all[anchor] = true
	}
	return all
}
