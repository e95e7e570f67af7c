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

// BuildTwill builds the image of Twill, from the working tree of the repository
// at root, and what installs it, under a tag.
func BuildTwill(ctx context.Context, root string, stack netlab.Stack, how Install, tag string, progress io.Writer) (image, manifest string, err error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(root, "dist/make/kube-twill"), string(stack), tag)
	cmd.Env = append(os.Environ(), "INSTALL="+string(how))
	cmd.Stdout, cmd.Stderr = &out, progress
	if err := cmd.Run(); err != nil {
		return "", "", fmt.Errorf("building Twill's image and manifest: %w", err)
	}
	lines := strings.Fields(out.String())
	if len(lines) != 2 {
		return "", "", fmt.Errorf("building Twill's image and manifest: dist/make/kube-twill says %q", &out)
	}
	return lines[0], lines[1], nil
}
