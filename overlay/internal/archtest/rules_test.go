package archtest

const module = "github.com/twill-net/twill"

// reach says how far a rule looks.
type reach int

const (
	direct     reach = iota // what the package itself imports
	transitive              // and everything that this imports
)

// rule forbids imports to packages. Packages are named as the go command does,
// without the module path: "subnet" is one package, "backend/..." that one and
// all below it, "..." all. The tests of a package are bound as the package is.
type rule struct {
	name  string
	bound []string
	free  []string // of the bound ones, those the rule leaves alone
	never []string // import paths; all below them is meant as well
	reach reach
}

// rules is the whole of it. .golangci.yml repeats the direct ones, so that an
// editor shows them too.
var rules = []rule{{
	name: "pure packages do no I/O, know no store and do not log",
	bound: []string{
		"subnet", "subnet/envfile", "subnet/etcd/acquire",
		"backend/...", // a new planner is bound from its first line
		"overlay/underlay",
	},
	free: []string{
		"backend/kernel", "backend/nftables", "backend/nftables/guard", "backend/nftables/internal/nft", "backend/iptables",
		"backend/internal/nfnetlink",
	},
	never: []string{
		"github.com/vishvananda/netlink", "github.com/mdlayher/netlink", "github.com/google/nftables",
		"github.com/coreos/go-iptables", "go.etcd.io", "k8s.io", "google.golang.org/grpc",
		"github.com/sirupsen/logrus",
	},
	reach: transitive,
}, {
	name:  "netlink has one importer",
	bound: []string{"..."},
	free:  []string{"backend/kernel"},
	never: []string{"github.com/vishvananda/netlink"},
}, {
	name:  "nftables has its importers below one folder",
	bound: []string{"..."},
	free:  []string{"backend/nftables", "backend/nftables/guard", "backend/nftables/internal/nft"},
	never: []string{"github.com/google/nftables"},
}, {
	name:  "only cmd, overlay and the stores log",
	bound: []string{"backend/..."},
	never: []string{"github.com/sirupsen/logrus", "log"},
}, {
	name:  "only cmd/twill links etcd's server: neither the daemon nor a test binary grows by it",
	bound: []string{"..."},
	free:  []string{"cmd/twill", "overlay/etcdserver"},
	never: []string{"go.etcd.io/etcd/server", "go.etcd.io/bbolt"},
	reach: transitive,
}, {
	name:  "the daemon takes its flags from the standard library",
	bound: []string{"cmd/twilld", "subnet/...", "backend/..."}, // client-go's kubeconfig brings pflag along
	never: []string{"github.com/spf13"},
}, {
	name:  "the daemon needs no lab",
	bound: []string{"cmd/twilld"},
	never: []string{"github.com/spf13/cobra", module + "/overlay/netlab"},
	reach: transitive,
}, {
	name:  "nobody links client-go's typed clientset: it alone doubles a binary",
	bound: []string{"..."},
	never: []string{"k8s.io/client-go/kubernetes"},
	reach: transitive,
}, {
	name:  "the stores know no kernel",
	bound: []string{"subnet/..."},
	never: []string{"github.com/vishvananda/netlink", "github.com/mdlayher/netlink", "github.com/google/nftables"},
	reach: transitive,
}, {
	name:  "the Kubernetes store knows no etcd",
	bound: []string{"subnet/kube"},
	never: []string{"go.etcd.io"},
}, {
	name:  "what prepares a host knows no store, and writes no network state",
	bound: []string{"overlay/install"},
	never: []string{module + "/subnet/etcd", module + "/subnet/kube", module + "/backend/nftables", "github.com/vishvananda/netlink", "github.com/sirupsen/logrus"},
}, {
	name:  "the CNI plugin stays small: it is started twice for each pod",
	bound: []string{"cmd/twill-cni"},
	never: []string{
		"go.etcd.io", "k8s.io", "google.golang.org/grpc", "github.com/prometheus",
		"github.com/spf13", "github.com/sirupsen/logrus",
	},
	reach: transitive,
}, {
	name:  "subnet knows neither backends nor the agent",
	bound: []string{"subnet/..."},
	never: []string{module + "/backend", module + "/overlay", module + "/cmd"},
}, {
	name:  "backend does not know the agent",
	bound: []string{"backend/..."},
	never: []string{module + "/overlay", module + "/cmd"},
}, {
	name:  "the agent knows stores, kernel and firewall by its own interfaces only",
	bound: []string{"overlay"},
	never: []string{
		"go.etcd.io", "google.golang.org/grpc", "k8s.io", "github.com/vishvananda/netlink", "github.com/google/nftables",
		module + "/subnet/etcd", module + "/backend/kernel", module + "/backend/nftables",
	},
	reach: transitive,
}, {
	name:  "overlay does not know the commands",
	bound: []string{"overlay/..."},
	never: []string{module + "/cmd"},
}}

// topLevel is all that may stand at the top of the repository, beside dotfiles.
var topLevel = []string{
	"overlay", "subnet", "backend", "cmd", "Documentation", "dist",
	"go.mod", "go.sum", "Makefile", "README.md", "LICENSE", "CONTRIBUTING.md", "CHANGELOG.md",
}

// built is what `make build` puts beside it, and .gitignore keeps out.
var built = []string{"bin"}
