package overlay

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/twill-net/twill/overlay/install"
)

// Our own CNI config is written anew when somebody has overwritten it, with
// whatever, and is not taken for another's.
func TestOwnCNIConfOverwritten(t *testing.T) {
	const ours = `{"name":"cbr0","cniVersion":"1.0.0","plugins":[{"type":"twill"}]}`
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	require.NoError(t, os.WriteFile(source, []byte(ours), 0o644))
	netd := filepath.Join(dir, "net.d")
	conf, err := install.ReadConflist(source, filepath.Join(netd, "10-twill.conflist"))
	require.NoError(t, err)
	var log *logtest.Hook
	var h heard
	b := start(t, func(c *Config, _ *memKernel) {
		c.CNIConf, c.CNIConfSource, c.CNIConfDir, c.FullPass, c.Announce = conf, source, netd, 50*time.Millisecond, h.announce
		log = logtest.NewLocal(c.Log.Logger)
	})
	overwrite := func(content string) {
		require.NoError(t, os.WriteFile(source+".new", []byte(content), 0o644))
		require.NoError(t, os.Rename(source+".new", conf.Path))
	}
	said := func(message string) (times int) {
		for _, e := range log.AllEntries() {
			require.NotContains(t, e.Message, "in doubt")
			if e.Message == message {
				times++
			}
		}
		return times
	}
	const installed, mended = "CNI config installed", "10-twill.conflist was not readable; written anew"
	b.ready()
	b.eventually("it is there", func() bool { return said(installed) == 1 })
	for n, content := range []string{"garbage", "", `{"name":"cbr0","cniVersion":"1.0.0","plugins":[]}`} {
		overwrite(content)
		b.eventually("it is written anew", func() bool { return said(mended) == n+1 })
		have, err := os.ReadFile(conf.Path)
		require.NoError(t, err)
		require.Equal(t, ours, string(have))
	}
	overwrite(`{"name":"cilium","cniVersion":"1.0.0","plugins":[{"type":"cilium-cni"}]}`)
	b.eventually("what can be read is replaced as well", func() bool { return said(installed) == 2 })
	require.Equal(t, 3, said(mended))
	require.Empty(t, h.of("ForeignCNIConfig"))
}

// A full pass reads the config that is there once, as it does the one that shall
// be.
func TestCNIConfReadOnce(t *testing.T) {
	const ours = `{"name":"cbr0","cniVersion":"1.0.0","plugins":[{"type":"twill"}]}`
	source, path := filepath.Join(t.TempDir(), "source"), filepath.Join(t.TempDir(), "10-twill.conflist")
	for _, file := range []string{source, path} {
		require.NoError(t, os.WriteFile(file, []byte(ours), 0o644))
	}
	conf, err := install.ReadConflist(source, path)
	require.NoError(t, err)
	b := start(t, func(c *Config, _ *memKernel) {
		c.CNIConf, c.CNIConfSource, c.FullPass = conf, source, 50*time.Millisecond
	})
	b.ready()
	notify, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	require.NoError(t, err)
	defer unix.Close(notify)
	const mask = unix.IN_OPEN | unix.IN_CLOSE // of two equal events in a row the kernel tells one
	// In this order: a pass before the second one counts for the one that is there,
	// and one that is under way at the end for the source.
	there, err := unix.InotifyAddWatch(notify, path, mask)
	require.NoError(t, err)
	_, err = unix.InotifyAddWatch(notify, source, mask)
	require.NoError(t, err)
	opened := map[bool]int{} // of the one that is there, and of the source
	b.eventually("five full passes", func() bool {
		buf := make([]byte, 1024*unix.SizeofInotifyEvent)
		n, err := unix.Read(notify, buf)
		if err != nil {
			require.ErrorIs(t, err, unix.EAGAIN)
			return false
		}
		for ; n > 0; n -= unix.SizeofInotifyEvent { // watches of files have no names
			event := buf[n-unix.SizeofInotifyEvent:]
			if binary.NativeEndian.Uint32(event[4:])&unix.IN_OPEN != 0 {
				opened[int(binary.NativeEndian.Uint32(event)) == there]++
			}
		}
		return opened[false] >= 5
	})
	require.InDelta(t, opened[false], opened[true], 1)
}
