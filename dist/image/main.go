// Command image packs root file systems, one for each architecture, into an
// image archive: an OCI image layout in a tar, which containerd imports
// ("ctr images import", "nerdctl load", "kind load image-archive"), as do
// Docker from 25 on, podman and skopeo. It needs neither a container engine nor
// a registry. The same directories give the same bytes.
//
//	image -o OUT.tar -name REF[,REF...] [-entrypoint A,B] [-cmd A,B] [-user U]
//	      [-workdir DIR] [-env K=V]... [-label K=V]... ARCH=DIR...
//
// All times are SOURCE_DATE_EPOCH, or 0; all files belong to root.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "image: %v\n", err)
		os.Exit(1)
	}
}

// Root is the root file system of one platform.
type Root struct {
	Platform v1.Platform
	Dir      string
}

func run(args []string) error {
	var out, names, entrypoint, cmd string
	config := v1.Config{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Labels: map[string]string{}}
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.StringVar(&out, "o", "", "`archive` to write")
	flags.StringVar(&names, "name", "", "`names` of the image, comma-separated")
	flags.StringVar(&entrypoint, "entrypoint", "", "`program` and its first arguments, comma-separated")
	flags.StringVar(&cmd, "cmd", "", "default `arguments`, comma-separated")
	flags.StringVar(&config.User, "user", "", "`user`[:group] to run as")
	flags.StringVar(&config.WorkingDir, "workdir", "", "`directory` to start in")
	flags.Func("env", "`K=V` of the environment; may be repeated", func(s string) error {
		config.Env = append(config.Env, s)
		_, _, err := pair(s)
		return err
	})
	flags.Func("label", "`K=V`, also an annotation of the image; may be repeated", func(s string) error {
		k, v, err := pair(s)
		config.Labels[k] = v
		return err
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	config.Entrypoint, config.Cmd = list(entrypoint), list(cmd)

	roots, err := parseRoots(flags.Args())
	if err != nil {
		return err
	}
	created, err := epoch(os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return err
	}
	if out == "" || names == "" || len(roots) == 0 {
		return errors.New("-o, -name and at least one ARCH=DIR are needed; -h lists the flags")
	}
	return Build(out, list(names), config, created, roots)
}

func parseRoots(args []string) ([]Root, error) {
	var roots []Root
	for _, arg := range args {
		arch, dir, err := pair(arg)
		if err != nil {
			return nil, err
		}
		platform, err := v1.ParsePlatform("linux/" + arch)
		if err != nil {
			return nil, fmt.Errorf("reading %q as an architecture, like amd64 or arm/v7: %w", arch, err)
		}
		roots = append(roots, Root{Platform: *platform, Dir: dir})
	}
	return roots, nil
}

func pair(s string) (k, v string, err error) {
	k, v, ok := strings.Cut(s, "=")
	if !ok || k == "" {
		return "", "", fmt.Errorf("%q is not KEY=VALUE", s)
	}
	return k, v, nil
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// epoch reads what https://reproducible-builds.org/specs/source-date-epoch/
// says, and is the start of 1970 without it.
func epoch(s string) (time.Time, error) {
	if s == "" {
		s = "0"
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(n, 0).UTC(), nil
}
