package etcdserver_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/etcdserver"
)

// newRand returns a source of chance that a failing test can be replayed with.
func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("TWILL_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("TWILL_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// writeUntilKilled has some writers write numbers under a key of their own,
// kills the store in the middle of it, after some acknowledged writes, and
// returns the last number of each that was acknowledged. Numbers start with
// those in from.
func (s *store) writeUntilKilled(t *testing.T, from []int, after int) (acked []int) {
	t.Helper()
	c := s.client(t)
	acked = slices.Clone(from)
	var total sync.WaitGroup
	var mu sync.Mutex
	enough := make(chan struct{})
	ctx, killed := context.WithCancel(t.Context())
	defer killed()
	for w := range acked {
		total.Go(func() {
			for {
				mu.Lock()
				next := acked[w] + 1
				mu.Unlock()
				_, err := c.Put(ctx, fmt.Sprintf("w%d/%d", w, next), strings.Repeat("x", 100))
				if err != nil {
					return
				}
				mu.Lock()
				acked[w] = next
				if after--; after == 0 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	s.end(syscall.SIGKILL)
	killed()
	total.Wait()
	require.NoError(t, c.Close())
	return acked
}

// requireAcked fails if a write that was acknowledged is missing.
func (s *store) requireAcked(t *testing.T, acked []int) {
	t.Helper()
	c := s.client(t)
	have := content(t, c)
	for w, last := range acked {
		for n := 1; n <= last; n++ {
			require.Contains(t, have, fmt.Sprintf("w%d/%d", w, n), "of %d", last)
		}
	}
	require.NoError(t, c.Close())
}

// A store that is killed in the middle of writes, again and again, has every
// write that it acknowledged.
func TestKilledWhileWriting(t *testing.T) {
	t.Parallel()
	r, s := newRand(t), newStore(t)
	acked := make([]int, 4)
	const rounds = 10
	for range rounds {
		s.start(t)
		s.requireAcked(t, acked)
		acked = s.writeUntilKilled(t, acked, 1+r.IntN(150))
	}
	s.start(t)
	s.requireAcked(t, acked)
	t.Logf("%d kills, %v writes", rounds, acked)
}

// A first start that is killed, wherever, leaves nothing that a later one
// stumbles over.
func TestKilledAtTheFirstStart(t *testing.T) {
	t.Parallel()
	r, s := newRand(t), newStore(t)
	for range 10 {
		require.NoError(t, os.RemoveAll(s.cfg.DataDir))
		for range 2 {
			s.patience = time.Duration(r.IntN(400)) * time.Millisecond
			_ = s.try(t)
			s.end(syscall.SIGKILL)
		}
		s.patience = patience
		s.start(t)
		s.end(syscall.SIGKILL)
	}
}

// Each write is on disk before it is acknowledged, unless told otherwise: etcd
// counts its fsyncs.
func TestFsyncBeforeAcknowledgement(t *testing.T) {
	t.Parallel()
	for _, unsafe := range []bool{false, true} {
		s := newStore(t)
		s.cfg.UnsafeNoFsync = unsafe
		s.start(t)
		c := s.client(t)
		before := s.fsyncs(t)
		const writes = 50
		for n := range writes {
			put(t, c, "k", strconv.Itoa(n))
		}
		if synced := s.fsyncs(t) - before; unsafe {
			require.Less(t, synced, writes)
		} else {
			require.GreaterOrEqual(t, synced, writes)
		}
	}
}

// fsyncs reads from the metrics how often the log was synced.
func (s *store) fsyncs(t *testing.T) int {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(s.cfg.ListenClientURLs[0], "unix://"))
	}}}
	resp, err := client.Get("http://store/metrics")
	require.NoError(t, err)
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "etcd_disk_wal_fsync_duration_seconds_count "); ok {
			n, err := strconv.Atoi(value)
			require.NoError(t, err)
			return n
		}
	}
	require.FailNow(t, "no such metric")
	return 0
}

// log opens the last file of a stopped store's write-ahead log, and returns
// where its records end: etcd fills it up with zeros.
func (s *store) lastLog(t *testing.T) (f *os.File, end int64) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.cfg.DataDir, "member/wal/*.wal"))
	require.NoError(t, err)
	require.NotEmpty(t, names)
	f, err = os.OpenFile(slices.Max(names), os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	text, err := io.ReadAll(f)
	require.NoError(t, err)
	end = int64(len(text))
	for end > 0 && text[end-1] == 0 {
		end--
	}
	return f, (end + 7) &^ 7 // a record has whole words
}

