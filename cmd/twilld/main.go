// Command twilld is the node daemon: it leases a subnet and keeps the overlay
// to its peers in the kernel. It holds flags, signals and wiring, no logic.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/sirupsen/logrus"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/backend/nftables/guard"
	"github.com/twill-net/twill/backend/vxlan"
	"github.com/twill-net/twill/cmd/internal/envflag"
	"github.com/twill-net/twill/overlay"
	"github.com/twill-net/twill/overlay/lastgood"
	"github.com/twill-net/twill/overlay/pods/leftover"
	"github.com/twill-net/twill/overlay/sdnotify"
	"github.com/twill-net/twill/overlay/statedir"
	"github.com/twill-net/twill/overlay/version"
)

// fullPass is the time between two looks at everything, for what sends no
// notification.
const fullPass = 30 * time.Second

// recallAfter is for how long the store is asked before a node goes by what it
// last knew: less than CNI's ADD waits for subnet.env.
const recallAfter = 3 * time.Second

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// exitUsage is EX_USAGE (sysexits.h): a flag or variable that cannot be used,
// which no restart mends. It is not 2: that is how Go ends a program that
// panicked, which a restart does mend.
const exitUsage = 64

// run returns the exit code: 0 after a stop or a clean-up, 1 when that failed,
// exitUsage.
func run(args []string, stdout, stderr io.Writer) int {
	var o options
	fs := o.flags()
	if err := o.parse(fs, args); errors.Is(err, flag.ErrHelp) {
		usage(stdout, fs)
		return 0
	} else if err != nil {
		fmt.Fprintf(stderr, "twilld: %v; see twilld --help\n", err)
		return exitUsage
	}
	if o.version {
		fmt.Fprintf(stdout, "twilld %s\n", version.Version)
		return 0
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(stderr, "twilld: argument %q is not a flag; see twilld --help\n", fs.Arg(0))
		return exitUsage
	}
	log, err := o.logger(stderr)
	if err != nil {
		fmt.Fprintf(stderr, "twilld: %v\n", err)
		return exitUsage
	}
	for _, warning := range envflag.Unknown(fs, envPrefix, os.Environ()) {
		log.Warn(warning)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if o.cleanup {
		err = o.clean(ctx, log)
	} else {
		err = o.serve(ctx, log)
	}
	var usage usageError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "twilld: %v\n", err)
		return exitUsage
	case err != nil:
		log.WithError(err).Error("stopped")
		return 1
	}
	return 0
}

// envPrefix is that of the variables which stand for flags.
const envPrefix = "TWILLD"

func (o *options) parse(fs *flag.FlagSet, args []string) error {
	if err := envflag.Parse(fs, envPrefix, args, os.LookupEnv); err != nil {
		return err
	}
	named := false
	fs.Visit(func(f *flag.Flag) { named = named || f.Name == "node-name" })
	o.inCluster(named)
	return nil
}

// variable returns the variable that stands for a flag.
func variable(flag string) string { return envflag.Name(envPrefix, flag) }

// usage writes the flags with their defaults.
func usage(out io.Writer, fs *flag.FlagSet) {
	fmt.Fprintln(out, "Usage: twilld [flags]\n\nEach flag is also a variable: --etcd-endpoints is "+variable("etcd-endpoints")+". A flag wins.\n\nFlags:")
	fs.SetOutput(out)
	fs.PrintDefaults()
}

// usageError is a flag that cannot be used.
type usageError struct{ error }

// host takes the host: its lock and its kernel.
func (o *options) host() (*statedir.Dir, *kernel.Kernel, error) {
	dir, err := statedir.Open(o.stateDir)
	if err != nil {
		return nil, nil, err
	}
	k, err := kernel.New(kernel.Config{})
	if err != nil {
		return nil, nil, errors.Join(err, dir.Close())
	}
	return dir, k, nil
}

// serve runs the daemon until ctx ends.
func (o *options) serve(ctx context.Context, log *logrus.Entry) error {
	cfg, err := o.agent(log)
	if err != nil {
		return usageError{err}
	}
	rules, err := o.rules()
	if err != nil {
		return usageError{err}
	}
	dir, k, err := o.host()
	if err != nil {
		return err
	}
	defer dir.Close()
	defer k.Close()
	cfg.MachineID = o.machineID(log)
	cfg.Route = func(a netip.Addr) (string, netip.Addr, error) { return k.RouteGet(ctx, a) }

	store, health, err := o.open(&cfg, log)
	if err != nil {
		return usageError{err}
	}
	defer store.Close()
	cfg.Position = store.Position
	if err := resume(store, cfg); err != nil {
		log.WithError(err).Warn("whether the store went back in time since the last run cannot be told")
	}

	tables := guard.New(guard.Config{})
	cfg.PodLinks = leftover.Host{Kernel: k}
	if cfg.Hygiene {
		cfg.Drops = tables.Drops
	}
	agent := overlay.New(cfg, store, k, rules, tables)
	log.WithFields(logrus.Fields{"version": version.Version, "node": cfg.Node}).Info("twilld starts")
	return agent.Run(ctx, health)
}

// resume has the store compare itself with what an earlier run knew of it.
func resume(store store, cfg overlay.Config) error {
	s, err := lastgood.ReadHead(cfg.LastGood)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case s.Position == "" || s.Store != cfg.StoreName:
		return nil
	}
	return store.Resume(s.Position)
}

// agent returns the validated config of the agent.
func (o *options) agent(log *logrus.Entry) (overlay.Config, error) {
	u, err := o.underlay(vxlan.DevicePattern)
	if err != nil {
		return overlay.Config{}, err
	}
	health, err := o.health()
	if err != nil {
		return overlay.Config{}, err
	}
	if o.nodeName == "" {
		return overlay.Config{}, errors.New("--node-name is empty, and this host has no name either")
	}
	cniConf, err := o.cniConf()
	if err != nil {
		return overlay.Config{}, err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return overlay.Config{
		Node: o.nodeName, Version: version.Version,
		Underlay: u, Host: backend.HostOptions{Blackhole: o.ipBlackholeRoute},
		Masquerade: o.ipMasq, RandomFull: !o.ipMasqFullyRandomDisable, Forward: o.forwardRules, Hygiene: o.vtepHygiene,
		LastGood: filepath.Join(o.stateDir, lastgood.FileName), RecallAfter: recallAfter,
		SubnetFile: o.subnetFile, FullPass: fullPass, Release: o.releaseOnExit,
		HealthAddr: health, Socket: o.socket,
		Log: log, Metrics: reg, Manager: sdnotify.New(log),
		CNIConfDir: o.cniConfDir, CNIConf: cniConf, CNIConfSource: o.cniConfInstall, Calm: calm(os.LookupEnv),
	}, nil
}

// clean removes all that carries our mark.
func (o *options) clean(ctx context.Context, log *logrus.Entry) error {
	rules, err := o.rules()
	if err != nil {
		return usageError{err}
	}
	dir, k, err := o.host()
	if err != nil {
		return err
	}
	defer dir.Close()
	defer k.Close()
	removed, err := overlay.Cleanup(ctx, k, []overlay.Remover{rules, guard.New(guard.Config{})}, o.subnetFile, o.socket, filepath.Join(o.stateDir, machineIDFile), filepath.Join(o.stateDir, lastgood.FileName))
	for _, object := range removed {
		log.WithField("object", object).Info("removed")
	}
	return errors.Join(err, o.uninstall(log), dir.Remove(), o.clearNode(ctx, log))
}
