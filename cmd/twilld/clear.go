package main

import (
	"context"

	"github.com/sirupsen/logrus"

	"github.com/twill-net/twill/subnet/kube"
)

// clearNode takes from this node's Node what we have written to it.
func (o *options) clearNode(ctx context.Context, log *logrus.Entry) error {
	if !o.kube.Enabled {
		return nil
	}
	o.kube.Node, o.kube.Logger = o.nodeName, log
	s, err := kube.New(o.kube)
	if err != nil {
		return usageError{err}
	}
	defer s.Close()
	taken, err := s.Clear(ctx)
	for _, what := range taken {
		log.WithField("object", what+" of Node "+o.nodeName).Info("removed")
	}
	return err
}
