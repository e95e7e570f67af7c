package netlab

import (
	"context"
	"io"
)

// Demo runs the demo.
func Demo(ctx context.Context, o Options, pods int, out io.Writer) error {
	return nil
}
