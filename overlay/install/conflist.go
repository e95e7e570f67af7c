package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/renameio/v2"
)

// Conflist is a CNI network config in the place from which the container
// runtime takes it. While it is there, the runtime calls the node's network
// ready.
type Conflist struct {
	Path    string
	content []byte
}

// ReadConflist reads the config that is to be put to path, and checks it as a
// runtime would.
func ReadConflist(source, path string) (*Conflist, error) {
	content, err := os.ReadFile(source)
	if err != nil {
		return nil, fmt.Errorf("reading the CNI config to install: %w", err)
	}
	if _, err := libcni.NetworkConfFromBytes(content); err != nil {
		return nil, fmt.Errorf("the CNI config %s cannot be used: %w", source, err)
	}
	return &Conflist{Path: path, content: content}, nil
}

// Put writes the config, unless it is there as it must be, and reports whether
// it did.
func (c *Conflist) Put() (changed bool, err error) {
	have, err := os.ReadFile(c.Path)
	if err == nil && bytes.Equal(have, c.content) {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("reading the CNI config: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(c.Path), 0o755); err != nil {
		return false, fmt.Errorf("making the directory of CNI configs: %w", err)
	}
	if err := renameio.WriteFile(c.Path, c.content, 0o644); err != nil {
		return false, fmt.Errorf("writing the CNI config: %w", err)
	}
	return true, nil
}

// RemoveConflist removes the config, if it is one of ours: a list with our
// plugin in it. It reports whether it did.
func RemoveConflist(path string) (removed bool, err error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the CNI config: %w", err)
	}
	var list struct{ Plugins []struct{ Type string } }
	if json.Unmarshal(content, &list) != nil {
		return false, nil // not ours
	}
	for _, p := range list.Plugins {
		if p.Type == "twill" {
			if err := os.Remove(path); err != nil {
				return false, fmt.Errorf("removing the CNI config: %w", err)
			}
			return true, nil
		}
	}
	return false, nil
}
