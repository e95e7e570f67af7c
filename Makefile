# Twill. `make` alone lists the targets; the work is done by go's own cache and
# by the scripts in dist/make, each of which can be run by itself.
SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-builtin-rules --no-print-directory
.ONESHELL:

GO       ?= go
FUZZTIME ?= 20000x
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
BIN      ?= bin
export GO FUZZTIME VERSION

# Static, without paths of the building machine, without symbol tables.
STATIC  := CGO_ENABLED=0 $(GO)
LDFLAGS := -s -w -X github.com/twill-net/twill/overlay/version.Version=$(VERSION)

CNI         := github.com/containernetworking/plugins
CNI_LDFLAGS  = -s -w -X $(CNI)/pkg/utils/buildversion.BuildVersion=$(shell $(GO) -C dist/cni list -m -f '{{.Version}}' $(CNI))

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 12

.PHONY: build
build: ## bin/twilld, bin/twill, bin/twill-cni and the reference CNI plugins in bin/cni
	@echo "building $(VERSION) into $(BIN) (the first time takes a minute or two)"
	mkdir -p $(BIN)/cni
	$(STATIC) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...
	$(STATIC) -C dist/cni build -trimpath -ldflags '$(CNI_LDFLAGS)' -o $(abspath $(BIN))/cni/ tool

.PHONY: packages
packages: ## Debian packages in bin/packages; GOARCH=arm64 for another architecture
	@dist/make/packages

.PHONY: image
image: ## the container image for amd64 and arm64, as bin/image/twill-VERSION.oci.tar
	@dist/make/image

.PHONY: manifests
manifests: ## what installs that image in a cluster: manifests and the Helm chart, in bin/kubernetes
	@dist/make/manifests

.PHONY: demo
demo: build ## three nodes, one overlay, on this machine: shown, repaired, taken down (root)
	@dist/make/deps lab
	bin/twill lab demo

.PHONY: bench
bench: build ## measure against the machine's limits: Documentation/bench, 15 minutes; PEER=flanneld PEER_CNI=plugin beside (root)
	@dist/make/deps lab
	dist/make/bench

.PHONY: bench-quick
bench-quick: build ## the same in 3 minutes
	@dist/make/deps lab
	dist/make/bench -quick

.PHONY: test
test: ## every test of the module: -race, real kernel, real etcd (root); SEED=n replays an order
	@dist/make/deps test
	dist/make/test

.PHONY: chaos
chaos: ## a random mix of faults on a cluster under traffic, for CHAOS_SECONDS (300); SEED=n replays one (root)
	@dist/make/deps test
	dist/make/chaos

.PHONY: kube-up
kube-up: ## a Kubernetes cluster with Twill on this machine: NODES=3 STACK=dual PROXY=nftables; then dist/make/kube kubectl ... (root)
	@dist/make/deps kube
	dist/make/kube-up

.PHONY: kube-down
kube-down: ## take it down, and all that it has made
	dist/make/kube --dir "$${DIR:-/var/tmp/twill-kube}" down

.PHONY: kube-test
kube-test: ## the suites on such a cluster; E2E='regular expression' runs Kubernetes' own tests (root)
	@dist/make/deps kube
	dist/make/kube-test

.PHONY: verify
verify: ## format, vet, linters, dead code, tidy, generated files, binaries, import rules
	@dist/make/deps verify
	dist/make/verify

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME inputs (20000x)
	@dist/make/fuzz

.PHONY: generate
generate: ## write the generated files anew
	$(GO) generate ./...

.PHONY: tools
tools: ## build the pinned linters into .cache/bin
	@dist/make/tools

.PHONY: clean
clean: ## remove bin and .cache
	rm -rf bin .cache
