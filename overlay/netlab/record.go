package netlab

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/twill-net/twill/subnet"
)

// record is lab.json: what runs, for the commands that come after the one that
// started the lab.
type record struct {
	Owner identity            `json:"owner"` // the process that is making the lab; zero once it is detached
	Hosts map[string]identity `json:"hosts"` // first processes
	Pods  []podRecord         `json:"pods"`
	Etcd  []string            `json:"etcd"` // its URLs in the lab

	Cgroup string `json:"cgroup,omitempty"` // of a lab of Machines
}

type podRecord struct {
	Name  string                       `json:"name"`
	Addrs subnet.PerFamily[netip.Addr] `json:"addrs"`
}

func (r *record) write(dir string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "lab.json")
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func readRecord(dir string) (r record, err error) {
	path := filepath.Join(dir, "lab.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("reading %s: %w", path, err)
	}
	return r, nil
}

// alive reports whether anything of the lab runs.
func (r *record) alive() bool {
	for _, id := range r.Hosts {
		if id.alive() {
			return true
		}
	}
	return r.Owner.PID != 0 && r.Owner.alive()
}
