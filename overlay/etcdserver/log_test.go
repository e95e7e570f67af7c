package etcdserver

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestNoise(t *testing.T) {
	t.Parallel()
	core, seen := observer.New(zapcore.WarnLevel)
	log := zap.New(quiet{core}).With(zap.String("member", "twill"))
	tooEarly := errors.New("cannot detect storage schema version: missing term information")
	log.Error("failed to update storage version", zap.Error(tooEarly))
	log.Warn("Failed to detect schema version", zap.Error(tooEarly))
	log.Warn("stopped insecure grpc server due to error", zap.Error(errors.New("closed")))
	log.Info("below the level")
	require.Empty(t, seen.All())
	log.Error("failed to update storage version", zap.Error(errors.New("read-only file system")))
	log.Warn("apply request took too long")
	require.Equal(t, 2, seen.Len())
}
