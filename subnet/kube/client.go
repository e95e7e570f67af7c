package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/twill-net/twill/subnet/internal/tasks"
)

const (
	dialTimeout    = 5 * time.Second
	requestTimeout = 10 * time.Second
)

// Store is a connection to the API server. Its methods may run at the same
// time.
type Store struct {
	cfg    Config
	names  names
	log    *logrus.Entry
	health tasks.Health
	http   *http.Client
	api    rest.Interface
	server string // its URL
	own    own

	progress tasks.Progress
	silence  time.Duration // see silence

	mu   sync.Mutex
	seen string // resource version of the last news that WatchLeases passed on
	lack string // why there is no lease, as Hold last returned it

	passed map[string]string // why an annotation of our Node was passed over, by its name

	announced announcement // by Hold, for Release
}

// New returns a store which connects when it is first used, so that the API
// server need not be there yet. It reads the kubeconfig.
func New(cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, log: cfg.Logger, health: tasks.Health{Tell: cfg.Health}, passed: map[string]string{}}
	s.silence = silence
	s.own.changed = make(chan struct{})
	if s.log == nil {
		quiet := logrus.New()
		quiet.SetLevel(logrus.PanicLevel)
		s.log = logrus.NewEntry(quiet)
	}
	var err error
	if s.names, err = newNames(cfg.AnnotationPrefix); err != nil {
		return nil, err
	}
	c, err := cfg.rest()
	if err != nil {
		return nil, err
	}
	s.server = c.Host
	if err := s.connect(c); err != nil {
		return nil, fmt.Errorf("preparing the connection to the API server: %w", err)
	}
	return s, nil
}

// connect makes a client that knows Nodes and Events and nothing else: what of core/v1 is
// in no scheme is not in the binary either.
func (s *Store) connect(c *rest.Config) (err error) {
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Node{}, &corev1.NodeList{}, &corev1.Event{})
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	c.GroupVersion, c.APIPath = &corev1.SchemeGroupVersion, "/api"
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.ContentType, c.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	c.UserAgent = "twilld"
	c.QPS = -1 // all that asks often paces itself
	c.WarningHandlerWithContext = rest.NoWarnings{}
	c.Dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
	c.Wrap(func(rt http.RoundTripper) http.RoundTripper { return endings{rt} })
	if s.http, err = rest.HTTPClientFor(c); err != nil {
		return err
	}
	s.api, err = rest.RESTClientForConfigAndClient(c, s.http)
	return err
}

// Name tells this store from others: the server, and what of it is ours.
func (s *Store) Name() string { return "kubernetes " + s.server + " " + s.names.prefix }

// Close ends the connections. The node's lease stays, see Release.
func (s *Store) Close() error {
	utilnet.CloseIdleConnectionsFor(s.http.Transport)
	return nil
}

// endings makes a watch that broke look like one that was ended, which the
// Reflector resumes; after an error it would list everything again. Why it
// broke is seen when it cannot be resumed.
type endings struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (e endings) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := e.RoundTripper.RoundTrip(req)
	if err == nil && req.URL.Query().Has("watch") {
		resp.Body = ending{resp.Body}
	}
	return resp, err
}

// WrappedRoundTripper lets apimachinery find the transport.
func (e endings) WrappedRoundTripper() http.RoundTripper { return e.RoundTripper }

type ending struct{ io.ReadCloser }

func (e ending) Read(p []byte) (n int, err error) {
	if n, err = e.ReadCloser.Read(p); err != nil && err != io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// request returns a context for one request.
func (s *Store) request(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(klog.NewContext(ctx, s.klog()), requestTimeout, errSilent)
}

// nodes returns the Nodes that opts select.
func (s *Store) nodes(ctx context.Context, opts metav1.ListOptions) (*corev1.NodeList, error) {
	ctx, cancel := s.request(ctx)
	defer cancel()
	list := &corev1.NodeList{}
	err := s.api.Get().Resource("nodes").VersionedParams(&opts, metav1.ParameterCodec).Do(ctx).Into(list)
	return list, denied(err, "list", "nodes", roleNodes)
}

// ownSelector selects our own Node.
func (s *Store) ownSelector() string {
	return fields.OneTermEqualSelector(metav1.ObjectNameField, s.cfg.Node).String()
}

// untilNoConflict repeats a change of our Node which somebody else has changed
// meanwhile.
func untilNoConflict(change func() error) (err error) {
	const tries = 10 // the kubelet writes the Node every few seconds at most
	for range tries {
		if err = change(); !apierrors.IsConflict(err) {
			break
		}
	}
	return err
}

// patch patches our own Node, that with the UID in the patch, a nodePatch or what
// is written like one. A patch that changes nothing writes nothing.
func (s *Store) patch(ctx context.Context, p any) error {
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	ctx, cancel := s.request(ctx)
	defer cancel()
	err = s.api.Patch(types.StrategicMergePatchType).Resource("nodes").Name(s.cfg.Node).SubResource("status").Body(body).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("patching Node %s: %w", s.cfg.Node, denied(err, "patch", "nodes/status", roleNodes))
	}
	return nil
}

// nodePatch is a strategic merge patch of a Node: a null removes an
// annotation, a condition takes the place of the one of its type.
type nodePatch struct {
	Metadata struct {
		UID             types.UID          `json:"uid"` // of another one it is a conflict
		ResourceVersion string             `json:"resourceVersion,omitempty"`
		Annotations     map[string]*string `json:"annotations,omitempty"`
	} `json:"metadata"`
	Status struct {
		Conditions []corev1.NodeCondition `json:"conditions,omitempty"`
	} `json:"status,omitzero"`
}

// announcement is what stands at our Node.
type announcement struct {
	uid         types.UID
	annotations map[string]string
}
