package procfile_test

import (
	"io/fs"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/backend/internal/procfile"
)

func TestRead(t *testing.T) {
	for _, path := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/self/mountinfo", "/proc/sys/kernel/osrelease"} {
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		got, err := procfile.Read(path)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got))
	}
	_, err := procfile.Read("/proc/sys/net/ipv4/conf/none/rp_filter")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "none/rp_filter")
	_, err = procfile.Read("/proc")
	require.ErrorContains(t, err, "is a directory")
}
