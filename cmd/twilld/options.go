package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/twill-net/twill/backend/nftables"
	"github.com/twill-net/twill/overlay/firewall"
	"github.com/twill-net/twill/overlay/install"
	"github.com/twill-net/twill/overlay/journal"
	"github.com/twill-net/twill/overlay/pods/confdir"
	"github.com/twill-net/twill/overlay/underlay"
	"github.com/twill-net/twill/subnet"
	"github.com/twill-net/twill/subnet/etcd"
	"github.com/twill-net/twill/subnet/kube"
)

// options are the flags as given.
type options struct {
	etcd etcd.Config
	kube kube.Config

	nodeName, stateDir, subnetFile, socket string

	iface     underlay.Flags
	publicIPs subnet.PerFamily[string]

	ipMasq, ipMasqFullyRandomDisable, ipBlackholeRoute bool

	firewall       string
	iptablesResync seconds
	forwardRules   bool
	vtepHygiene    bool
	cniConfDir     string
	cniConfInstall string

	healthzIP   string
	healthzPort int

	logLevel, logFormat             string
	cleanup, releaseOnExit, version bool
}

// flags returns the flag set that fills o. The standard library's is used for
// what flannel's users write: one dash or two.
func (o *options) flags() *flag.FlagSet {
	fs := flag.NewFlagSet("twilld", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // main says what is wrong
	fs.Usage = func() {}
	hostname, _ := os.Hostname()
	o.etcd = etcd.DefaultConfig()
	o.etcd.RegisterFlags(fs)
	o.etcd.RegisterLeaseFlags(fs)
	o.kube = kube.DefaultConfig()
	o.kube.RegisterFlags(fs)
	fs.StringVar(&o.nodeName, "node-name", hostname, "`name` of this node, its identity: who has it gets its subnet back; with --kube-subnet-mgr its Node's, and NODE_NAME is taken before the host's name")
	fs.StringVar(&o.stateDir, "state-dir", "/var/lib/twill", "`directory` kept over restarts")
	fs.StringVar(&o.subnetFile, "subnet-file", "/run/twill/subnet.env", "`file` in which the CNI plugin finds this node's subnet")
	fs.StringVar(&o.socket, "socket", "/run/twill/twilld.sock", "unix `socket` on which twill status asks")
	o.iface.Register(fs)
	fs.StringVar(&o.publicIPs[subnet.IPv4], "public-ip", "", "IPv4 `address` that peers are told, where they see another than ours, behind NAT (default: the interface's)")
	fs.StringVar(&o.publicIPs[subnet.IPv6], "public-ipv6", "", "IPv6 `address` that peers are told, likewise (default: the interface's)")
	fs.BoolVar(&o.ipMasq, "ip-masq", false, "masquerade what leaves the overlay network: others see the node's address, not the pod's")
	fs.BoolVar(&o.ipMasqFullyRandomDisable, "ip-masq-fully-random-disable", false, "keep source ports where they are free when masquerading")
	fs.BoolVar(&o.ipBlackholeRoute, "ip-blackhole-route", false, "drop packets to pods of this node's subnet that do not exist, instead of sending them to the default route")
	fs.StringVar(&o.firewall, "firewall", "auto", "`which` firewall holds the rules: nftables, iptables (of the variant that the host's own iptables is), or auto: as EnableNFTables in the network config says, and where that is absent, nftables if the kernel has it, else iptables")
	fs.BoolVar(&o.forwardRules, "iptables-forward-rules", true, "accept what is forwarded from and to the network, wherever on this host it would be dropped; false: nowhere")
	o.iptablesResync = seconds(5 * time.Second)
	fs.Var(&o.iptablesResync, "iptables-resync", "time between two looks at rules of iptables-legacy, which tells no changes, as `seconds` or a duration, from 1s to 1h")
	fs.BoolVar(&o.vtepHygiene, "vtep-hygiene", true, "drop VXLAN that is not from a peer, or is from a peer and not from its subnet, and what pods send that is not from their own address")
	fs.StringVar(&o.cniConfDir, "cni-conf-dir", confdir.Default, "`directory` from which the container runtime takes its CNI configs; ours tell where the addresses of pods are reserved")
	fs.StringVar(&o.cniConfInstall, "cni-conf-install", "", "`file` put to 10-twill.conflist in --cni-conf-dir when this node first becomes ready, and kept there; --cleanup with this flag removes it (default: none)")
	fs.StringVar(&o.healthzIP, "healthz-ip", "0.0.0.0", "`address` for /healthz, /readyz and /metrics")
	fs.IntVar(&o.healthzPort, "healthz-port", 0, "`port` for /healthz, /readyz and /metrics; 0: not served")
	fs.StringVar(&o.logLevel, "log-level", "info", "`level`: debug, info, warn or error")
	fs.StringVar(&o.logFormat, "log-format", "auto", "`format`: text, json, journal (priorities, no times), or auto: journal where systemd's journal reads, else text")
	fs.BoolVar(&o.cleanup, "cleanup", false, "remove all that carries our mark from this host, and the files named by --subnet-file, --socket and --state-dir, and exit; the lease, and the pods' bridge, stay")
	fs.BoolVar(&o.releaseOnExit, "release-on-exit", false, "give the lease up when stopped: for nodes that do not come back")
	fs.BoolVar(&o.version, "version", false, "print the version and exit")
	return fs
}

// seconds is flannel's form of a duration, a plain number; we take a duration
// as well.
type seconds time.Duration

func (s *seconds) String() string { return time.Duration(*s).String() }

func (s *seconds) Set(v string) error {
	d, err := time.ParseDuration(v)
	if n, nerr := strconv.ParseInt(v, 10, 32); nerr == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < time.Second || d > time.Hour {
		return errors.New("it must be a number of seconds or a duration such as 5s, from 1s to 1h")
	}
	*s = seconds(d)
	return nil
}

// underlay returns the validated choice of the external interface.
func (o *options) underlay(ours *regexp.Regexp) (underlay.Options, error) {
	u, err := o.iface.Options()
	if err != nil {
		return u, err
	}
	u.Ours = ours.MatchString
	names := subnet.PerFamily[string]{"--public-ip", "--public-ipv6"}
	for _, f := range subnet.Families {
		s := o.publicIPs[f]
		if s == "" {
			continue
		}
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" || a.Is4In6() || subnet.FamilyOf(a) != f || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
			return u, fmt.Errorf("%s %q is not an %s address of a host", names[f], s, f)
		}
		u.PublicIPs[f] = a
	}
	return u, nil
}

