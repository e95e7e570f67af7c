package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/twill-net/twill/subnet/envfile"
)

const pollInterval = 50 * time.Millisecond

// awaitEnv reads subnet.env and gives it until limit to come and to be whole:
// the first pods of a booting node start before its lease is there, and a
// writer other than twilld may be in the middle of it. What is left is an
// error with the spec's code 11, try again later.
func awaitEnv(ctx context.Context, path string, limit time.Duration) (envfile.Env, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		env, err := envfile.Read(path)
		if err == nil {
			return env, nil
		}
		if other := (*fs.PathError)(nil); errors.As(err, &other) && !errors.Is(err, fs.ErrNotExist) {
			return envfile.Env{}, types.NewError(types.ErrIOFailure, err.Error(), "")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return envfile.Env{}, types.NewError(types.ErrTryAgainLater,
				fmt.Sprintf("waiting %v for the node's subnet: %v", limit, err),
				"is twilld running and ready on this node? `twill status` says what it waits for; the runtime may try again")
		}
	}
}
