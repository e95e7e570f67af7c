package overlay

import (
	"context"
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend"
	"github.com/twill-net/twill/subnet"
)

// mad panics where it is told to.
type mad struct {
	*memKernel
	*script
	in string
}

func (m mad) Observe(ctx context.Context, sysctls []string) (backend.State, error) {
	if m.in == "reconciler" {
		panic("out of range")
	}
	return m.memKernel.Observe(ctx, sysctls)
}

func (m mad) Hold(ctx context.Context, c subnet.Claim, tell func(subnet.Held)) error {
	if m.in == partLease {
		panic("out of range")
	}
	return m.script.Hold(ctx, c, tell)
}

func (m mad) Watch(ctx context.Context, tell func(backend.Event)) error {
	if m.in == taskKernel {
		panic("out of range")
	}
	return m.memKernel.Watch(ctx, tell)
}

// A panic anywhere is told with its stack and ends the daemon, which writes
// nothing more; what flows, flows on.
func TestPanicEndsTheDaemon(t *testing.T) {
	for _, task := range []string{"reconciler", partLease, taskKernel} {
		t.Run(task, func(t *testing.T) {
			logger, log := logtest.NewNullLogger()
			m := mad{newMemKernel(), newScript(), task}
			a := New(Config{
				Node: "n1", SubnetFile: t.TempDir() + "/subnet.env", FullPass: 1 << 40,
				Log: logrus.NewEntry(logger), Metrics: prometheus.NewRegistry(),
			}, m, m, &memFirewall{}, nil)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() { // as far as it comes
				for {
					select {
					case m.configs <- []byte(netConf):
					case c := <-m.claims:
						select {
						case m.helds <- subnet.Held{Lease: c.Announcement(peer(1, "n1").Lease.Subnets)}:
						case <-ctx.Done():
							return
						}
					case <-ctx.Done():
						return
					}
				}
			}()
			require.EqualError(t, a.Run(ctx, nil), fmt.Sprintf("%s panicked: out of range", task))
			var told *logrus.Entry
			for _, e := range log.AllEntries() {
				if e.Level == logrus.ErrorLevel {
					told = e
				}
			}
			require.NotNil(t, told)
			require.Equal(t, task, told.Data["task"])
			require.Contains(t, told.Data["stack"], "supervise_test.go", "where it happened")
		})
	}
}
