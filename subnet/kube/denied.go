package kube

import (
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/twill-net/twill/subnet"
)

// Who has the rights that we need, in the manifest and in the chart.
const (
	roleNodes  = "the ClusterRole twilld and its ClusterRoleBinding"
	roleEvents = "the Role twilld of namespace " + eventNamespace + " and its RoleBinding"
)

// deniedError says which right an API server wants that we lack, or what its
// admission has against us. It is a subnet.ErrDenied.
type deniedError struct {
	verb, resource, role string
	err                  error // the server's, which names our account
}

func (e *deniedError) Error() string {
	// What the authorizer says is put the same for all of them (k8s.io/apiserver,
	// responsewriters, forbiddenMessage); admission forbids, too, and says itself why.
	if !strings.Contains(e.err.Error(), "cannot "+e.verb+" resource") {
		return e.err.Error()
	}
	return fmt.Sprintf("%v: twilld lacks the right to %s %s, which %s give: kubectl apply -f dist/kubernetes/base/rbac.yaml, or helm upgrade",
		e.err, e.verb, e.resource, e.role)
}

func (e *deniedError) Unwrap() error { return e.err }

func (e *deniedError) Is(target error) bool { return target == subnet.ErrDenied }

// denied makes a deniedError of the answer to a request that wants for a right.
func denied(err error, verb, resource, role string) error {
	if !apierrors.IsForbidden(err) {
		return err
	}
	return &deniedError{verb, resource, role, err}
}
