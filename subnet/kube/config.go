package kube

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Config says where the API server is and what of it is ours. Make one with
// DefaultConfig; the error of a bad one names the flag (see RegisterFlags).
type Config struct {
	Enabled bool   // leases are kept in the Kubernetes API at all
	Node    string // the name of our Node

	Kubeconfig       string // file; "": the Pod's service account
	APIURL           string // instead of the one that the kubeconfig or the environment names
	AnnotationPrefix string // of our annotations
	NetworkConfig    string // file, net-conf.json
	SetUnavailable   bool   // keep the condition NetworkUnavailable

	ServiceAccount string        // directory with the token and ca.crt
	ConfigInterval time.Duration // between two looks at NetworkConfig

	Logger *logrus.Entry // nil: no logs
	// Health is told of trouble with the API server, and with nil that all is
	// well again. It is called from any goroutine, one call at a time, and must
	// not call the Store.
	Health func(error)
}

// DefaultConfig returns flannel's defaults.
func DefaultConfig() Config {
	return Config{
		AnnotationPrefix: "flannel.alpha.coreos.com",
		NetworkConfig:    "/etc/kube-flannel/net-conf.json",
		SetUnavailable:   true,
		ServiceAccount:   "/var/run/secrets/kubernetes.io/serviceaccount",
		ConfigInterval:   5 * time.Second, // the kubelet brings a changed ConfigMap within a minute
	}
}

// Validate reports the first setting that cannot work.
func (c Config) Validate() error {
	if c.Node == "" {
		return errors.New("--node-name is empty; it must be the name of this node's Node: NODE_NAME from spec.nodeName")
	}
	if c.NetworkConfig == "" {
		return errors.New("--net-config-path is empty; it must name a file such as " + DefaultConfig().NetworkConfig)
	}
	if c.ConfigInterval <= 0 {
		return fmt.Errorf("the interval of looks at the network config is %s; it must be more than 0", c.ConfigInterval)
	}
	if _, err := newNames(c.AnnotationPrefix); err != nil {
		return err
	}
	if u, err := url.Parse(c.APIURL); c.APIURL != "" &&
		(err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "") {
		return errors.New("--kube-api-url is no URL such as https://192.0.2.1:6443, or has a user or a query in it")
	}
	return nil
}

// rest returns how to reach the API server: by the kubeconfig, else with the
// Pod's service account. Another URL changes nothing about who we are.
func (c Config) rest() (*rest.Config, error) {
	if c.Kubeconfig != "" {
		cfg, err := clientcmd.BuildConfigFromFlags(c.APIURL, c.Kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("--kubeconfig-file %s: %w", c.Kubeconfig, err)
		}
		return cfg, nil
	}
	host := c.APIURL
	if host == "" {
		name, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
		if name == "" || port == "" {
			return nil, errors.New("no API server is known: this is no Pod (KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT); give --kubeconfig-file or --kube-api-url")
		}
		host = "https://" + net.JoinHostPort(name, port)
	}
	cfg := &rest.Config{Host: host}
	if !strings.HasPrefix(host, "https:") { // a token is not for everybody to read
		return cfg, nil
	}
	token, ca := filepath.Join(c.ServiceAccount, "token"), filepath.Join(c.ServiceAccount, "ca.crt")
	if _, err := os.Stat(token); err == nil {
		cfg.BearerTokenFile = token // read again when it is renewed
	} else if c.APIURL == "" {
		return nil, fmt.Errorf("reading the token of the Pod's service account: %w; give --kubeconfig-file where there is none", err)
	}
	if _, err := os.Stat(ca); err == nil {
		cfg.CAFile = ca
	}
	return cfg, nil
}