// A power cut tears the record that is being written: sectors of it are
// missing, or the file is too short. Nobody was told that it is there. The
// store mends that by itself, and has all that was acknowledged.
func TestTornLog(t *testing.T) {
	t.Parallel()
	r, s := newRand(t), newStore(t)
	acked := make([]int, 2)
	for round := range 4 {
		s.start(t)
		s.requireAcked(t, acked)
		acked = s.writeUntilKilled(t, acked, 1+r.IntN(50))
		f, end := s.lastLog(t)
		record := make([]byte, 4096) // its length, and a part of what it holds
		record[1] = 0x20             // 8192 bytes, little endian
		for i := 8; i < 8+r.IntN(3000); i++ {
			record[i] = byte(1 + r.IntN(255))
		}
		_, err := f.WriteAt(record, end)
		require.NoError(t, err)
		if round%2 == 1 {
			require.NoError(t, f.Truncate(end+int64(1+r.IntN(len(record)))))
		}
		require.NoError(t, f.Close())
	}
	s.start(t)
	s.requireAcked(t, acked)
}

// What a power cut does not do, a disk may. The store says what to do, and
// that works: it is never silent, and never crashes.
func TestDamagedData(t *testing.T) {
	t.Parallel()
	r, s := newRand(t), newStore(t)
	s.cfg.UnsafeNoFsync = true
	s.start(t)
	c := s.client(t)
	for n := range 100 {
		put(t, c, fmt.Sprintf("w0/%d", n+1), "x")
	}
	acked := []int{100}
	require.NoError(t, c.Close())
	s.end(syscall.SIGTERM) // all is in the database, too
	sound := s.cfg.DataDir + "-sound"
	copyDir(t, sound, s.cfg.DataDir)

	database := filepath.Join(s.cfg.DataDir, "member/snap/db")
	garbage := func(n int64) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.IntN(256))
		}
		return b
	}
	for name, tt := range map[string]struct {
		damage func(f *os.File, end int64) error
		dbLost bool
	}{
		"some bytes in the log": {damage: func(f *os.File, end int64) error {
			b := make([]byte, 16) // more than there are between two records, which nothing checks
			if _, err := f.ReadAt(b, end/2); err != nil {
				return err
			}
			for i := range b {
				b[i] ^= 0x55
			}
			_, err := f.WriteAt(b, end/2)
			return err
		}},
		"the end of the log is gone": {damage: func(f *os.File, end int64) error { return f.Truncate(end/2 + int64(r.IntN(64))) }},
		"the log is garbage": {damage: func(f *os.File, end int64) error {
			_, err := f.WriteAt(garbage(end), 0)
			return err
		}},
		"the log is missing":      {damage: func(f *os.File, _ int64) error { return os.RemoveAll(filepath.Dir(f.Name())) }},
		"the log is empty":        {damage: func(f *os.File, _ int64) error { return f.Truncate(0) }},
		"the database is garbage": {dbLost: true, damage: func(*os.File, int64) error { return os.WriteFile(database, garbage(32<<10), 0o600) }},
		"the database is cut off": {dbLost: true, damage: func(*os.File, int64) error { return os.Truncate(database, 9000) }},
		"the database is empty":   {dbLost: true, damage: func(*os.File, int64) error { return os.Truncate(database, 0) }},
	} {
		t.Run(name, func(t *testing.T) {
			away := s.cfg.DataDir + "-damaged"
			require.NoError(t, os.RemoveAll(s.cfg.DataDir))
			require.NoError(t, os.RemoveAll(away))
			copyDir(t, s.cfg.DataDir, sound)
			f, end := s.lastLog(t)
			require.NoError(t, tt.damage(f, end))
			s.refuses(t, "the data is damaged", "mv "+s.cfg.DataDir+"/member "+away,
				"twill store restore --skip-hash-check "+away+"/snap/db --data-dir "+s.cfg.DataDir, "start empty")

			require.NoError(t, os.Rename(filepath.Join(s.cfg.DataDir, "member"), away))
			_, err := etcdserver.Restore(etcdserver.RestoreConfig{
				Snapshot: filepath.Join(away, "snap/db"), DataDir: s.cfg.DataDir, Name: "twill", SkipHashCheck: true, BumpRevision: 1000,
			})
			if tt.dbLost {
				require.ErrorContains(t, err, "reading the database "+away+"/snap/db")
				return
			}
			require.NoError(t, err)
			if name == "the end of the log is gone" { // one of them will do
				s.start(t)
				s.requireAcked(t, acked)
				s.end(syscall.SIGTERM)
			}
		})
	}
}

// copyDir copies a data directory.
func copyDir(t *testing.T, to, from string) {
	t.Helper()
	// Not the 128 MB of zeros that etcd has in store for its log.
	out, err := exec.CommandContext(t.Context(), "cp", "-a", "--sparse=always", from, to).CombinedOutput()
	require.NoError(t, err, string(out))
}
