package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flashsale/engine"
	"flashsale/httpapi"
	"flashsale/id"
	"flashsale/transport"
	"flashsale/transport/amqp"
	"flashsale/transport/inproc"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// deadLetters are those of this process's transport; nil when it has no queue.
func (w *wiring) deadLetters() transport.DeadLetters {
	if w.queue == nil {
		return nil
	}
	return w.queue
}

// eventsTo lists what the flow sends to a service, each with the newest version of it that the service
// reads: its handler sees nothing else.
func eventsTo(service transport.Service) map[string]int {
	reads := map[string]int{}
	for _, r := range engine.Table() {
		if r.To == service {
			reads[r.Event] = r.Version
		}
	}
	return reads
}

// dlq is what the dlq commands share.
type dlq struct {
	cfg                        Config
	asJSON, all, yes           bool
	service, reason, olderThan string
	page                       string
	limit, rate                int
}

func dlqCommand() *cobra.Command {
	d := &dlq{cfg: defaults()}
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "List, show, replay and purge dead letters",
		Long: `Dead letters are the events of the asynchronous wiring that a service could not handle. Each has a reason:
permanent (its handler refused it for good), attempts (the last attempt failed too), malformed, unknown_type or
unknown_version. One that died because something was away or overloaded is replayed by itself, up to three times.

With AMQP_URL the commands work on RabbitMQ, whether services run or not. Without, they work on the queue file in
--data while its process is stopped; while it runs, use its operator API: /api/v1/admin/dlq.`,
		Example: `  flashsale dlq list
  flashsale dlq list --service inventory --reason attempts --older-than 10m --json
  flashsale dlq show inventory 0199b0f4-5c1e-8a55-9d0c-3e7f1a2b4c5d
  flashsale dlq replay inventory 0199b0f4-5c1e-8a55-9d0c-3e7f1a2b4c5d
  flashsale dlq replay --reason attempts --rate 20
  flashsale dlq purge --reason malformed --older-than 24h --yes
  AMQP_URL=amqp://flash:secret@127.0.0.1:5672/ flashsale dlq replay --all`,
		Args: cobra.NoArgs,
	}
	all := pflag.NewFlagSet("settings", pflag.ContinueOnError)
	d.cfg.bind(all)
	for _, name := range []string{"data", "amqp-url", "config"} {
		cmd.PersistentFlags().AddFlag(all.Lookup(name))
	}
	cmd.PersistentFlags().BoolVar(&d.asJSON, "json", false, "print JSON")
	cmd.AddCommand(d.listCommand(), d.showCommand(), d.replayCommand(), d.purgeCommand())
	return cmd
}

func (d *dlq) chooseBy(cmd *cobra.Command) {
	cmd.Flags().StringVar(&d.service, "service", "", "only of this service")
	cmd.Flags().StringVar(&d.reason, "reason", "", "only of this reason")
	cmd.Flags().StringVar(&d.olderThan, "older-than", "", "only those that died longer ago, such as 90s, 10m or 24h")
}

func (d *dlq) listCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, those that died first coming first",
		Example: `  flashsale dlq list
  flashsale dlq list --service order --reason attempts --limit 100
  flashsale dlq list --json | jq -r '.letters[].id'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := d.filter(nil)
			if err != nil {
				return err
			}
			if d.limit < 1 || d.limit > transport.MaxLetters {
				return fmt.Errorf("--limit is %d; set 1 to %d, and go on with --page", d.limit, transport.MaxLetters)
			}
			f.Limit, f.After = d.limit, d.page
			return d.with(cmd, func(ctx context.Context, letters transport.DeadLetters) error {
				page, err := letters.List(ctx, f)
				if errors.Is(err, transport.ErrCursor) {
					return fmt.Errorf("--page is not one that a list has printed; take it from there, or leave it out")
				}
				if err != nil {
					return err
				}
				return d.printPage(cmd.OutOrStdout(), page)
			})
		},
	}
	d.chooseBy(cmd)
	cmd.Flags().IntVar(&d.limit, "limit", 20, "how many to list")
	cmd.Flags().StringVar(&d.page, "page", "", "where the list before ended, as it said")
	return cmd
}

func (d *dlq) showCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show service id",
		Short:   "Show a dead letter with its body, route, attempts and error",
		Example: `  flashsale dlq show inventory 0199b0f4-5c1e-8a55-9d0c-3e7f1a2b4c5d --json | jq -r .body | jq .data`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("name a service and the letter's id, as flashsale dlq list prints them")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := d.filter(args)
			if err != nil {
				return err
			}
			return d.with(cmd, func(ctx context.Context, letters transport.DeadLetters) error {
				l, err := letters.Show(ctx, f.Service, f.ID)
				if errors.Is(err, transport.ErrNoLetter) {
					return d.noLetter(f)
				}
				if err != nil {
					return err
				}
				if d.asJSON {
					return printJSON(cmd.OutOrStdout(), httpapi.ViewLetter(l))
				}
				return printLetter(cmd.OutOrStdout(), l)
			})
		},
	}
}

func (d *dlq) replayCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replay [service id]",
		Short: "Put dead letters back into their queues",
		Long: `Puts dead letters back into their queues, as if they were sent anew. Each is stored in its queue before it stops
