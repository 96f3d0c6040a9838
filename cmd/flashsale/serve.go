package main

import (
	"context"
	"errors"
	"flashsale/bench/journey"
	"flashsale/id"
	"flashsale/telemetry/logs"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"
)

func serveCommand() *cobra.Command {
	cfg := defaults()
	var sample bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run services until told to stop",
		Long: `Runs the services named by --roles. With no servers named it runs all of them in this process on the
embedded default: in-memory gate, SQLite files and queue in --data, which survive a restart and kill -9.
With DATABASE_URL, REDIS_URLS and (for async) AMQP_URL it runs on real servers; run flashsale migrate first.

SIGINT or SIGTERM stops it gracefully: /readyz fails at once, what was accepted is finished.`,
		Example: `  flashsale serve --sample
  flashsale serve --mode=async --data /var/lib/flashsale --listen 127.0.0.1:9000
  DATABASE_URL='postgres://flash:secret@db:5432/{database}' REDIS_URLS=redis://r1:6379,redis://r2:6379 \
    TOKEN_SECRETS=$(openssl rand -hex 32) flashsale serve --roles=reservation,inventory --internal-listen :9090 \
    --peers order=http://orders:9090,payment=http://payments:9090,…`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.read(cmd.Flags()); err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, sample, logger(cfg, os.Stderr))
		},
	}
	cfg.bind(cmd.Flags())
	cmd.Flags().BoolVar(&sample, "sample", false, "if there is no sale yet, open a sample sale of 100 units")
	return cmd
}

func logger(cfg Config, to io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.LogLevel)) // validated
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: logs.TraceID}
	if cfg.LogFormat == "json" {
		return slog.New(logs.Handler(slog.NewJSONHandler(to, opts)))
	}
	return slog.New(logs.Handler(slog.NewTextHandler(to, opts)))
}

func serve(ctx context.Context, cfg Config, sample bool, log *slog.Logger) error {
	log.Info("configuration", cfg.redacted()...)
	a, err := start(ctx, cfg, log)
	if err != nil {
		return err
	}
	log.Info("serving", "url", a.url(), "mode", cfg.Mode, "roles", cfg.Roles)
	if sample {
		a.note(a.openSample(ctx))
	}
	var failed error
	select {
	case <-ctx.Done():
		log.Info("stopping: finishing what was accepted", "at_most", cfg.DrainFor)
	case failed = <-a.failed:
		log.Error("a part failed; stopping", "error", failed)
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.DrainFor)
	defer cancel()
	if err := a.stop(end); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	log.Info("stopped")
	return failed
}

// openSample puts something on sale, as the operator and over the API, unless there is a sale.
func (a *app) openSample(ctx context.Context) error {
	if a.catalog == nil || a.accounts == nil || a.cfg.OperatorPassword == "" {
		return errors.New("--sample needs the roles catalog and account in this process, and OPERATOR_PASSWORD")
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	sales, _, err := a.catalog.Sales(ctx, id.ID{}, 1)
	if err != nil || len(sales) > 0 {
		return err
	}
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	sale, err := journey.OpenSale(ctx, journey.Crowd{
		Base: a.url(), Operator: a.cfg.OperatorEmail, Password: a.cfg.OperatorPassword, Stock: 100, Limit: 2, Hold: 5 * time.Minute, Client: client,
	})
	if err != nil {
		return fmt.Errorf("sample sale: %w", err)
	}
	a.log.Info("a sample sale is open", "sale", sale.ID, "sku", sale.SKU)
	return nil
}
