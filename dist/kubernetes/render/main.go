// Command render renders the Helm chart and the kustomizations, as Helm and
// kustomize do, and writes the kustomizations' files from the chart, of which
// they are a rendering.
//
//	render chart DIR [-namespace NS] [-f VALUES.yaml]... [-set PATH=VALUE]...
//	render kustomize DIR
//	render write KUBERNETES-DIR
//	render package DIR VERSION OUT-DIR
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/cli/values"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "render: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	switch {
	case len(args) > 1 && args[0] == "chart":
		return printChart(args[1], args[2:], out)
	case len(args) == 2 && args[0] == "kustomize":
		return kustomize(args[1], out)
	case len(args) == 2 && args[0] == "write":
		return write(args[1])
	case len(args) == 4 && args[0] == "package":
		return pack(args[1], args[2], args[3], out)
	}
	return errors.New("which? chart DIR, kustomize DIR, write DIR, package DIR VERSION OUT-DIR")
}

func printChart(dir string, args []string, out io.Writer) error {
	var from values.Options
	flags := flag.NewFlagSet("chart", flag.ContinueOnError)
	namespace := flags.String("namespace", namespace, "of the release")
	flags.Func("f", "file with values", func(s string) error { from.ValueFiles = append(from.ValueFiles, s); return nil })
	flags.Func("set", "value, as Helm's --set", func(s string) error { from.Values = append(from.Values, s); return nil })
	if err := flags.Parse(args); err != nil {
		return err
	}
	set, err := from.MergeValues(nil)
	if err != nil {
		return err
	}
	files, err := chart(dir, *namespace, set)
	if err != nil {
		return err
	}
	for _, name := range inOrder(files) {
		fmt.Fprintf(out, "---\n# Source: %s\n%s", name, files[name])
	}
	return nil
}

// inOrder is the names of the files, first that with the namespace which the
// others are in.
func inOrder(files map[string]string) []string {
	return slices.SortedFunc(maps.Keys(files), func(a, b string) int {
		first := func(name string) int {
			if name == "rbac.yaml" {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(first(a), first(b)), cmp.Compare(a, b))
	})
}

func kustomize(dir string, out io.Writer) error {
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return err
	}
	y, err := resources.AsYaml()
	if err != nil {
		return err
	}
	_, err = out.Write(y)
	return err
}

// pack makes the archive that `helm install` takes.
func pack(dir, version, outDir string, out io.Writer) error {
	c, err := loader.LoadDir(dir)
	if err != nil {
		return err
	}
	c.Metadata.AppVersion = version
	c.Metadata.Version = chartVersion(version)
	file, err := util.Save(c, outDir)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, file)
	return err
}
