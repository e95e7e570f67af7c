package kernel

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// DeleteBridge deletes a bridge that nothing hangs on, and reports whether there
// was one. What has its name and is no bridge is an error, as are ports.
func (k *Kernel) DeleteBridge(ctx context.Context, name string) (was bool, err error) {
	all, _, err := k.interfaces(ctx)
	if err != nil {
		return false, fmt.Errorf("deleting bridge %s: %w", name, err)
	}
	var ports []string
	for _, i := range all {
		switch {
		case i.Name == name && i.Kind != "bridge":
			return false, fmt.Errorf("deleting bridge %s: it is of kind %q", name, i.Kind)
		case i.Name == name:
			was = true
		case i.Master == name:
			ports = append(ports, i.Name)
		}
	}
	if !was {
		return false, nil
	}
	if len(ports) > 0 {
		return false, fmt.Errorf("deleting bridge %s: it has ports: %s", name, strings.Join(ports, ", "))
	}
	d, err := k.device(byName(name))
	if err == nil {
		err = k.do(request(unix.RTM_DELLINK, 0, byIndex(d.index)...))
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return false, fmt.Errorf("deleting bridge %s: %w", name, err)
	}
	return true, nil
}
