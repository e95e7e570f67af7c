package kube

import (
	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
)

// klog returns where client-go's Reflector may tell what it does: what is wrong
// with the server we know before, and tell through health.
func (s *Store) klog() logr.Logger {
	return funcr.New(func(_, args string) { s.log.Debug("Reflector: " + args) }, funcr.Options{})
}
