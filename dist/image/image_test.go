package main

import (
	"archive/tar"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/require"
)

// root makes a root file system.
func root(t *testing.T, mtime time.Time) string {
	t.Helper()
	dir := t.TempDir()
	for path, mode := range map[string]os.FileMode{"usr/bin/twilld": 0o755, "etc/x": 0o640} {
		path = filepath.Join(dir, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(path[len(dir):]), mode))
		require.NoError(t, os.Chmod(path, mode))
		require.NoError(t, os.Chmod(filepath.Dir(path), 0o755))
		require.NoError(t, os.Chtimes(path, mtime, mtime))
	}
	require.NoError(t, os.Chmod(filepath.Join(dir, "usr"), 0o755))
	require.NoError(t, os.Symlink("twilld", filepath.Join(dir, "usr/bin/link")))
	return dir
}

var flags = []string{
	"-name", "twill-net/twill:v1,registry.example.com:5000/a/b:2", "-entrypoint", "/usr/bin/twilld,-x", "-cmd", "a",
	"-user", "0:0", "-env", "A=b", "-label", "org.opencontainers.image.title=Twill", "-workdir", "/",
}

func TestSameBytes(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	var sums [2][]byte
	for i := range sums {
		old := syscall.Umask(0o22 + i*0o55)
		dir := root(t, time.Unix(int64(i)*1e8, 0))
		out := filepath.Join(t.TempDir(), "x.tar")
		err := run(append([]string{"-o", out}, append(flags, "amd64="+dir, "arm64="+dir)...))
		syscall.Umask(old)
		require.NoError(t, err)
		sums[i], err = os.ReadFile(out)
		require.NoError(t, err)
	}
	require.Equal(t, sums[0], sums[1])
}

func TestArchive(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	out := filepath.Join(t.TempDir(), "x.tar")
	dir := root(t, time.Now())
	require.NoError(t, run(append([]string{"-o", out}, append(flags, "amd64="+dir, "arm/v7="+dir)...)))
	left, err := filepath.Glob(filepath.Join(filepath.Dir(out), ".*"))
	require.NoError(t, err)
	require.Empty(t, left)

	unpacked := t.TempDir()
	f, err := os.Open(out)
	require.NoError(t, err)
	defer f.Close()
	unpack(t, f, unpacked)
	index, err := layout.ImageIndexFromPath(unpacked)
	require.NoError(t, err)
	require.NoError(t, validate.Index(index), "each digest and size is right")
	manifest, err := index.IndexManifest()
	require.NoError(t, err)
	var names []string
	for _, m := range manifest.Manifests {
		require.Equal(t, manifest.Manifests[0].Digest, m.Digest)
		names = append(names, m.Annotations["io.containerd.image.name"]+" "+m.Annotations["org.opencontainers.image.ref.name"])
	}
	require.Equal(t, []string{"docker.io/twill-net/twill:v1 v1", "registry.example.com:5000/a/b:2 2"}, names)

	inner, err := index.ImageIndex(manifest.Manifests[0].Digest)
	require.NoError(t, err)
	platforms, err := inner.IndexManifest()
	require.NoError(t, err)
	require.Len(t, platforms.Manifests, 2)
	require.Equal(t, v1.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}, *platforms.Manifests[1].Platform)
	img, err := inner.Image(platforms.Manifests[0].Digest)
	require.NoError(t, err)
	config, err := img.ConfigFile()
	require.NoError(t, err)
	require.Equal(t, []string{"/usr/bin/twilld", "-x"}, config.Config.Entrypoint)
	require.Equal(t, "Twill", config.Config.Labels["org.opencontainers.image.title"])
	require.Equal(t, int64(1700000000), config.Created.Unix())
	layers, err := img.Layers()
	require.NoError(t, err)
	content, err := layers[0].Uncompressed()
	require.NoError(t, err)
	defer content.Close()
	fs := unpack(t, content, t.TempDir())
	require.Equal(t, []string{"etc/ 755", "etc/x 640", "usr/ 755", "usr/bin/ 755", "usr/bin/link 777", "usr/bin/twilld 755"}, fs)
}

// unpack returns what is in a tar, with modes, and checks what all have in common.
func unpack(t *testing.T, r io.Reader, dir string) (list []string) {
	t.Helper()
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if err == io.EOF {
			return list
		}
		require.NoError(t, err)
		require.Equal(t, int64(1700000000), h.ModTime.Unix())
		require.Zero(t, h.Uid+h.Gid)
		list = append(list, h.Name+" "+octal(h.Mode))
		path := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			require.NoError(t, os.MkdirAll(path, 0o755))
		case tar.TypeReg:
			b, err := io.ReadAll(archive)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, b, 0o644))
		}
	}
}

func octal(mode int64) string {
	const digits = "01234567"
	return string([]byte{digits[mode>>6&7], digits[mode>>3&7], digits[mode&7]})
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		want string
		args []string
	}{
		{"are needed", nil},
		{"not KEY=VALUE", append(flags, "-o", "x", "amd64")},
		{"not KEY=VALUE", append(flags, "-o", "x", "-env", "A", "amd64=/")},
		{"name of the image", []string{"-o", "x", "-name", "A B", "amd64=/"}},
	} {
		require.ErrorContains(t, run(c.args), c.want)
	}
	dir := t.TempDir()
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644))
	require.ErrorContains(t, run(append(flags, "-o", filepath.Join(t.TempDir(), "x"), "amd64="+dir)), "an image has files, directories and symbolic links")
}
