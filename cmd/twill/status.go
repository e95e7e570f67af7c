package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/twill-net/twill/overlay"
)

func newStatus() *cobra.Command {
	var socket, output string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how this node's twilld is: lease, peers, refused records, repairs, store",
		Long: "Show how this node's twilld is: lease, peers, refused records, repairs, store.\n" +
			"The exit code is 0 when the node is ready, 1 when it is not or cannot be asked.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q is not text or json", output)
			}
			s, err := askStatus(cmd.Context(), socket)
			if err != nil {
				return err
			}
			if output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				if err := enc.Encode(s); err != nil {
					return err
				}
			} else {
				fmt.Fprint(cmd.OutOrStdout(), s.Text())
			}
			if !s.Ready {
				return errSaid
			}
			return nil
		},
	}
	c.Flags().StringVar(&socket, "socket", "/run/twill/twilld.sock", "unix socket of the daemon")
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

// askStatus asks the daemon behind the socket.
func askStatus(ctx context.Context, socket string) (overlay.Status, error) {
	var s overlay.Status
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://twilld/status", nil)
	if err != nil {
		return s, err
	}
	resp, err := client.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return s, fmt.Errorf("no twilld answers on %s: is it running, and with this --socket?", socket)
	case err != nil:
		return s, fmt.Errorf("asking twilld on %s: %w", socket, err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		return s, fmt.Errorf("reading the answer of twilld on %s: %w", socket, err)
	}
	return s, nil
}
