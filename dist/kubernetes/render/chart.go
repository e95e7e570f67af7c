package main

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	commonutil "helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
)

// namespace is where the kustomizations put things.
const namespace = "kube-twill"

// chart renders the chart with these values, and returns what comes of each
// template, by its file's name, but for NOTES.txt and what is empty.
func chart(dir, namespace string, set map[string]any) (map[string]string, error) {
	c, err := loader.LoadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("loading the chart %s: %w", dir, err)
	}
	values, err := commonutil.ToRenderValues(c, set, common.ReleaseOptions{Name: "twill", Namespace: namespace, IsInstall: true}, nil)
	if err != nil {
		return nil, err
	}
	rendered, err := engine.Render(c, values)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for name, content := range rendered {
		if base := path.Base(name); strings.HasSuffix(base, ".yaml") && strings.TrimSpace(content) != "" {
			files[base] = strings.TrimSpace(content) + "\n"
		}
	}
	return files, nil
}

var (
	tagged    = regexp.MustCompile(`^v?([0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?)$`)
	described = regexp.MustCompile(`^v?([0-9]+\.[0-9]+\.[0-9]+)(-[0-9A-Za-z.]+)?-([0-9]+)-g([0-9a-f]+)(-dirty)?$`)
)

// chartVersion makes a semantic version, which charts need, of what git
// describe says: after a tag there are commits of the next version's.
func chartVersion(version string) string {
	if m := described.FindStringSubmatch(version); m != nil {
		return m[1] + m[2] + "+" + m[3] + ".g" + m[4] + strings.ReplaceAll(m[5], "-", ".")
	}
	if m := tagged.FindStringSubmatch(version); m != nil {
		return m[1]
	}
	return "0.0.0-git." + strings.ReplaceAll(version, "_", "-")
}
