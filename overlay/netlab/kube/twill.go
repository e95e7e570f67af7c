package kube

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/twill-net/twill/overlay/netlab"
)

// Install is a way to install Twill.
type Install string

// What dist/kubernetes offers.
const (
	Manifest Install = "manifest" // the kustomize overlay of the stack
	Chart    Install = "chart"
)

// Twill is a version of Twill: files that are made of the working tree.
type Twill struct {
	Image     string // an archive for ImportImage
	Manifest  string // for ApplyFile
	Uninstall string // likewise, once the DaemonSet is deleted
}

// BuildTwill builds the image of Twill, from the working tree of the repository
// at root, and what installs and removes it, under a tag, which is the version
// that its programs tell. Without one the manifests are those of the repository,
// with the tag that these have, and the version is lab.
func BuildTwill(ctx context.Context, root string, stack netlab.Stack, how Install, tag string, progress io.Writer) (Twill, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(root, "dist/make/kube-twill"), string(stack), tag)
	cmd.Env = append(os.Environ(), "INSTALL="+string(how))
	cmd.Stdout, cmd.Stderr = &out, progress
	if err := cmd.Run(); err != nil {
		return Twill{}, fmt.Errorf("building Twill's image and manifest: %w", err)
	}
	lines := strings.Fields(out.String())
	if len(lines) != 3 {
		return Twill{}, fmt.Errorf("building Twill's image and manifest: dist/make/kube-twill says %q", &out)
	}
	return Twill{lines[0], lines[1], lines[2]}, nil
}