being a dead letter, so none is lost, and handlers know the events: replaying one twice has one effect. Mend what
they died of first; what dies again is a dead letter again.`,
		Example: `  flashsale dlq replay inventory 0199b0f4-5c1e-8a55-9d0c-3e7f1a2b4c5d
  flashsale dlq replay --service payment --reason attempts --rate 10
  flashsale dlq replay --all`,
		Args: oneOrChosen,
		RunE: func(cmd *cobra.Command, args []string) error {
			if d.rate < 1 || d.rate > 10_000 {
				return fmt.Errorf("--rate is %d; set 1 to 10000 letters a second", d.rate)
			}
			return d.settle(cmd, args, "replayed", func(ctx context.Context, letters transport.DeadLetters, f transport.Filter) (transport.LetterCount, error) {
				return letters.Replay(ctx, f, d.rate)
			})
		},
	}
	d.chooseBy(cmd)
	cmd.Flags().BoolVar(&d.all, "all", false, "every dead letter")
	cmd.Flags().IntVar(&d.rate, "rate", transport.DefaultRate, "at most so many a second")
	return cmd
}

func (d *dlq) purgeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "purge [service id]",
		Short: "Delete dead letters for good",
		Example: `  flashsale dlq purge inventory 0199b0f4-5c1e-8a55-9d0c-3e7f1a2b4c5d --yes
  flashsale dlq purge --reason malformed --older-than 24h --yes`,
		Args: oneOrChosen,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !d.yes {
				return fmt.Errorf("purge deletes for good, and nothing was deleted; look with flashsale dlq list or show first, then add --yes")
			}
			return d.settle(cmd, args, "purged", func(ctx context.Context, letters transport.DeadLetters, f transport.Filter) (transport.LetterCount, error) {
				return letters.Purge(ctx, f)
			})
		},
	}
	d.chooseBy(cmd)
	cmd.Flags().BoolVar(&d.all, "all", false, "every dead letter")
	cmd.Flags().BoolVar(&d.yes, "yes", false, "really delete them")
	return cmd
}

func oneOrChosen(_ *cobra.Command, args []string) error {
	if len(args) != 0 && len(args) != 2 {
		return fmt.Errorf("name a service and the letter's id, or neither and choose by --service, --reason, --older-than or --all")
	}
	return nil
}

// filter reads the letter that is named, or the flags that choose.
func (d *dlq) filter(args []string) (transport.Filter, error) {
	if len(args) == 2 {
		if d.service != "" || d.reason != "" || d.olderThan != "" || d.all {
			return transport.Filter{}, fmt.Errorf("a letter is named, and others are chosen by flags; leave out the one or the other")
		}
		f, err := httpapi.ParseLetterFilter(args[0], "", "", time.Now())
		if err != nil {
			return f, fmt.Errorf("%q: %w", args[0], err)
		}
		if f.ID, err = id.Parse(args[1]); err != nil || f.ID.IsZero() {
			return f, fmt.Errorf("%q is not a letter's id; flashsale dlq list prints them", args[1])
		}
		return f, nil
	}
	f, err := httpapi.ParseLetterFilter(d.service, d.reason, d.olderThan, time.Now())
	if err != nil {
		return f, fmt.Errorf("--%s", strings.ReplaceAll(err.Error(), "older_than", "older-than"))
	}
	return f, nil
}

func (d *dlq) noLetter(f transport.Filter) error {
	return fmt.Errorf("there is no dead letter %s of %s; it may have been replayed or purged: see flashsale dlq list --service %s", f.ID, f.Service, f.Service)
}

// settle replays or purges, and says how many.
func (d *dlq) settle(
	cmd *cobra.Command, args []string, what string, do func(context.Context, transport.DeadLetters, transport.Filter) (transport.LetterCount, error),
) error {
	f, err := d.filter(args)
	if err != nil {
		return err
	}
	if f.All() != d.all {
		return fmt.Errorf("choose: name a service and a letter's id, or --service, --reason or --older-than, or --all for every dead letter")
	}
	return d.with(cmd, func(ctx context.Context, letters transport.DeadLetters) error {
		n, err := do(ctx, letters, f)
		if err == nil && len(args) == 2 && n.Done == 0 {
			return d.noLetter(f)
		}
		out := cmd.OutOrStdout()
		if d.asJSON {
			err = errors.Join(err, printJSON(out, map[string]any{what: n.Done, "more": n.More}))
		} else {
			fmt.Fprintf(out, "%s %d\n", what, n.Done)
		}
		if err != nil {
			return fmt.Errorf("%s only %d; the others are still there, run it again: %w", what, n.Done, err)
		}
		if n.More && !d.asJSON {
			fmt.Fprintln(out, "there are more than one look can hold: replay or purge others, then run it again")
		}
		return nil
	})
}

// with opens the dead letters of the settings.
func (d *dlq) with(cmd *cobra.Command, do func(context.Context, transport.DeadLetters) error) error {
	ctx := cmd.Context()
	if err := d.cfg.fill(cmd.Flags(), os.Getenv); err != nil {
		return err
	}
	quiet := slog.New(slog.DiscardHandler)
	if d.cfg.AMQPURL != "" {
		return do(ctx, amqp.New(amqp.Options{URL: d.cfg.AMQPURL, Log: quiet}))
	}
	if !d.cfg.embedded() {
		return fmt.Errorf("a DATABASE_URL is set, but no AMQP_URL; dead letters are in RabbitMQ: set AMQP_URL to amqp://user:password@host:port/vhost")
	}
	if _, err := os.Stat(d.cfg.Data); err != nil {
		return fmt.Errorf("there is no data folder %s; name it with --data, or set AMQP_URL for RabbitMQ: %w", d.cfg.Data, err)
	}
	data := dataFolder{d.cfg.Data}
	release, err := data.lock()
	if err != nil {
		return fmt.Errorf("%w; or use the operator API of the one that runs: GET http://%s/api/v1/admin/dlq", err, d.cfg.Listen)
	}
	defer release()
	if _, err := os.Stat(data.file(queueFile)); errors.Is(err, fs.ErrNotExist) {
		return do(ctx, httpapi.NoDeadLetters()) // it never ran with --mode=async
	}
	q, err := inproc.OpenQueue(ctx, data.file(queueFile), time.Now, quiet, inproc.Options{})
	if err != nil {
		return err
	}
	err = do(ctx, q)
	return errors.Join(err, q.Stop(context.WithoutCancel(ctx)))
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func (d *dlq) printPage(out io.Writer, page transport.LetterPage) error {
	if d.asJSON {
		views := []httpapi.LetterView{}
		for _, l := range page.Letters {
			views = append(views, httpapi.ViewLetter(l))
		}
		v := map[string]any{"letters": views, "partial": page.Partial}
		if page.Next != "" {
			v["next"] = page.Next
		}
		return printJSON(out, v)
	}
	if len(page.Letters) == 0 {
		fmt.Fprintln(out, "no dead letters")
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SERVICE\tID\tEVENT\tREASON\tATTEMPTS\tDIED\tREPLAYS AT\tERROR")
	for _, l := range page.Letters {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", l.Service, l.ID, printable(l.Type, 40), l.Reason, l.Attempts, moment(l.Died), moment(l.ReplayAt), printable(l.Error, 80))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if page.Next != "" {
		fmt.Fprintf(out, "there are more: the same with --page %s\n", page.Next)
	}
	if page.Partial {
		fmt.Fprintln(out, "a queue has more letters than one look can hold; replay or purge some to see them")
	}
	return nil
}

func moment(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return at.Format(time.RFC3339)
}

// printable keeps what a stranger wrote from moving the cursor of a terminal.
func printable(s string, most int) string {
	runes := slices.Collect(func(yield func(rune) bool) {
		for _, r := range s {
			if r < ' ' || r >= 0x7f && r < 0xa0 {
				r = '�'
			}
			if !yield(r) {
				return
			}
		}
	})
	if len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return string(runes)
}

func printLetter(out io.Writer, l transport.Letter) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	const whole = 1000
	for _, line := range [][2]string{
		{"id", l.ID.String()},
		{"service", string(l.Service)},
		{"event", printable(l.Type, whole)},
		{"source", printable(string(l.Source), whole)},
		{"queue", l.Queue},
		{"route", printable(l.Route, whole)},
		{"reason", string(l.Reason)},
		{"error", printable(l.Error, whole)},
		{"attempts", fmt.Sprint(l.Attempts)},
		{"first failed", moment(l.FirstFailed)},
		{"died", moment(l.Died)},
		{"replayed by itself", fmt.Sprintf("%d times, next %s", l.Replays, moment(l.ReplayAt))},
		{"size", fmt.Sprintf("%d bytes", l.Size)},
	} {
		fmt.Fprintf(w, "%s\t%s\n", line[0], line[1])
	}
	if err := w.Flush(); err != nil {
		return err
	}
	var pretty bytes.Buffer
	if json.Indent(&pretty, l.Body, "", "  ") == nil {
		fmt.Fprintf(out, "\n%s\n", pretty.String())
		return nil
	}
	fmt.Fprintf(out, "\nno JSON: %q\n", l.Body)
	return nil
}
