// Package suite shows Twill in a Kubernetes cluster of real parts: that nodes
// become Ready by it, that pods and Services are reached with the right client
// addresses, and that nothing is lost when parts of the cluster come and go. All
// tests share one cluster, which TestMain makes; they leave it as it was.
//
// The tests have the build tag cluster, so that a plain `go test ./...` neither
// builds nor skips them: dist/make/kube-test runs them. With -short they leave out
// what another test shows as well, and do less often what they repeat.
package suite
