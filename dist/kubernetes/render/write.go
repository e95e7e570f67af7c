package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

const notice = "# Rendered from the chart by `make generate`.\n"

// write renders the files of the kustomizations below the directory that has
// the chart, too.
func write(dir string) error {
	chartDir := filepath.Join(dir, "chart", "twill")
	// The chart's copy: an archive of it has nothing from elsewhere.
	conflist, err := os.ReadFile(filepath.Join(dir, "..", "cni-conf", "10-twill.conflist"))
	if err != nil {
		return err
	}
	if err := put(filepath.Join(chartDir, "files", "cni-conf.json"), conflist); err != nil {
		return err
	}
	for _, k := range []struct {
		dir   string
		files []string // of those that are rendered
		set   map[string]any
	}{
		{"base", []string{"rbac.yaml", "admission.yaml", "daemonset.yaml", "configmap.yaml"}, nil},
		{"overlays/ipv4", []string{"configmap.yaml"}, map[string]any{}},
		{"overlays/dual-stack", []string{"configmap.yaml"}, map[string]any{"network": map[string]any{"ipv6": "fd00:244::/56"}}},
		{"overlays/ipv6", []string{"configmap.yaml"}, map[string]any{"network": map[string]any{"ipv4": "", "ipv6": "fd00:244::/56"}}},
		{"uninstall", []string{"rbac.yaml", "admission.yaml", "uninstall.yaml"}, map[string]any{"uninstall": true}},
	} {
		set := map[string]any{"createNamespace": true}
		for name, value := range k.set {
			set[name] = value
		}
		rendered, err := chart(chartDir, namespace, set)
		if err != nil {
			return err
		}
		for _, name := range k.files {
			content, ok := rendered[name]
			if !ok {
				return fmt.Errorf("the chart renders no %s for %s", name, k.dir)
			}
			if name == "configmap.yaml" {
				err = putData(filepath.Join(dir, k.dir), content, k.dir == "base")
			} else {
				err = put(filepath.Join(dir, k.dir, name), []byte(notice+withoutChecksum(content)))
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// withoutChecksum takes the annotation away by which the chart has Pods
// replaced when the config changes: kustomize names the ConfigMap by its content.
func withoutChecksum(manifest string) string {
	var lines []string
	for line := range strings.Lines(manifest) {
		if !strings.HasPrefix(strings.TrimSpace(line), "checksum/config:") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// putData writes the data of a ConfigMap as files, for kustomize to make one:
// net-conf.json, or all.
func putData(dir, configMap string, all bool) error {
	var c struct{ Data map[string]string }
	if err := yaml.Unmarshal([]byte(configMap), &c); err != nil {
		return err
	}
	for name, content := range c.Data {
		if !json.Valid([]byte(content)) {
			return fmt.Errorf("%s in the ConfigMap is not JSON", name)
		}
		if !all && name != "net-conf.json" {
			continue
		}
		if err := put(filepath.Join(dir, name), []byte(content)); err != nil {
			return err
		}
	}
	return nil
}

func put(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}
