package install

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/overlay/pods"
)

// mostAttached bounds the pods that a message names.
const mostAttached = 10

// attached names the pods that are attached to our network, each once, by what
// is known of them on the host; nil for none.
func (h Host) attached(all []backend.Interface, bridge string) error {
	var names []string
	unnamed := false
	for _, i := range all {
		if !pods.Ours(i.Alias) && (bridge == "" || i.Master != bridge) {
			continue
		}
		name, known := h.podOf(i)
		unnamed = unnamed || !known
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	if more := len(names) - mostAttached; more > 0 {
		names = append(names[:mostAttached], fmt.Sprintf("and %d more", more))
	}
	hint := ""
	if unnamed {
		hint = "; `crictl pods --id CONTAINER` says which pod a container is of"
	}
	return fmt.Errorf("pods are still attached on this node (%s): drain it, or delete them; a drain leaves those of DaemonSets: delete these, or keep them off the node%s",
		strings.Join(names, ", "), hint)
}

// podOf names the pod behind a link: NAMESPACE/NAME, if the runtime kept that
// (known), else its container, else the link alone.
func (h Host) podOf(i backend.Interface) (name string, known bool) {
	p, err := pods.Parse(i.Alias)
	if err != nil {
		return "behind the link " + i.Name, false
	}
	var kept struct {
		CNIArgs [][2]string `json:"cniArgs"`
	}
	content, err := os.ReadFile(filepath.Join(h.Root, pods.DefaultResults, pods.ResultFile(pods.Attachment{Network: p.Network, Container: p.Container, IfName: p.IfName})))
	if err == nil && json.Unmarshal(content, &kept) == nil {
		args := map[string]string{}
		for _, a := range kept.CNIArgs {
			args[a[0]] = a[1]
		}
		if namespace, name := args["K8S_POD_NAMESPACE"], args["K8S_POD_NAME"]; namespace != "" && name != "" {
			return namespace + "/" + name, true
		}
	}
	return fmt.Sprintf("container %s behind %s", p.Container, i.Name), false
}
