package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/renameio/v2"

	"github.com/twill-net/twill/overlay/pods"
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

// Put writes the config, unless all of it is there, perhaps with plugins of
// others. It reports whether it did, and whether what was there was broken: no
// runtime could read it.
func (c *Conflist) Put() (changed, broken bool, err error) {
	have, err := os.ReadFile(c.Path)
	switch {
	case err == nil && holds(have, c.content):
		return false, false, nil
	case err == nil:
		_, unreadable := libcni.NetworkConfFromBytes(have)
		broken = unreadable != nil
	case !errors.Is(err, fs.ErrNotExist):
		return false, false, fmt.Errorf("reading the CNI config: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(c.Path), 0o755); err != nil {
		return false, broken, fmt.Errorf("making the directory of CNI configs: %w", err)
	}
	if err := renameio.WriteFile(c.Path, c.content, 0o644); err != nil {
		return false, broken, fmt.Errorf("writing the CNI config: %w", err)
	}
	return true, broken, nil
}

// holds reports whether a config has all that ours has, unchanged and in that
// order. Service meshes add a plugin of theirs to the config that is there, and
// do so again whenever it is gone.
func holds(have, ours []byte) bool {
	if bytes.Equal(have, ours) {
		return true
	}
	had, plugins, err := parse(have)
	if err != nil {
		return false
	}
	shall, wanted, err := parse(ours)
	if err != nil || !reflect.DeepEqual(had, shall) {
		return false
	}
	for _, p := range plugins {
		if len(wanted) > 0 && reflect.DeepEqual(p, wanted[0]) {
			wanted = wanted[1:]
		}
	}
	return len(wanted) == 0
}

// parse returns what a list says besides its plugins, and these.
func parse(content []byte) (list map[string]any, plugins []any, err error) {
	if err := json.Unmarshal(content, &list); err != nil {
		return nil, nil, err
	}
	plugins, _ = list["plugins"].([]any)
	delete(list, "plugins")
	return list, plugins, nil
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
	if _, plugin := ourPlugin(content); plugin == nil {
		return false, nil
	}
	if err := os.Remove(path); err != nil {
		return false, fmt.Errorf("removing the CNI config: %w", err)
	}
	return true, nil
}

// ourPlugin returns what a list says of our plugin, and the list's name; nil
// where it is not a list, or has none of ours.
func ourPlugin(content []byte) (list string, plugin json.RawMessage) {
	var conf struct {
		Name    string
		Plugins []json.RawMessage
	}
	if json.Unmarshal(content, &conf) != nil {
		return "", nil
	}
	for _, plugin := range conf.Plugins {
		var p struct{ Type string }
		if json.Unmarshal(plugin, &p) == nil && p.Type == pods.Type {
			return conf.Name, plugin
		}
	}
	return "", nil
}
