package main

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// layer is a root file system as a layer of an image. Its compressed form is
// kept in memory: it is read for its digest, and again to be written.
func layer(root string, mtime time.Time) (v1.Layer, error) {
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(pack(w, root, mtime)) }() // ends with its reader, at the latest
		return r, nil
	}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
}

// pack writes a root file system as a tar, in lexical order. Only what the
// files are counts: names, types, modes, targets of links, content.
func pack(w io.Writer, root string, mtime time.Time) error {
	t := tar.NewWriter(w)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return add(t, path, filepath.ToSlash(name), d, mtime)
	})
	if err != nil {
		return fmt.Errorf("packing %s: %w", root, err)
	}
	return t.Close()
}

func add(t *tar.Writer, path, name string, d fs.DirEntry, mtime time.Time) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	var target string
	switch info.Mode().Type() {
	case fs.ModeSymlink:
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	case fs.ModeDir, 0:
	default:
		return fmt.Errorf("%s is a %s: an image has files, directories and symbolic links", path, info.Mode().Type())
	}
	// A header of our own: what tar.FileInfoHeader fills in beside these
	// differs from machine to machine.
	from, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: from.Typeflag, Name: name, Linkname: target, Size: from.Size, Mode: from.Mode, ModTime: mtime}
	if d.IsDir() {
		header.Name += "/"
	}
	if err := t.WriteHeader(header); err != nil || header.Typeflag != tar.TypeReg {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(t, f)
	return err
}
