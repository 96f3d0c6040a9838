// Command flashsale runs a flash-sale reservation engine: all its services in one process on an
// embedded default, or any of them on real servers, in either wiring.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
)

// errFailed ends the program with status 1 after everything has been said already.
var errFailed = errors.New("failed")

func main() {
	quiet()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // the heap is small: a collection less often costs little memory
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		if !errors.Is(err, errFailed) {
			fmt.Fprintln(os.Stderr, "flashsale:", err)
		}
		os.Exit(1)
	}
}

// quiet keeps the Redis client from writing a line of its own for every connection that fails: what
// matters is logged by the gate's keeper, once.
func quiet() { redis.SetLogger(silence{}) }

type silence struct{}

// Printf implements the logger of go-redis.
func (silence) Printf(context.Context, string, ...any) {}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "flashsale",
		Short: "A flash-sale reservation engine",
		Long: `A flash-sale reservation engine: decides exactly and fast who gets one of too few items,
holds it while they pay, and gives it back when they don't.`,
		Example: `  flashsale demo                          see a whole sale in both wirings, nothing to install
  flashsale serve                         run every service in one process, data kept in ./data
  flashsale serve --mode=async            the same over a durable queue
  flashsale migrate && flashsale serve    on real servers: DATABASE_URL, REDIS_URLS, AMQP_URL
  flashsale audit                         do the books balance?
  flashsale top                           watch a sale in the terminal
  flashsale dlq list                      which events could not be handled, and why?
  flashsale bench ab                      synchronous or asynchronous, on this machine?`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(demoCommand(), serveCommand(), migrateCommand(), auditCommand(), dlqCommand(), benchCommand(), topCommand(), healthCommand(), secretsCommand())
	return cmd
}
