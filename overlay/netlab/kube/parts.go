package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Parts are the programs and images that a cluster is made of, Twill's apart.
type Parts struct {
	Programs []string // directories
	Images   []string // archives
}

// BuildParts builds what is not in .cache/kubernetes of the repository at root
// yet, which takes long the first time: progress says with what.
func BuildParts(ctx context.Context, root string, progress io.Writer) (Parts, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(root, "dist/make/kube-parts"))
	cmd.Stdout, cmd.Stderr = &out, progress
	if err := cmd.Run(); err != nil {
		return Parts{}, fmt.Errorf("building the parts of a cluster: %w", err)
	}
	dirs := strings.Fields(out.String())
	if len(dirs) < 2 {
		return Parts{}, fmt.Errorf("building the parts of a cluster: dist/make/kube-parts says %q", &out)
	}
	images, err := filepath.Glob(filepath.Join(dirs[len(dirs)-1], "*.tar"))
	if err != nil {
		return Parts{}, err
	}
	return Parts{Programs: dirs[:len(dirs)-1], Images: images}, keepOnly(dirs[len(dirs)-1])
}

// keepOnly removes the directories of images of earlier builds, images-SUM-ARCH
// beside the one of now, of the same architecture. Clusters that run have theirs
// in containerd.
func keepOnly(now string) error {
	kind, rest, _ := strings.Cut(filepath.Base(now), "-")
	_, arch, ok := strings.Cut(rest, "-")
	if !ok {
		return fmt.Errorf("removing images of earlier builds: %s is not called KIND-SUM-ARCH", now)
	}
	old, err := filepath.Glob(filepath.Join(filepath.Dir(now), kind+"-*-"+arch))
	for _, dir := range old {
		if dir != now {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}
	return err
}

// partsFile is where a cluster's directory has the parts it is made of, for
// commands that come later.
const partsFile = "parts.json"

// Recorded returns the parts of the cluster in dir; none, where there is none.
func Recorded(dir string) (p Parts) {
	text, err := os.ReadFile(filepath.Join(dir, partsFile))
	if err != nil || json.Unmarshal(text, &p) != nil {
		return Parts{}
	}
	return p
}

func (p Parts) record(dir string) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, partsFile), text, 0o644)
}

// hidden are directories of this machine that a node has of its own.
var hidden = []string{"/tmp/", "/run/"}

// reachable returns the parts with paths that are the same on the nodes: what is
// in a hidden directory is linked, or copied, into the cluster's.
func (p Parts) reachable(dir string) (Parts, error) {
	dirs := make([]string, 0, len(p.Programs))
	for i, from := range p.Programs {
		to := from
		if slices.ContainsFunc(hidden, func(h string) bool { return strings.HasPrefix(from, h) }) {
			to = filepath.Join(dir, "programs", strconv.Itoa(i))
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return Parts{}, err
			}
			link := exec.Command("cp", "-rlT", from, to)
			if link.Run() != nil { // another file system
				if out, err := exec.Command("cp", "-rfT", from, to).CombinedOutput(); err != nil {
					return Parts{}, fmt.Errorf("copying the programs in %s to where nodes see them: %w: %s", from, err, out)
				}
			}
		}
		dirs = append(dirs, to)
	}
	p.Programs = dirs
	return p, nil
}

// program returns the path of one of the programs.
func (p Parts) program(name string) (string, error) {
	for _, dir := range p.Programs {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	if len(p.Programs) == 0 {
		return "", fmt.Errorf("finding %s: no cluster is up there", name)
	}
	return "", fmt.Errorf("%s is not in %s", name, strings.Join(p.Programs, ", "))
}

// path returns the PATH of what runs on the nodes: containerd looks for its
// shim there, and for runc.
func (p Parts) path() string {
	return "PATH=" + strings.Join(append(p.Programs[:len(p.Programs):len(p.Programs)],
		"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"), ":")
}
