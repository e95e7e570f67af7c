package bench

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/twill-net/twill/backend/vxlan"
)

// annotationPrefix is the default of --kube-annotation-prefix.
const annotationPrefix = "flannel.alpha.coreos.com/"

func (p peer) nodeName() string { return fmt.Sprintf("peer-%05d", p.number) }

// announcements are the annotations that the daemon of the peer writes.
func (p peer) announcements() map[string]string {
	return map[string]string{
		annotationPrefix + "kube-subnet-manager": "true",
		annotationPrefix + "backend-type":        "vxlan",
		annotationPrefix + "backend-data":        vxlan.Data{VNI: 1, VtepMAC: p.mac()}.Encode(),
		annotationPrefix + "public-ip":           p.publicIP().String(),
	}
}

// images is how many of its images a kubelet tells (--node-status-max-images).
const images = 50

// node returns the peer's Node as a kubelet keeps it: some 15 kB as JSON, half
// of them images.
func (p peer) node() *corev1.Node {
	subnet := p.subnet().String()
	amounts := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("131072Mi"),
		corev1.ResourcePods: resource.MustParse("110"), corev1.ResourceEphemeralStorage: resource.MustParse("512Gi"),
	}
	n := &corev1.Node{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: p.nodeName(), Annotations: p.announcements(), Labels: map[string]string{
			"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": p.nodeName(),
			"topology.kubernetes.io/zone": "a", "topology.kubernetes.io/region": "r", "node.kubernetes.io/instance-type": "large",
		}},
		Spec: corev1.NodeSpec{PodCIDR: subnet, PodCIDRs: []string{subnet}, ProviderID: "bench:///a/" + p.nodeName()},
		Status: corev1.NodeStatus{
			Capacity: amounts, Allocatable: amounts, Conditions: conditions(time.Now()),
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: p.publicIP().String()}, {Type: corev1.NodeHostName, Address: p.nodeName()}},
			NodeInfo: corev1.NodeSystemInfo{
				MachineID: fmt.Sprintf("%032x", p.number), SystemUUID: fmt.Sprintf("%032x", p.number), BootID: fmt.Sprintf("%032x", p.number),
				KernelVersion: "6.12.0", OSImage: "Debian GNU/Linux 12 (bookworm)", ContainerRuntimeVersion: "containerd://2.2.9",
				KubeletVersion: "v1.35.4", OperatingSystem: "linux", Architecture: "amd64",
			},
		},
	}
	n.Annotations["volumes.kubernetes.io/controller-managed-attach-detach"] = "true"
	n.Annotations["node.alpha.kubernetes.io/ttl"] = "0"
	for k := range images {
		name := fmt.Sprintf("registry.example.com/team-%d/image-%d", k%7, k)
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{
			Names:     []string{name + "@sha256:" + strings.Repeat(fmt.Sprintf("%08x", p.number*images+k), 8), fmt.Sprintf("%s:v1.%d", name, p.number)},
			SizeBytes: int64(p.number*k) << 10,
		})
	}
	return n
}

// conditions are what a kubelet says of itself, all well.
func conditions(now time.Time) (all []corev1.NodeCondition) {
	for _, c := range []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Reason: "KubeletHasSufficientMemory", Message: "kubelet has sufficient memory available"},
		{Type: corev1.NodeDiskPressure, Reason: "KubeletHasNoDiskPressure", Message: "kubelet has no disk pressure"},
		{Type: corev1.NodePIDPressure, Reason: "KubeletHasSufficientPID", Message: "kubelet has sufficient PID available"},
		{Type: corev1.NodeReady, Reason: "KubeletReady", Message: "kubelet is posting ready status"},
	} {
		c.Status, c.LastHeartbeatTime, c.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(now), metav1.NewTime(now)
		if c.Type == corev1.NodeReady {
			c.Status = corev1.ConditionTrue
		}
		all = append(all, c)
	}
	return all
}

// heartbeat is the patch by which a kubelet says, every five minutes, that it
// lives (--node-status-report-frequency).
func heartbeat(now time.Time) ([]byte, error) {
	type beat struct {
		Type corev1.NodeConditionType `json:"type"`
		At   metav1.Time              `json:"lastHeartbeatTime"`
	}
	var patch struct {
		Status struct {
			Conditions []beat `json:"conditions"`
		} `json:"status"`
	}
	for _, c := range conditions(now) {
		patch.Status.Conditions = append(patch.Status.Conditions, beat{c.Type, c.LastHeartbeatTime})
	}
	return json.Marshal(patch)
}

// ownNode is the Node that the daemon under test runs on, before it has
// announced itself.
func ownNode(name, address, subnet string) *corev1.Node {
	return &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.NodeSpec{PodCIDR: subnet, PodCIDRs: []string{subnet}},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}},
	}
}
