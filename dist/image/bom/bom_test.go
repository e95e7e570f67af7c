package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/stretchr/testify/require"
)

// This program itself, described twice.
func TestBOM(t *testing.T) {
	var boms [2][]byte
	for i := range boms {
		root := t.TempDir()
		out, err := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(root, "usr/bin/bom"), ".").CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.NoError(t, run([]string{"-name", "x", "-version", "v1", "-root", root, "-source", "../../.."}))
		boms[i], err = os.ReadFile(filepath.Join(root, "usr/share/doc/twill/sbom.cdx.json"))
		require.NoError(t, err)
		for _, licence := range []string{"std/LICENSE", "github.com/CycloneDX/cyclonedx-go/LICENSE", "github.com/CycloneDX/cyclonedx-go/NOTICE", "github.com/twill-net/twill/dist/image/LICENSE"} {
			require.FileExists(t, filepath.Join(root, "usr/share/licenses", licence))
		}
	}
	require.Equal(t, string(boms[0]), string(boms[1]))
	var bom cdx.BOM
	require.NoError(t, json.Unmarshal(boms[0], &bom))
	found := map[string]cdx.Component{}
	for _, c := range *bom.Components {
		found[c.Name] = c
	}
	require.Equal(t, "v1", found["/usr/bin/bom"].Version)
	require.NotEmpty(t, (*found["/usr/bin/bom"].Hashes)[0].Value)
	require.Equal(t, "Apache-2.0", (*found["github.com/CycloneDX/cyclonedx-go"].Licenses)[0].License.ID)
	require.NotEmpty(t, *found["github.com/google/licenseclassifier/v2"].Properties)
	require.Equal(t, "BSD-3-Clause", (*found["std"].Licenses)[0].License.ID)
}

func TestNoProgram(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(root, "script"), []byte("#!/bin/sh\n"), 0o755))
	require.ErrorContains(t, run([]string{"-name", "x", "-version", "v1", "-root", root, "-source", "../../.."}), "reading what "+root+"/script is made of")
}
