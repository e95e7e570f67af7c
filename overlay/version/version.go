// Package version holds the version of the build. It imports nothing.
package version

// Version is the release, or `git describe` of the tree that was built; the
// linker sets it (-X). A plain `go build` leaves "dev".
var Version = "dev"
