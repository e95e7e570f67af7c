// Pause is the first process of a pod in the cluster lab: the pod's namespaces
// are there as long as it is.
package main

import (
	"context"
	"os/signal"
	"syscall"
)

func main() {
	// Then the kernel reaps the orphans of a pod that shares one PID namespace
	// (wait(2), SIGCHLD set to SIG_IGN).
	signal.Ignore(syscall.SIGCHLD)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
}
