package main

import (
	"context"
	"encoding/json"
	"errors"
	"flashsale/audit"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

func auditCommand() *cobra.Command {
	cfg := defaults()
	var asJSON bool
	var settle, every time.Duration
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Check that the books balance",
		Long: `Checks the audit's equations (docs/ARCHITECTURE.md) on the databases and the gate of the roles named by
--roles, and ends with status 1 when one does not hold. On a system in use it first waits until nothing is on
its way, for as long as --settle says. The embedded default is audited while its process is stopped (its gate
is in memory, and is rebuilt for the audit); a running one answers GET /api/v1/admin/audit.

With --every it audits the servers again and again until it is told to stop, and says what it finds as metrics, at
--admin-listen: for services that run apart, of which none sees all the books.`,
		Example: `  flashsale audit
  flashsale audit --data /var/lib/flashsale --json
  DATABASE_URL=… REDIS_URLS=… flashsale audit --settle 30s
  DATABASE_URL=… REDIS_URLS=… flashsale audit --every 1m --admin-listen 127.0.0.1:8089`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Listen = "127.0.0.1:0"
			if err := cfg.fill(cmd.Flags(), os.Getenv); err != nil {
				return err
			}
			var wrong []error
			cfg.validateRoles(func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) })
			if err := errors.Join(wrong...); err != nil {
				return err
			}
			if every != 0 {
				return auditEvery(cmd.Context(), cfg, every, logger(cfg, cmd.ErrOrStderr()))
			}
			checks, err := auditOnce(cmd.Context(), cfg, settle)
			if err != nil {
				return err
			}
			if len(checks) == 0 {
				return fmt.Errorf("the roles %s have no books: nothing was audited", strings.Join(cfg.Roles, ", "))
			}
			out := cmd.OutOrStdout()
			if asJSON {
				enc := json.NewEncoder(out)
				enc.SetIndent("", "  ")
				if err := enc.Encode(checks); err != nil {
					return err
				}
			} else {
				printChecks(out, checks)
			}
			if !audit.Clean(checks) {
				if cfg.embedded() {
					return errors.New("the books do not balance. If the process was killed, steps may have been under way: start it once and stop it, then audit again")
				}
				return errors.New("the books do not balance")
			}
			return nil
		},
	}
	cfg.bind(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the checks as JSON")
	cmd.Flags().DurationVar(&every, "every", 0, "audit again and again, with so much time between two audits, and serve metrics (default: once)")
	cmd.Flags().DurationVar(&settle, "settle", 10*time.Second, "how long to wait for what is on its way")
	return cmd
}

// auditOnce opens what the audit reads, waits for what is on its way, and audits.
func auditOnce(ctx context.Context, cfg Config, settle time.Duration) ([]audit.Check, error) {
	if cfg.embedded() {
		if _, err := os.Stat(dataFolder{cfg.Data}.file("inventory.db")); err != nil {
			return nil, fmt.Errorf("there are no books in %s; name the folder with --data, or set DATABASE_URL: %w", cfg.Data, err)
		}
	}
	cfg.AdminListen = "" // the process that serves may be beside this one, with the same settings
	a, err := build(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer a.closeAll()
	if cfg.embedded() && a.keeper != nil { // the gate of a stopped process is empty: rebuild it as the next start would
		if err := a.keeper.RunOnce(ctx); err != nil {
			return nil, err
		}
	}
	waiting, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	if err := a.audit.Settle(waiting); err != nil {
		return nil, err
	}
	return a.audit.Run(ctx)
}

// auditEvery audits until ctx ends; what it finds is in the metrics, and in the log when it fails.
func auditEvery(ctx context.Context, cfg Config, every time.Duration, log *slog.Logger) error {
	switch {
	case every < time.Second:
		return fmt.Errorf("--every is %s; set 1s or more, such as 1m", every)
	case cfg.embedded():
		return errors.New("--every is for servers; a process with embedded data audits itself: flashsale serve --audit-every 1m")
	case cfg.AdminListen == "":
		return errors.New("nobody would see what --every finds; set --admin-listen to where its metrics are to be read")
	}
	cfg.AuditEvery = every
	a, err := build(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer a.closeAll()
	loops, failed := errgroup.WithContext(ctx)
	loops.Go(func() error { return a.serveAdmin(failed) })
	loops.Go(func() error { return a.auditLoop(failed) })
	return loops.Wait()
}
