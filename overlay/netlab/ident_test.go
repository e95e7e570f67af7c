package netlab

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// A recorded process whose PID is another's by now is not killed.
func TestKillSparesAnother(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "sleep", "1000")
	require.NoError(t, cmd.Start())
	id, err := identify(cmd.Process.Pid)
	require.NoError(t, err)
	require.True(t, id.alive())

	earlier := identity{PID: id.PID, Start: id.Start - 1}
	require.False(t, earlier.alive())
	require.NoError(t, earlier.kill(t.Context()))
	require.True(t, id.alive())

	require.NoError(t, id.kill(t.Context()))
	require.False(t, id.alive(), "a zombie is dead")
	require.Error(t, cmd.Wait())
	require.NoError(t, id.kill(t.Context()), "twice")
	require.NoError(t, identity{}.kill(t.Context()))
}
