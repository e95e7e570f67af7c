// Package reference writes Documentation/reference.md from the code: each test
// called TestReference renders a section, which stands between two markers, and
// fails when the page says something else. `make generate` writes the sections
// anew. The package imports the standard library only.
package reference

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// write is the variable under which a section is written instead of compared.
const write = "TWILL_WRITE_REFERENCE"

// Check compares the named section of the page with text, which the code says.
func Check(t *testing.T, name, text string) {
	t.Helper()
	page, err := find()
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	now, err := replace(string(old), name, text)
	switch {
	case err != nil:
		t.Fatalf("%s: %v", page, err)
	case now == string(old):
	case os.Getenv(write) == "":
		t.Errorf("%s: section %q is not what the code says: make generate", page, name)
	default:
		if err := os.WriteFile(page, []byte(now), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// find returns the page's path, from any folder of the module.
func find() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		page := filepath.Join(dir, "Documentation", "reference.md")
		if _, err := os.Stat(page); err == nil {
			return page, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no folder above this one has Documentation/reference.md")
		}
		dir = up
	}
}

// replace returns the page with text between the section's two markers.
func replace(page, name, text string) (string, error) {
	begin, end := "<!-- begin "+name+", generated -->\n", "<!-- end "+name+" -->"
	before, rest, ok := strings.Cut(page, begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed || strings.Count(page, begin) != 1 {
		return "", fmt.Errorf("it must have, once, the markers %q and %q", begin, end)
	}
	return before + begin + "\n" + strings.TrimSpace(text) + "\n\n" + end + after, nil
}

// Table renders rows below a header; cells are Markdown.
func Table(header []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) {
		escaped := make([]string, len(cells))
		for i, c := range cells {
			escaped[i] = strings.ReplaceAll(strings.Join(strings.Fields(c), " "), "|", `\|`)
		}
		b.WriteString("| " + strings.Join(escaped, " | ") + " |\n")
	}
	line(header)
	b.WriteString(strings.Repeat("|---", len(header)) + "|\n")
	for _, r := range rows {
		line(r)
	}
	return strings.ReplaceAll(b.String(), "|  |", "| |")
}

// Code renders a value, nothing for none.
func Code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

// Prose renders a help text: what would be HTML is text, and flags, variables,
// paths and commands stand out.
func Prose(s string) string {
	return asCode.ReplaceAllString(strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s), "$1`$2`")
}

var asCode = regexp.MustCompile(`(^|[\s(])(--[a-z][a-z0-9-]*[a-z0-9](?:=\w+)?|TWILLD?_[A-Z_]+[A-Z]|/[a-z][\w./-]*\w|twill (?:store |config )?[a-z]+)\b`)

// statedDefault is how a help text tells a default that is no fixed value.
var statedDefault = regexp.MustCompile(`(?s)\s*\(default:? (.*)\)$`)

// Default returns a flag's default as the reference tells it, and its help text
// without: one that is computed stands at the end of the text in parentheses.
func Default(value, usage string) (def, text string) {
	if m := statedDefault.FindStringSubmatch(usage); m != nil {
		return Prose(m[1]), strings.TrimSuffix(usage, m[0])
	}
	if value == "[]" { // of an empty list, as pflag has it
		value = ""
	}
	return Code(short(strings.Trim(value, "[]"))), usage
}

// short drops the zeros of a duration: 24h of 24h0m0s.
func short(value string) string {
	if d, err := time.ParseDuration(value); err != nil || d.String() != value {
		return value
	}
	for _, zero := range []string{"m0s", "h0m"} {
		if rest, ok := strings.CutSuffix(value, zero); ok {
			value = rest + zero[:1]
		}
	}
	return value
}
