package bench

import (
	"encoding/json"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

func TestNode(t *testing.T) {
	t.Parallel()
	p := peer{4999, 0}
	before, err := json.Marshal(p.node())
	require.NoError(t, err)
	require.Greater(t, len(before), 9_000)
	require.Less(t, len(before), 20_000)

	patch, err := heartbeat(time.Now().Add(time.Hour))
	require.NoError(t, err)
	var beaten corev1.Node
	require.NoError(t, json.Unmarshal(patch, &beaten))
	for i, c := range p.node().Status.Conditions {
		have := beaten.Status.Conditions[i]
		require.True(t, have.LastHeartbeatTime.After(c.LastHeartbeatTime.Time))
		require.Equal(t, corev1.NodeCondition{Type: c.Type, LastHeartbeatTime: have.LastHeartbeatTime}, have, "nothing else is news")
	}
}

// The clock counts what a process does, and in less than the ticks of 10 ms
// that /proc counts in.
func TestCPUClock(t *testing.T) {
	t.Parallel()
	before, err := cpuClock(os.Getpid())
	require.NoError(t, err)
	require.Positive(t, before)
	for deadline := time.Now().Add(10 * time.Second); ; {
		after, err := cpuClock(os.Getpid())
		require.NoError(t, err)
		if after > before {
			break
		}
		require.True(t, time.Now().Before(deadline))
	}
	gone := exec.Command("true")
	require.NoError(t, gone.Run())
	_, err = cpuClock(gone.Process.Pid)
	require.Error(t, err)
}

func TestLeave(t *testing.T) {
	t.Parallel()
	sleeper := exec.CommandContext(t.Context(), "sleep", "60")
	require.NoError(t, sleeper.Start())
	t.Cleanup(func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() })
	p := &probe{ctx: t.Context()}
	var l Left
	require.NoError(t, p.Leave(LeaveArgs{sleeper.Process.Pid, 2 * time.Second}, &l))
	require.Len(t, l.CPU, 2)
	var used Usage
	require.NoError(t, p.Usage(sleeper.Process.Pid, &used))
	require.Zero(t, used.Children)
	require.Positive(t, used.CPU)
}
