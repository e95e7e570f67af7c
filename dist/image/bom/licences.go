package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licenseclassifier/v2/assets"
	escape "golang.org/x/mod/module"
)

// texts are the names of files that say under which terms a module is.
var texts = regexp.MustCompile(`(?i)^(un)?(licen[cs]es?|copying|notice|copyright|patents)([-._].*)?$`)

// code is what may be called license.go without being one.
var code = regexp.MustCompile(`(?i)\.(go|py|sh|js|ts|tmpl|yaml|yml|json|toml)$`)

// locator knows where modules are on this machine.
type locator struct {
	cache, goroot, source string
}

func newLocator(source string) (locator, error) {
	out, err := exec.Command("go", "env", "GOMODCACHE", "GOROOT").Output()
	if err != nil {
		return locator{}, fmt.Errorf("asking go for its directories: %w", err)
	}
	dirs := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(dirs) != 2 {
		return locator{}, fmt.Errorf("go env says %q, and is to say two directories", out)
	}
	return locator{cache: dirs[0], goroot: dirs[1], source: source}, nil
}

func (l locator) dir(path, version string, local bool) (string, error) {
	switch {
	case path == "std":
		return l.goroot, nil
	case local:
		return l.source, nil
	}
	p, err := escape.EscapePath(path)
	if err != nil {
		return "", err
	}
	v, err := escape.EscapeVersion(version)
	return filepath.Join(l.cache, p+"@"+v), err
}

// collect copies the licence texts of each module below dir, by the module's
// path, and returns the SPDX identifiers of those that are recognized, sorted.
// A module without a text is an error.
func collect(programs []program, where locator, dir string) (map[string][]string, error) {
	classifier, err := assets.DefaultClassifier()
	if err != nil {
		return nil, fmt.Errorf("loading the known licences: %w", err)
	}
	ids := map[string][]string{}
	for _, m := range modules(programs) {
		from, err := where.dir(m.path, m.version, m.local())
		if err != nil {
			return nil, fmt.Errorf("finding module %s: %w", m.path, err)
		}
		names, err := find(from, m.path == "std" || m.local())
		if err != nil {
			return nil, fmt.Errorf("looking for the licence of %s: %w", m.path, err)
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("module %s %s has no licence: it must not be given to others", m.path, m.version)
		}
		for _, name := range names {
			text, err := os.ReadFile(filepath.Join(from, name))
			if err != nil {
				return nil, fmt.Errorf("reading the licence of %s: %w", m.path, err)
			}
			target := filepath.Join(dir, filepath.FromSlash(m.path), name)
			if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
				return nil, err
			}
			if err := os.WriteFile(target, text, 0o644); err != nil {
				return nil, err
			}
			if strings.Contains(name, "/") {
				continue // of a part, not of the module
			}
			for _, match := range classifier.Match(classifier.Normalize(text)).Matches {
				if match.MatchType == "License" && match.Confidence > 0.9 && !slices.Contains(ids[m.path], match.Name) {
					ids[m.path] = append(ids[m.path], match.Name)
				}
			}
		}
		slices.Sort(ids[m.path])
	}
	return ids, nil
}

// find returns the licence texts in a module, relative to it; with top only
// those at its root. What tests and examples are under is left out: they are in
// no program.
func find(dir string, top bool) ([]string, error) {
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			skip := []string{"testdata", "vendor", "node_modules", ".git", "examples", "_examples"}
			if path != dir && (top || slices.Contains(skip, d.Name())) {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() && texts.MatchString(d.Name()) && !code.MatchString(d.Name()) {
			name, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			names = append(names, filepath.ToSlash(name))
		}
		return nil
	})
	return names, err
}
