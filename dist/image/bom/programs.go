package main

import (
	"debug/buildinfo"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
)

// module is a Go module in a program, after its replacement if it has one. Go
// itself is the module "std".
type module struct {
	path, version, sum string
}

// local reports whether it was built from a working tree.
func (m module) local() bool { return m.version == "" || m.version == "(devel)" }

// program is an executable with what is linked into it; main comes first.
type program struct {
	path    string // below the root, with a slash before it
	modules []module
}

// readPrograms returns the Go programs below root, in lexical order. An
// executable that tells nothing of itself is an error: its parts are unknown.
func readPrograms(root string) ([]program, error) {
	var programs []program
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if info, err := d.Info(); err != nil || info.Mode()&0o111 == 0 {
			return err
		}
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reading what %s is made of: %w", path, err)
		}
		p := program{path: strings.TrimPrefix(path, root), modules: []module{of(&info.Main)}}
		for _, dep := range info.Deps {
			p.modules = append(p.modules, of(dep))
		}
		p.modules = append(p.modules, module{path: "std", version: info.GoVersion})
		programs = append(programs, p)
		return nil
	})
	return programs, err
}

func of(m *debug.Module) module {
	if m.Replace != nil {
		m = m.Replace
	}
	return module{path: m.Path, version: m.Version, sum: m.Sum}
}

// modules returns all modules of the programs, each once, by path and version.
func modules(programs []program) []module {
	var all []module
	for _, p := range programs {
		all = append(all, p.modules...)
	}
	slices.SortFunc(all, func(a, b module) int {
		return strings.Compare(a.path+"@"+a.version, b.path+"@"+b.version)
	})
	return slices.CompactFunc(all, func(a, b module) bool { return a.path == b.path && a.version == b.version })
}
