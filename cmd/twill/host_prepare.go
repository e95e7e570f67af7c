package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/twill-net/twill/backend/kernel"
	"github.com/twill-net/twill/overlay/install"
	"github.com/twill-net/twill/overlay/lastgood"
	"github.com/twill-net/twill/overlay/underlay"
	"github.com/twill-net/twill/subnet"
)

const prepareHelp = `Load br_netfilter where it is not built in, and set the sysctls that twilld would set if it were allowed to: forwarding of the
families in use, router advertisements on the uplink, and that rules see what crosses the pods' bridge. It prints what it
changed. What is right already is not written. A network config that cannot be used is told on standard error, and is no failure,
since twilld waits for another one: what both families need is set then.

The flags, but for --host-root, are twilld's, and each is taken from twilld's variable, too: --iface-regex from TWILLD_IFACE_REGEX.
Without one that names the interface it is that of the address which this node had last (last-good.json in --state-dir), and then
that of the default route. A Node's InternalIP is not known here before twilld has run once.`

// prepareFlags are the flags of `twill host prepare` that are twilld's.
type prepareFlags struct {
	config, stateDir string
	iface            underlay.Flags
}

func (p *prepareFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&p.config, "net-config-path", "/etc/kube-flannel/net-conf.json", "`file` with the network config")
	fs.StringVar(&p.stateDir, "state-dir", "/var/lib/twill", "`directory` where twilld keeps what it knows")
	p.iface.Register(fs)
}

// lastNode returns by which addresses twilld spoke to its peers when it ran last:
// those of the interface that the Node's InternalIP, or an annotation, chose. A
// node that is new has none.
func (p *prepareFlags) lastNode() (underlay.Node, error) {
	s, err := lastgood.ReadHead(filepath.Join(p.stateDir, lastgood.FileName))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return underlay.Located(s.Own.Lease), err
}

func newHostPrepare() *cobra.Command {
	var p prepareFlags
	var root string
	c := &cobra.Command{
		Use:   "prepare",
		Short: "Set the sysctls and load the module that an unprivileged daemon needs",
		Long:  prepareHelp,
		Args:  cobra.NoArgs,
	}
	fs := flag.NewFlagSet(c.Name(), flag.ContinueOnError)
	p.register(fs)
	c.Flags().AddGoFlagSet(fs)
	c.Flags().StringVar(&root, "host-root", "/", "`directory` that is the host's root, whose modprobe is run")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := fromTwilldEnv(cmd, fs); err != nil {
			return err
		}
		o, err := p.iface.Options()
		if err != nil {
			return err
		}
		warn := func(format string, args ...any) { fmt.Fprintf(cmd.ErrOrStderr(), "Warning: "+format+"\n", args...) }
		if o.Node, err = p.lastNode(); err != nil {
			warn("%v: the interface is chosen without it", err)
		}
		cfg, err := readNetConf(p.config)
		if err != nil {
			warn("%v: preparing for both families", err)
		}
		k, err := kernel.New(kernel.Config{})
		if err != nil {
			return err
		}
		defer k.Close()
		changed, err := install.Preparation{Config: cfg, LoadModule: install.LoadModule(root), Underlay: o}.Run(cmd.Context(), k)
		for _, what := range changed {
			fmt.Fprintln(cmd.OutOrStdout(), what)
		}
		return err
	}
	return c
}

// readNetConf returns the zero value where there is no config that can be used.
func readNetConf(path string) (subnet.Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return subnet.Config{}, fmt.Errorf("reading the network config: %w", err)
	}
	cfg, err := subnet.ParseConfig(raw)
	if err != nil {
		return subnet.Config{}, fmt.Errorf("the network config %s cannot be used: %w", path, err)
	}
	return cfg, nil
}
