// The image builder that `make image` and the cluster lab run, pinned apart so
// that the product's go.mod holds only what the product needs.
module github.com/twill-net/twill/dist/image

go 1.26.0

require github.com/google/go-containerregistry v0.22.1

require (
	github.com/klauspost/compress v1.19.2 // indirect
	github.com/opencontainers/go-digest v1.0.0 // indirect
	github.com/opencontainers/image-spec v1.1.1 // indirect
	golang.org/x/sync v0.22.0 // indirect
)
