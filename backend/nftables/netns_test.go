package nftables_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/twill-net/twill/backend/rulestest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// namespace is one with our table in it.
type namespace struct{ rulestest.Namespace }

func newNamespace(t *testing.T) namespace {
	t.Helper()
	return namespace{rulestest.NewNamespace(t)}
}
