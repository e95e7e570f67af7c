package statedir_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/statedir"
)

// holderEnv makes the test binary a process that holds the lock of the
// directory named, until its standard input ends.
const holderEnv = "TWILL_TEST_HOLD_STATE_DIR"

func TestMain(m *testing.M) {
	path := os.Getenv(holderEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	d, err := statedir.Open(path)
	fmt.Println(err)
	if err != nil {
		os.Exit(1)
	}
	io.Copy(io.Discard, os.Stdin) //nolint:errcheck // it ends, one way or the other
	d.Close()
}

// holder starts another process that tries to lock path, and returns it with
// what it said: "<nil>" when it got the lock.
func holder(t *testing.T, path string) (c *exec.Cmd, said string) {
	t.Helper()
	c = exec.Command(os.Args[0])
	c.Env = append(os.Environ(), holderEnv+"="+path)
	stdin, err := c.StdinPipe() // closed with this process, so that none is left
	require.NoError(t, err)
	stdout, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	t.Cleanup(func() {
		stdin.Close()
		if c.ProcessState == nil {
			c.Process.Kill() //nolint:errcheck // it may have ended by itself
			c.Wait()         //nolint:errcheck // of a process that was killed
		}
	})
	said, err = bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	return c, strings.TrimSuffix(said, "\n")
}

func refusal(path string) string {
	return "another twilld works in " + path + ": stop it first"
}

// Not in parallel: a process that another test starts shares each of our locks
// from its fork to its exec.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "var", "lib", "twill")
	d, err := statedir.Open(path)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode().Perm())

	_, err = statedir.Open(path)
	require.EqualError(t, err, refusal(path))
	_, said := holder(t, path)
	require.Equal(t, refusal(path), said)

	other, err := statedir.Open(filepath.Join(filepath.Dir(path), "other"))
	require.NoError(t, err, "each directory has a lock of its own")
	require.NoError(t, other.Close())

	require.NoError(t, d.Close())
	_, said = holder(t, path)
	require.Equal(t, "<nil>", said)
	_, err = statedir.Open(path)
	require.EqualError(t, err, refusal(path))
}

// Nor this one, for the sake of the others.
func TestLockOfKilledProcess(t *testing.T) {
	path := t.TempDir()
	c, said := holder(t, path)
	require.Equal(t, "<nil>", said)
	_, err := statedir.Open(path)
	require.EqualError(t, err, refusal(path))

	require.NoError(t, c.Process.Kill())
	require.Error(t, c.Wait())
	d, err := statedir.Open(path)
	require.NoError(t, err)
	require.NoError(t, d.Close())
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := statedir.Open(filepath.Join(file, "twill"))
	require.EqualError(t, err, "making the state directory (--state-dir): mkdir "+file+": not a directory")

	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "lock"), 0o755))
	_, err = statedir.Open(dir)
	require.EqualError(t, err, "opening the lock of the state directory (--state-dir): open "+dir+"/lock: is a directory")
}

func TestRemove(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "twill")
	open := func() *statedir.Dir {
		d, err := statedir.Open(path)
		require.NoError(t, err)
		return d
	}
	require.NoError(t, open().Remove())
	require.NoDirExists(t, path)
	require.DirExists(t, filepath.Dir(path))

	d := open()
	kept := filepath.Join(path, "snapshot.json")
	require.NoError(t, os.WriteFile(kept, nil, 0o600))
	require.NoError(t, d.Remove(), "what is not ours stays")
	require.FileExists(t, kept)
	require.NoFileExists(t, filepath.Join(path, "lock"))
	require.NoError(t, os.Remove(kept))

	d = open()
	require.NoError(t, os.RemoveAll(path))
	require.NoError(t, d.Remove(), "somebody else removed it all")

	d = open()
	require.NoError(t, d.Close())
	d = open()
	require.NoError(t, d.Remove())
	require.ErrorIs(t, d.Close(), os.ErrClosed, "Remove unlocks")
}

// The way to the directory may be a link of the operator's, which stays.
func TestRemoveThroughLink(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	target, link := filepath.Join(base, "data"), filepath.Join(base, "twill")
	require.NoError(t, os.Mkdir(target, 0o755))
	require.NoError(t, os.Symlink(target, link))
	d, err := statedir.Open(link)
	require.NoError(t, err)
	require.NoError(t, d.Remove())
	require.DirExists(t, target)
	left, err := os.ReadDir(target)
	require.NoError(t, err)
	require.Empty(t, left)
	_, err = os.Lstat(link)
	require.NoError(t, err)
}

// A lock on a file that was removed in between would let two in. Each Open has
// an open file of its own, so that goroutines are as good as processes.
func TestRemoveLetsNobodyElseIn(t *testing.T) {
	t.Parallel()
	const workers, turns = 8, 300
	path := filepath.Join(t.TempDir(), "twill")
	var inside, most, held atomic.Int32
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range turns {
				d, err := statedir.Open(path)
				if err != nil {
					if !strings.HasPrefix(err.Error(), "another twilld works in ") && !strings.HasSuffix(err.Error(), "other processes keep removing its lock file") {
						t.Errorf("opening: %v", err)
					}
					continue
				}
				if n := inside.Add(1); n > most.Load() {
					most.Store(n)
				}
				held.Add(1)
				inside.Add(-1)
				if err := d.Remove(); err != nil {
					t.Errorf("removing: %v", err)
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, int32(1), most.Load())
	t.Logf("%d of %d got in", held.Load(), workers*turns)
	require.NoDirExists(t, path)
}

func TestMachineID(t *testing.T) {
	t.Parallel()
	const id = "0123456789abcdef0123456789abcdef"
	file := func(content string) string {
		path := filepath.Join(t.TempDir(), "machine-id")
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	// printf %s github.com/twill-net/twill | openssl dgst -sha256 -hmac $id | cut -c-32
	const want = "672cb6762b4d633d210ee9df2f1d7883"
	require.Equal(t, want, statedir.MachineID(file(id+"\n")))
	require.Equal(t, want, statedir.MachineID(file(id)), "as some images write it")
	require.NotEqual(t, want, statedir.MachineID(file("f"+id[1:])))
	require.NotContains(t, want, id[:8], "the ID itself stays secret")

	for _, none := range []string{"", "\n", "uninitialized\n"} {
		require.Empty(t, statedir.MachineID(file(none)), "%q", none)
	}
	require.Empty(t, statedir.MachineID(filepath.Join(t.TempDir(), "none")))
	require.Empty(t, statedir.MachineID(t.TempDir()))
}
