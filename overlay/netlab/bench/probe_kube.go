package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// api is the probe's connection to kube-apiserver, as the administrator.
type api struct {
	url  string
	http *http.Client
}

const (
	nodesPath      = "/api/v1/nodes"
	configMapsPath = "/api/v1/namespaces/default/configmaps"
	strategicPatch = "application/strategic-merge-patch+json"
)

// kubeWriters is how many of the requests to kube-apiserver are under way at
// once.
const kubeWriters = 16

// Reach connects to kube-apiserver and waits until it is ready.
func (p *probe) Reach(url string, _ *Nothing) error {
	t := &http.Transport{MaxIdleConnsPerHost: kubeWriters}
	t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the server has made its certificate itself a moment ago
	p.api = &api{url, &http.Client{Transport: t}}
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	for {
		_, err := p.api.do(ctx, http.MethodGet, "/readyz", "", nil)
		if err == nil || ctx.Err() != nil {
			return err
		}
		pause(ctx, 100*time.Millisecond)
	}
}

// open makes a request, and returns the answer if it is of success.
func (a *api) open(ctx context.Context, method, path, contentType string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+kubeToken)
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "kubelet") // the manager in managedFields
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return nil, errors.Join(fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text), err)
}

func (a *api) do(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	resp, err := a.open(ctx, method, path, contentType, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

func (a *api) create(ctx context.Context, path string, object any) error {
	body, err := json.Marshal(object)
	if err == nil {
		_, err = a.do(ctx, http.MethodPost, path, "application/json", body)
	}
	return err
}

// OwnNodeArgs describes the Node of the daemon under test.
type OwnNodeArgs struct{ Name, Address, Subnet string }

// RegisterOwn creates the Node of the daemon under test.
func (p *probe) RegisterOwn(a OwnNodeArgs, _ *Nothing) error {
	return p.api.create(p.ctx, nodesPath, ownNode(a.Name, a.Address, a.Subnet))
}

// Register creates the Nodes of peers.
func (p *probe) Register(peers Peers, _ *Nothing) error {
	g, ctx := errgroup.WithContext(p.ctx)
	g.SetLimit(kubeWriters)
	for _, peer := range peers.all() {
		g.Go(func() error { return p.api.create(ctx, nodesPath, peer.node()) })
	}
	return g.Wait()
}

// NodeList is what one list of all Nodes took.
type NodeList struct {
	Milliseconds float64
	Bytes        int // protobuf
}

// ListNodes reads all Nodes with one request, in protobuf and without decoding
// any.
func (p *probe) ListNodes(_ Nothing, l *NodeList) error {
	from := now()
	req, err := http.NewRequestWithContext(p.ctx, http.MethodGet, p.api.url+nodesPath+"?resourceVersion=0", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+kubeToken)
	req.Header.Set("Accept", "application/vnd.kubernetes.protobuf")
	req.Header.Set("Accept-Encoding", "identity") // as on a fast network; client-go asks for gzip, watches are not packed
	resp, err := p.api.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	l.Milliseconds, l.Bytes = since(from), int(n)
	return err
}

// BeatArgs asks for heartbeats, spread evenly over a time.
type BeatArgs struct {
	Peers Peers
	For   time.Duration
}

// Beat has the peers' kubelets tell their status.
func (p *probe) Beat(a BeatArgs, _ *Nothing) error {
	t := time.NewTicker(a.For / time.Duration(a.Peers.Count))
	defer t.Stop()
	g, ctx := errgroup.WithContext(p.ctx)
	g.SetLimit(kubeWriters)
	for _, peer := range a.Peers.all() {
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), g.Wait())
		case <-t.C:
		}
		g.Go(func() error {
			patch, err := heartbeat(time.Now())
			if err == nil {
				_, err = p.api.do(ctx, http.MethodPatch, nodesPath+"/"+peer.nodeName()+"/status", strategicPatch, patch)
			}
			return err
		})
	}
	return g.Wait()
}

// OneNode adds, changes and deletes the Node of one peer at a time, and takes
// the limit, a patch and its watch event of an object that no daemon watches,
// in the same round.
func (p *probe) OneNode(a OneArgs, one *One) error {
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	const name = "bench"
	if err := p.api.create(ctx, configMapsPath, map[string]any{"metadata": map[string]string{"name": name}}); err != nil {
		return err
	}
	resp, err := p.api.open(ctx, http.MethodGet, configMapsPath+"?watch=1&fieldSelector=metadata.name%3D"+name, "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	events := json.NewDecoder(resp.Body)
	if err := events.Decode(&json.RawMessage{}); err != nil { // it is there
		return err
	}
	for i := range a.Rounds {
		patch := fmt.Appendf(nil, `{"data":{"value":"%0200d"}}`, i)
		from := now()
		if _, err := p.api.do(ctx, http.MethodPatch, configMapsPath+"/"+name, strategicPatch, patch); err != nil {
			return err
		}
		one.Ack = append(one.Ack, since(from))
		if err := events.Decode(&json.RawMessage{}); err != nil {
			return fmt.Errorf("watching a ConfigMap: %w", err)
		}
		one.Event = append(one.Event, since(from))
		for _, step := range []struct {
			to     *[]float64
			expect Expect
		}{
			{&one.Add, Expect{Peers: Peers{a.Peer + i, 1, a.Version}}},
			{&one.Change, Expect{Peers: Peers{a.Peer + i, 1, a.Version + 1}}},
			{&one.Delete, Expect{Peers: Peers{a.Peer + i, 1, a.Version + 1}, Gone: true}},
		} {
			ms, err := p.oneNode(ctx, a, step.expect)
			if err != nil {
				return err
			}
			*step.to = append(*step.to, ms)
			pause(ctx, a.Gap)
		}
	}
	return nil
}

// oneNode makes one change and returns how long the kernel took to have it.
func (p *probe) oneNode(ctx context.Context, a OneArgs, e Expect) (ms float64, err error) {
	only := e.Peers.all()[0]
	method, path, contentType := http.MethodPost, nodesPath, "application/json"
	var object any = only.node()
	switch {
	case e.Gone:
		method, path, object = http.MethodDelete, nodesPath+"/"+only.nodeName(), struct{}{}
	case e.Peers.Version != a.Version:
		method, path, contentType = http.MethodPatch, nodesPath+"/"+only.nodeName(), strategicPatch
		object = map[string]any{"metadata": map[string]any{"annotations": only.announcements()}}
	}
	body, err := json.Marshal(object)
	if err != nil {
		return 0, err
	}
	p.world.want(e)
	from := now()
	if _, err := p.api.do(ctx, method, path, contentType, body); err != nil {
		return 0, err
	}
	s := p.world.await(30 * time.Second)
	if !s.Met {
		return 0, fmt.Errorf("the kernel did not follow Node %s within 30 s", only.nodeName())
	}
	return float64(s.At-from) / 1e6, nil
}

// HTTPArgs names what must answer with 200.
type HTTPArgs struct {
	URL   string
	Limit time.Duration
}

// AwaitHTTP waits until it does, and returns when that was, by the monotonic
// clock.
func (p *probe) AwaitHTTP(a HTTPArgs, at *int64) error {
	ctx, cancel := context.WithTimeout(p.ctx, a.Limit)
	defer cancel()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.URL, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err == nil {
			*at = now()
			err = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return err
			}
			err = errors.Join(err, errors.New(resp.Status))
		}
		if ctx.Err() != nil {
			return fmt.Errorf("waiting for %s: %w", a.URL, err)
		}
		pause(ctx, 5*time.Millisecond)
	}
}