// rules returns the host's firewall.
func (o *options) rules() (*firewall.Firewall, error) {
	asked, err := firewall.ParseAsked(o.firewall)
	if err != nil {
		return nil, fmt.Errorf("--firewall %q is %w", o.firewall, err)
	}
	return firewall.New(firewall.Config{Asked: asked, Resync: time.Duration(o.iptablesResync)}, nftables.New(), nftables.NewForeign()), nil
}

// conflist is where the runtime finds the network config that we install.
func (o *options) conflist() string { return filepath.Join(o.cniConfDir, "10-twill.conflist") }

// cniConf returns the network config to install; nil for none.
func (o *options) cniConf() (*install.Conflist, error) {
	if o.cniConfInstall == "" {
		return nil, nil
	}
	c, err := install.ReadConflist(o.cniConfInstall, o.conflist())
	if err != nil {
		return nil, fmt.Errorf("--cni-conf-install: %w", err)
	}
	return c, nil
}

// uninstall removes the network config that was installed. One that an
// administrator put there stays.
func (o *options) uninstall(log *logrus.Entry) error {
	if o.cniConfInstall == "" {
		return nil
	}
	removed, err := install.RemoveConflist(o.conflist())
	if removed {
		log.WithField("object", "file "+o.conflist()).Info("removed")
	}
	return err
}

// health returns where the health checks are served; port 0 for nowhere.
func (o *options) health() (netip.AddrPort, error) {
	ip, err := netip.ParseAddr(o.healthzIP)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("--healthz-ip %q is not an address", o.healthzIP)
	}
	if o.healthzPort < 0 || o.healthzPort > 65535 {
		return netip.AddrPort{}, fmt.Errorf("--healthz-port %d is not from 0 to 65535", o.healthzPort)
	}
	return netip.AddrPortFrom(ip, uint16(o.healthzPort)), nil
}

// logger returns the log that --log-level and --log-format ask for.
func (o *options) logger(out io.Writer) (*logrus.Entry, error) {
	log := logrus.New()
	log.SetOutput(out)
	level, err := logrus.ParseLevel(o.logLevel)
	if err != nil {
		return nil, fmt.Errorf("--log-level %q is not debug, info, warn or error", o.logLevel)
	}
	log.SetLevel(level)
	format := o.logFormat
	if format == "auto" {
		format = "text"
		if journal.IsStderr(out) {
			format = "journal"
		}
	}
	switch format {
	case "text":
		log.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, DisableColors: true})
	case "json":
		log.SetFormatter(&logrus.JSONFormatter{})
	case "journal":
		log.SetFormatter(journal.Formatter{})
	default:
		return nil, fmt.Errorf("--log-format %q is not auto, text, json or journal", o.logFormat)
	}
	return logrus.NewEntry(log), nil
}
