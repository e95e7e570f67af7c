package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/twill-net/twill/subnet"
)

// connect prepares the client that the methods below share.
func (c *Cluster) connect() error {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(c.ca) {
		return errors.New("reading the cluster's CA: no certificate in it")
	}
	c.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return c.lab.Outside.DialContext(ctx, network, address)
		},
	}}
	return nil
}

// StatusError is an answer of the API other than 2xx.
type StatusError struct {
	Code int
	Text string
}

// Error shows the answer.
func (e *StatusError) Error() string { return fmt.Sprintf("%d: %s", e.Code, e.Text) }

// Get reads an object or a list as the administrator, without kubectl's cost.
// Path is like /api/v1/nodes/node1.
func (c *Cluster) Get(ctx context.Context, path string, into any) error {
	return c.Do(ctx, http.MethodGet, path, "", nil, into)
}

// Do asks the API, as the administrator. Where body is not nil, contentType is its.
func (c *Cluster) Do(ctx context.Context, method, path, contentType string, body []byte, into any) error {
	return c.As("admin-token").Do(ctx, method, path, contentType, body, into)
}

// User asks the API as somebody.
type User struct {
	cluster *Cluster
	token   string
}

// As returns the user who has a token.
func (c *Cluster) As(token string) User { return User{c, token} }

// Do is Cluster.Do, as this user.
func (u User) Do(ctx context.Context, method, path, contentType string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, u.cluster.apiURL()+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+u.token)
	req.Header.Set("Accept", "application/json")
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := u.cluster.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %w", method, path, &StatusError{resp.StatusCode, string(text)})
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}

// WaitAPI waits until the API server is ready.
func (c *Cluster) WaitAPI(ctx context.Context) error {
	return poll(ctx, "the API server is ready", func() error {
		if p := c.Control.APIServer; !p.Running() {
			return errors.Join(errEnded, p.Wait(ctx))
		}
		return c.Get(ctx, "/readyz", nil)
	})
}

// GetNode reads a Node.
func (c *Cluster) GetNode(ctx context.Context, name string) (n corev1.Node, err error) {
	err = c.Get(ctx, "/api/v1/nodes/"+name, &n)
	return n, err
}

// WaitPodNetworks waits until a Node has its pod networks, and returns them.
func (c *Cluster) WaitPodNetworks(ctx context.Context, name string) (nets subnet.PerFamily[netip.Prefix], err error) {
	i := slices.IndexFunc(c.Nodes, func(n *Node) bool { return n.Name == name })
	err = poll(ctx, name+" has its pod networks", func() error {
		if i >= 0 && !c.Nodes[i].Kubelet.Running() { // nobody restarts it: fs.inotify.max_user_instances is too low, for one
			return errors.Join(errEnded, c.Nodes[i].Kubelet.Wait(ctx))
		}
		n, err := c.GetNode(ctx, name)
		if err != nil {
			return err
		}
		if len(n.Spec.PodCIDRs) != len(c.opts.Stack.Families()) {
			return fmt.Errorf("spec.podCIDRs is %q", n.Spec.PodCIDRs)
		}
		for _, text := range n.Spec.PodCIDRs {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				return err
			}
			nets[subnet.FamilyOf(p.Addr())] = p
		}
		return nil
	})
	return nets, err
}

// WaitReady waits until Nodes are Ready; all of them, where none is named.
func (c *Cluster) WaitReady(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		for _, n := range c.Nodes {
			names = append(names, n.Name)
		}
	}
	for _, name := range names {
		err := poll(ctx, name+" is Ready", func() error {
			n, err := c.GetNode(ctx, name)
			if err != nil {
				return err
			}
			return ReadyNode(n)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// WaitNoCNI waits until a Node, which is not Ready, says that it is so for want of a
// CNI plugin: a kubelet that starts has other reasons at first.
func (c *Cluster) WaitNoCNI(ctx context.Context, name string) (n corev1.Node, err error) {
	err = poll(ctx, name+" has no CNI plugin", func() error {
		if n, err = c.GetNode(ctx, name); err != nil {
			return err
		}
		if err := ReadyNode(n); err == nil || !strings.Contains(err.Error(), "cni plugin not initialized") {
			return fmt.Errorf("it says: %w", err)
		}
		return nil
	})
	return n, err
}

// ReadyNode returns why a Node is not Ready, or has a network that is called
// unavailable.
func ReadyNode(n corev1.Node) error {
	var err error
	ready := false
	for _, cond := range n.Status.Conditions {
		switch {
		case cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue:
			ready = true
		case cond.Type == corev1.NodeReady, cond.Type == corev1.NodeNetworkUnavailable && cond.Status == corev1.ConditionTrue:
			err = errors.Join(err, fmt.Errorf("%s is %s: %s: %s", cond.Type, cond.Status, cond.Reason, cond.Message))
		}
	}
	if err == nil && !ready {
		err = errors.New("there is no condition Ready yet")
	}
	return err
}
