package kube

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// How many inotify instances a cluster's programs have, as counted in one that
// runs: kube-apiserver 6 and kube-controller-manager 4; kubelet 6, containerd 2 and
// kube-proxy 1 on each node.
const (
	inotifyControl = 6 + 4
	inotifyNode    = 6 + 2 + 1
)

// inotifyRoom reports whether so many more inotify instances may be made. They
// are counted by user, and root is one on the whole machine: the kubelets of a
// cluster too many end with "too many open files", or see no change of a file.
func inotifyRoom(need int) error {
	var fds []int
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	for range need {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if errors.Is(err, unix.EMFILE) {
			limit, _ := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
			return fmt.Errorf("making room for the cluster's %d inotify instances: %d are left of fs.inotify.max_user_instances, which is %s on this machine: take another cluster down (make kube-down), or sysctl -w fs.inotify.max_user_instances=1024",
				need, len(fds), strings.TrimSpace(string(limit)))
		}
		if err != nil {
			return fmt.Errorf("making an inotify instance: %w", err)
		}
		fds = append(fds, fd)
	}
	return nil
}
