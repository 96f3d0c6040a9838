package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"
)

// healthCommand is for container images, which have neither a shell nor curl.
func healthCommand() *cobra.Command {
	cfg := defaults()
	var within time.Duration
	cmd := &cobra.Command{
		Use:   "health [URL]",
		Short: "Ask a running process whether it is ready",
		Long: `Asks the process that listens where --listen says, on this machine, for /readyz, or the URL that is given, and
ends with status 1 when the answer is anything but 200. It reads the same settings as serve, and no server.`,
		Example: `  flashsale health
  flashsale health http://127.0.0.1:8080/healthz
  HEALTHCHECK CMD ["/flashsale", "health"]`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				if err := cfg.fill(cmd.Flags(), os.Getenv); err != nil {
					return err
				}
				url, err := readyURL(cfg.Listen)
				if err != nil {
					return err
				}
				args = []string{url}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), within)
			defer cancel()
			return healthy(ctx, args[0])
		},
	}
	cfg.bind(cmd.Flags())
	cmd.Flags().DurationVar(&within, "within", 3*time.Second, "how long the answer may take")
	return cmd
}

// readyURL is where a process that listens on an address of any kind answers from inside.
func readyURL(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("listen is %q; set host:port, such as 127.0.0.1:8080", listen)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port) + "/readyz", nil
}

func healthy(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	err = errors.Join(err, resp.Body.Close())
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %d: %s", url, resp.StatusCode, said)
	}
	return err
}
