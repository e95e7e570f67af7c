//go:build cluster

package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/twill-net/twill/overlay/netlab"
	"github.com/twill-net/twill/overlay/netlab/kube"
)

// cluster is what all tests share. Before says what the nodes were like before
// Twill was installed.
var (
	cluster *kube.Cluster
	before  []corev1.Node
)

func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code, err := run(ctx, m)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(ctx context.Context, m *testing.M) (code int, err error) {
	if code, err = 1, start(ctx); err != nil {
		return code, err
	}
	// When the tests run into go test's own limit, the process ends and its end
	// of the nodes' life lines is closed: the cluster goes all the same.
	defer func() { err = errors.Join(err, cluster.Close()) }()
	if err := install(ctx); err != nil {
		return code, errors.Join(err, errors.New(diagnose(context.WithoutCancel(ctx))))
	}
	return m.Run(), nil
}

// start makes the cluster, with the parts and the image of this working tree.
func start(ctx context.Context) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	root, err := kube.Root(here)
	if err != nil {
		return err
	}
	o, err := options()
	if err != nil {
		return err
	}
	if o.Binaries, err = buildBinaries(ctx, root); err != nil {
		return err
	}
	if o.Parts, err = kube.BuildParts(ctx, root, os.Stderr); err != nil {
		return err
	}
	how := kube.Manifest
	if v := os.Getenv("INSTALL"); v != "" {
		how = kube.Install(v)
	}
	build = func(ctx context.Context, tag string) (kube.Twill, error) {
		return kube.BuildTwill(ctx, root, o.Stack, how, tag, os.Stderr)
	}
	if twill, err = build(ctx, ""); err != nil {
		return err
	}
	o.Images = []string{twill.Image}
	cluster, err = kube.New(ctx, o)
	return err
}

// twill is what is installed, and build makes another version of it.
var (
	twill kube.Twill
	build func(ctx context.Context, tag string) (kube.Twill, error)
)

// options reads what the run is to be like from the environment.
func options() (kube.Options, error) {
	o := kube.Options{Stack: netlab.DualStack, Proxy: kube.NFTables, Log: os.Stderr}
	var err error
	if v := os.Getenv("NODES"); v != "" {
		if o.Nodes, err = strconv.Atoi(v); err != nil || o.Nodes < 2 {
			err = fmt.Errorf("NODES is %q, must be a number, 2 at least", v)
		}
	}
	if v := os.Getenv("STACK"); v != "" {
		err = errors.Join(err, o.Stack.Set(v))
	}
	if v := os.Getenv("PROXY"); v != "" {
		err = errors.Join(err, o.Proxy.Set(v))
	}
	return o, err
}

// install remembers the nodes as they are, and installs Twill.
func install(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, n := range cluster.Nodes {
		node, err := cluster.WaitNoCNI(ctx, n.Name)
		if err != nil {
			return err
		}
		before = append(before, node)
	}
	if err := cluster.ApplyFile(ctx, twill.Manifest); err != nil {
		return err
	}
	return working(ctx)
}

// working waits until Twill, the nodes and CoreDNS do their work.
func working(ctx context.Context) error {
	if err := cluster.WaitReady(ctx); err != nil {
		return err
	}
	if _, err := cluster.WaitPods(ctx, "kube-twill", daemonSelector, len(cluster.Nodes)); err != nil {
		return err
	}
	_, err := cluster.WaitPods(ctx, "kube-system", "k8s-app=kube-dns", 1)
	return err
}
