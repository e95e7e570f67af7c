// Package durable writes files that are there after a power cut, whole or not
// at all. It imports the standard library only.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// File is a file in the making: beside its place, under another name.
type File struct {
	*os.File
	path string
}

// Suffix ends the names of files in the making. One stays when its maker is
// killed.
const Suffix = ".part"

// Create begins a file, which replaces path when it is committed. It can be
// read by its owner only.
func Create(path string) (*File, error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*"+Suffix)
	if err != nil {
		return nil, err
	}
	return &File{f, path}, nil
}

// Commit puts the file in its place; fsync(2), rename(2).
func (f *File) Commit(perm os.FileMode) error {
	if err := errors.Join(f.Chmod(perm), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), f.path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(f.path))
}

// Abort removes the file, if it is not committed.
func (f *File) Abort() {
	_ = f.Close()
	_ = os.Remove(f.Name())
}

// Write makes a file with this content.
func Write(path string, data []byte, perm os.FileMode) error {
	f, err := Create(path)
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.File.Write(data); err != nil {
		return err
	}
	return f.Commit(perm)
}

// Own gives path, and all below it, to the owner of like. Only root can; for
// others it does nothing.
func Own(path, like string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(like)
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	return filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, int(st.Uid), int(st.Gid))
	})
}

// SyncDir makes sure that what was created in, renamed into or removed from
// dir stays so; fsync(2): that is not part of syncing the file itself.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}

// SyncTree syncs all files and directories at and below root.
func SyncTree(root string) error {
	return filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() && !e.Type().IsRegular() {
			return err
		}
		return SyncDir(p)
	})
}
