package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Build writes the image of the given roots under each of its names.
func Build(out string, names []string, config v1.Config, created time.Time, roots []Root) error {
	tags := make([]name.Tag, len(names))
	for i, n := range names {
		var err error
		if tags[i], err = name.NewTag(n); err != nil {
			return fmt.Errorf("reading the name of the image: %w", err)
		}
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, root := range roots {
		img, err := image(root, config, created)
		if err != nil {
			return fmt.Errorf("making the image for %s: %w", root.Platform, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &root.Platform}})
	}
	if len(config.Labels) != 0 {
		index = mutate.Annotations(index, config.Labels).(v1.ImageIndex)
	}

	// The layout is made beside the archive, which is there whole or not at all.
	work, err := os.MkdirTemp(filepath.Dir(out), ".image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := write(filepath.Join(work, "layout"), index, tags); err != nil {
		return fmt.Errorf("writing the image: %w", err)
	}
	archive := filepath.Join(work, "tar")
	if err := packFile(archive, filepath.Join(work, "layout"), created); err != nil {
		return err
	}
	return os.Rename(archive, out)
}

// image is the image of one platform, with a single layer.
func image(root Root, config v1.Config, created time.Time) (v1.Image, error) {
	l, err := layer(root.Dir, created)
	if err != nil {
		return nil, err
	}
	at := v1.Time{Time: created}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{Layer: l, MediaType: types.OCILayer, History: v1.History{Created: at, CreatedBy: "dist/image"}})
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Config, file.Created = config, at
	file.OS, file.Architecture, file.Variant = root.Platform.OS, root.Platform.Architecture, root.Platform.Variant
	return mutate.ConfigFile(img, file)
}

// write makes an image layout whose index has the image once for each name, as
// containerd and Docker read names from it.
func write(dir string, index v1.ImageIndex, tags []name.Tag) error {
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	for i, tag := range tags {
		annotations := map[string]string{
			"io.containerd.image.name":          full(tag),
			"org.opencontainers.image.ref.name": tag.TagStr(),
		}
		if i == 0 {
			if err := path.AppendIndex(index, layout.WithAnnotations(annotations)); err != nil {
				return err
			}
			continue
		}
		descriptor, err := partial.Descriptor(index)
		if err != nil {
			return err
		}
		descriptor.Annotations = annotations
		if err := path.AppendDescriptor(*descriptor); err != nil {
			return err
		}
	}
	return nil
}

// full is the name as containerd spells it: docker.io, not index.docker.io.
func full(tag name.Tag) string {
	registry := tag.RegistryStr()
	if registry == name.DefaultRegistry {
		registry = "docker.io"
	}
	return registry + "/" + tag.RepositoryStr() + ":" + tag.TagStr()
}

func packFile(file, dir string, mtime time.Time) error {
	// The layout's own modes follow the umask.
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if d.IsDir() {
			mode = 0o755
		}
		return os.Chmod(path, mode)
	})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if err := pack(f, dir, mtime); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
