package etcdserver

import (
	"os"
	"slices"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// noise is what etcd logs at warn and error while all is well, as text that
// would send an operator looking for a fault.
var noise = map[string]bool{
	"Running http and grpc server on single port. This is not recommended for production.": true, // one client, no load
	"simple token is not cryptographically signed":                                         true, // one member
	"setting up serving from embedded etcd failed.":                                        true, // comes from Err as well, and at each shutdown
	"stopping insecure grpc server due to error":                                           true, // each shutdown
	"stopped insecure grpc server due to error":                                            true,
	"stopping secure grpc server due to error":                                             true,
	"stopped secure grpc server due to error":                                              true,
}

// early is what etcd logs when it looks at the version of a new database before
// anything has been written there; it looks again later. With another error
// than noTerm it is no noise.
var early = map[string]bool{
	"Failed to detect schema version":  true,
	"failed to update storage version": true,
}

const noTerm = "missing term information"

// newLogger returns etcd's logger: lines on stderr at level and above, without
// the noise. What is fatal goes to the guard as well.
func newLogger(level zapcore.Level, g *guard) *zap.Logger {
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.ISO8601TimeEncoder
	core := zapcore.NewCore(zapcore.NewConsoleEncoder(enc), zapcore.Lock(os.Stderr), level)
	return zap.New(quiet{core}, g.options()...)
}

// quiet is a core that drops the noise.
type quiet struct{ zapcore.Core }

// With keeps the filter in derived loggers.
func (q quiet) With(fields []zapcore.Field) zapcore.Core { return quiet{q.Core.With(fields)} }

// Check leaves out what noise lists.
func (q quiet) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if noise[e.Message] || !q.Enabled(e.Level) {
		return ce
	}
	return ce.AddCore(e, q)
}

// Write leaves out what is early.
func (q quiet) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if early[e.Message] && slices.ContainsFunc(fields, saysNoTerm) {
		return nil
	}
	return q.Core.Write(e, fields)
}

func saysNoTerm(f zapcore.Field) bool {
	err, ok := f.Interface.(error)
	return ok && strings.Contains(err.Error(), noTerm)
}
