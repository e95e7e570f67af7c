package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/twill-net/twill/subnet/internal/tasks"
)

// WatchConfig calls on with the network config as it is, and after each
// change, one call at a time, until ctx ends. It looks at the file from time to
// time: a ConfigMap that changes is another directory behind a symbolic link,
// which no watch of the file would see. It waits for a file that is missing;
// one that goes missing is logged and the last one stands. The error is always
// nil.
func (s *Store) WatchConfig(ctx context.Context, on func(raw []byte)) error {
	var last []byte
	var trouble string
	defer s.progress.Forget(taskConfig)
	for {
		s.progress.Beat(taskConfig)
		raw, err := os.ReadFile(s.cfg.NetworkConfig)
		switch {
		case err == nil:
			trouble = ""
			if last == nil || !bytes.Equal(raw, last) {
				last = raw
				on(bytes.Clone(raw))
			}
		case err.Error() != trouble:
			trouble = err.Error()
			s.warnConfig(err, last != nil)
		}
		if tasks.Pause(ctx, s.cfg.ConfigInterval) != nil {
			return nil
		}
	}
}

func (s *Store) warnConfig(err error, have bool) {
	what := "There is no network config yet; waiting for the file (--net-config-path)"
	switch {
	case have:
		what = "The network config is gone; the last one stays in force"
	case !errors.Is(err, fs.ErrNotExist):
		what = "The network config cannot be read; will look again"
	}
	s.log.WithField("file", s.cfg.NetworkConfig).WithError(fmt.Errorf("reading the network config: %w", err)).Warn(what)
}
