package lastgood_test

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twill-net/twill/overlay/lastgood"
	"github.com/twill-net/twill/subnet"
)

func record(i int) subnet.Record {
	l := subnet.Lease{
		Node:        fmt.Sprintf("n%d", i),
		Subnets:     subnet.PerFamily[netip.Prefix]{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)},
		PublicIPs:   subnet.PerFamily[netip.Addr]{netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)})},
		BackendType: "vxlan", BackendData: subnet.PerFamily[string]{`{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`},
		Extra: `{"Theirs":"<&>"}`,
	}
	return subnet.Record{Key: subnet.EncodeKey(l.Subnets), Lease: l, Created: int64(i), Modified: int64(2 * i), Reserved: i%2 == 0}
}

func state() lastgood.State {
	own := record(1)
	s := lastgood.State{
		Saved: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), Node: "n1", Store: "etcd http://127.0.0.1:2379/network", Position: `1f 7 6 "/network/subnets/10.0.5.0-24"`, Config: []byte(`{"Network":"10.0.0.0/8"}`),
		Own: subnet.Held{Lease: own.Lease, Key: own.Key, Created: 1, Expires: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)},
	}
	for i := range 5 {
		s.Records = append(s.Records, record(i+1))
	}
	return s
}

func TestWrittenAndRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), lastgood.FileName)
	_, err := lastgood.Read(path)
	require.ErrorIs(t, err, fs.ErrNotExist)

	want := state()
	elsewhere := record(8)
	elsewhere.Key = `a "node's" name, <ä>` // of a store that does not have the subnets in its keys
	want.Records = append(want.Records, elsewhere)
	broken := record(9)
	broken.Invalid = "its value is not JSON"
	written := want
	written.Records = append(written.Records[:len(want.Records):len(want.Records)], broken)
	for range 2 {
		require.NoError(t, lastgood.Write(path, written, slices.Values(written.Records)))
		got, err := lastgood.Read(path)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1, "no temporary file stays")
	require.Error(t, lastgood.Write(filepath.Join(path, "below-a-file"), want, slices.Values(want.Records)))
}

// A file that a crash or a disk left in part is not taken for a whole one.
func TestPartsAreRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), lastgood.FileName)
	require.NoError(t, lastgood.Write(path, state(), slices.Values(state().Records)))
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	for n := range len(whole) - 1 {
		require.NoError(t, os.WriteFile(path, whole[:n], 0o600))
		_, err := lastgood.Read(path)
		require.Error(t, err, "%d bytes of %d", n, len(whole))
	}
	lines := strings.SplitAfter(string(whole), "\n")
	for name, text := range map[string]string{
		"a line is missing": lines[0] + strings.Join(lines[2:], ""),
		"another version":   strings.Replace(string(whole), `"version":1`, `"version":2`, 1),
		"a subnet changed":  strings.Replace(string(whole), `"subnets":"10.0.3.0-24"`, `"subnets":"10.0.3.7-24"`, 1),
	} {
		require.NotEqual(t, string(whole), text, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := lastgood.Read(path)
		require.Error(t, err, name)
	}
}

// The head is read alone, whatever comes after it; and without a position it is
// as files were before there was one.
func TestHead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), lastgood.FileName)
	_, err := lastgood.ReadHead(path)
	require.ErrorIs(t, err, fs.ErrNotExist)
	for _, position := range []string{"here", ""} {
		want := state()
		want.Position = position
		require.NoError(t, lastgood.Write(path, want, slices.Values(want.Records)))
		whole, err := os.ReadFile(path)
		require.NoError(t, err)
		head, _, _ := strings.Cut(string(whole), "\n")
		require.Equal(t, position != "", strings.Contains(head, `"position"`))
		got, err := lastgood.Read(path)
		require.NoError(t, err)
		require.Equal(t, want, got)

		require.NoError(t, os.WriteFile(path, []byte(head+"\nno record"), 0o600))
		want.Records = nil
		got, err = lastgood.ReadHead(path)
		require.NoError(t, err)
		require.Equal(t, want, got)
		for n := range len(head) {
			require.NoError(t, os.WriteFile(path, []byte(head[:n]), 0o600))
			_, err := lastgood.ReadHead(path)
			require.Error(t, err, "%d bytes of %d", n, len(head))
		}
	}
}

func FuzzRead(f *testing.F) {
	path := filepath.Join(f.TempDir(), lastgood.FileName)
	require.NoError(f, lastgood.Write(path, state(), slices.Values(state().Records)))
	whole, err := os.ReadFile(path)
	require.NoError(f, err)
	f.Add(whole)
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), lastgood.FileName)
		require.NoError(t, os.WriteFile(path, b, 0o600))
		s, err := lastgood.Read(path)
		if err != nil {
			return
		}
		require.NoError(t, lastgood.Write(path, s, slices.Values(s.Records)))
		again, err := lastgood.Read(path)
		require.NoError(t, err)
		require.Equal(t, s.Records, again.Records)
	})
}

// BenchmarkWrite is what is written of 20 000 peers.
func BenchmarkWrite(b *testing.B) {
	path := filepath.Join(b.TempDir(), lastgood.FileName)
	s := state()
	records := make([]subnet.Record, 20_000)
	for i := range records {
		records[i] = record(i)
		records[i].Lease.Extra = ""
	}
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, lastgood.Write(path, s, slices.Values(records)))
	}
}
