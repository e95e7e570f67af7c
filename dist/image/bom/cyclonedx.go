package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/package-url/packageurl-go"
)

// writeBOM writes a bill of materials that the same programs make again: it has
// neither a time nor a serial number.
func writeBOM(root, name, version string, programs []program, licences map[string][]string) error {
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: &cdx.Component{BOMRef: name, Type: cdx.ComponentTypeContainer, Name: name, Version: version}}
	var components []cdx.Component
	var dependencies []cdx.Dependency
	var refs []string
	for _, p := range programs {
		c, err := application(root, p, version)
		if err != nil {
			return err
		}
		components, refs = append(components, c), append(refs, c.BOMRef)
		var on []string
		for _, m := range p.modules {
			on = append(on, ref(m, version))
		}
		dependencies = append(dependencies, cdx.Dependency{Ref: c.BOMRef, Dependencies: &on})
	}
	dependencies = append([]cdx.Dependency{{Ref: name, Dependencies: &refs}}, dependencies...)
	for _, m := range modules(programs) {
		components = append(components, library(m, version, licences[m.path]))
	}
	bom.Components, bom.Dependencies = &components, &dependencies
	file := filepath.Join(root, "usr/share/doc/twill/sbom.cdx.json")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("writing the bill of materials: %w", err)
	}
	defer f.Close()
	return cdx.NewBOMEncoder(f, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6)
}

// application is a program, with the sum of its file.
func application(root string, p program, version string) (cdx.Component, error) {
	content, err := os.ReadFile(filepath.Join(root, p.path))
	if err != nil {
		return cdx.Component{}, err
	}
	sum := sha256.Sum256(content)
	return cdx.Component{
		BOMRef: "file:" + p.path, Type: cdx.ComponentTypeApplication, Name: p.path, Version: mainVersion(p, version),
		Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}},
	}, nil
}

// mainVersion is the version of a program's main module.
func mainVersion(p program, version string) string {
	if p.modules[0].local() {
		return version
	}
	return p.modules[0].version
}

func ref(m module, version string) string {
	if m.local() {
		m.version = version
	}
	if m.path == "std" {
		return "pkg:golang/std@" + strings.TrimPrefix(m.version, "go")
	}
	namespace, name := "", m.path
	if i := strings.LastIndex(m.path, "/"); i >= 0 {
		namespace, name = m.path[:i], m.path[i+1:]
	}
	return packageurl.NewPackageURL(packageurl.TypeGolang, namespace, name, m.version, nil, "").ToString()
}

func library(m module, version string, licences []string) cdx.Component {
	url := ref(m, version)
	if m.local() {
		m.version = version
	}
	c := cdx.Component{BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: m.path, Version: m.version, PackageURL: url}
	if m.sum != "" {
		c.Properties = &[]cdx.Property{{Name: "go:sum", Value: m.sum}}
	}
	if len(licences) > 0 {
		var choice cdx.Licenses
		for _, id := range licences {
			choice = append(choice, cdx.LicenseChoice{License: &cdx.License{ID: id}})
		}
		c.Licenses = &choice
	}
	return c
}
