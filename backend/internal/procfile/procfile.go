// Package procfile reads files of /proc and /sys, which are always ready.
// os.ReadFile would put each into the runtime's poller for that while (those of
// /proc/sys and /proc/net can be polled), whose answer wakes another thread: in
// a daemon with nothing else to do that costs several times what the reading does.
// It imports nothing of the project.
package procfile

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Read returns what a file holds. Errors are *fs.PathError.
func Read(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path) // one that blocks is not polled
	b, err := io.ReadAll(f)
	return b, errors.Join(err, f.Close())
}
