package iptables

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/twill-net/twill/subnet"
)

// Installed returns what is another when binaries that Detect looks for have
// come, gone or changed: their files, with size and time. It runs none of them.
func Installed() string {
	var b strings.Builder
	for _, f := range subnet.Families {
		for _, suffix := range suffixes {
			for _, name := range []string{programs[f] + suffix, programs[f] + suffix + "-restore"} {
				path, err := exec.LookPath(name)
				if err != nil {
					continue
				}
				file, _ := filepath.EvalSymlinks(path) // update-alternatives
				if info, err := os.Stat(path); err == nil {
					fmt.Fprintf(&b, "%s %s %d %s\n", path, file, info.Size(), info.ModTime())
				}
			}
		}
	}
	return b.String()
}

// suffixes are those of the binaries' names, in the order in which they count.
var suffixes = [...]string{"", "-nft", "-legacy"}
