// Command async is the benchmark of the asynchronous wiring: against the synchronous one, and against a
// bare publisher, in the same run, on servers that it starts itself.
//
//	go run ./bench/async                        all figures, about four minutes on two idle cores
//	go run ./bench/async --short                all of them, shorter, about a minute and a half
//	go run ./bench/async --only=publish         some of them
//	go run ./bench/async --json > result.json
//	go run ./bench/async --strict               status 1 when a target is missed
package main

import (
	"context"
	"errors"
	"flag"
	"flashsale/bench/lab"
	"flashsale/bench/testbed"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// group is what one name of --only measures.
type group struct {
	name    string
	measure func(*bench, context.Context) ([]lab.Figure, error)
}

func groups() []group {
	return []group{
		{"decided", (*bench).decided},
		{"latency", (*bench).latency},
		{"publish", (*bench).publish},
	}
}

const examples = `
Examples:
  go run ./bench/async                    all figures, about four minutes on two idle cores
  go run ./bench/async --short            all of them, shorter
  go run ./bench/async --only=publish     some of them
  go run ./bench/async --json > result.json
  go run ./bench/async --strict           status 1 when a target is missed
`

func parseFlags(args []string) (lab.Settings, []group, error) {
	var s lab.Settings
	all := groups()
	names := make([]string, 0, len(all))
	for _, g := range all {
		names = append(names, g.name)
	}
	fl := flag.NewFlagSet("bench/async", flag.ContinueOnError)
	fl.SetOutput(io.Discard)
	fl.Usage = func() {
		fmt.Fprintln(fl.Output(), "Usage of bench/async:")
		fl.PrintDefaults()
		fmt.Fprint(fl.Output(), examples)
	}
	s.Flags(fl)
	only := fl.String("only", strings.Join(names, ","), "figures to take")
	if err := s.Parse(fl, args); err != nil {
		return s, nil, err
	}
	var chosen []group
	for name := range strings.SplitSeq(*only, ",") {
		i := slices.Index(names, name)
		if i < 0 {
			return s, nil, fmt.Errorf("--only: there is no figure %q; there are %s", name, strings.Join(names, ", "))
		}
		chosen = append(chosen, all[i])
	}
	return s, chosen, nil
}

func run(ctx context.Context, args []string) error {
	s, chosen, err := parseFlags(args)
	if err != nil {
		return err
	}
	say := testbed.NewProgress(os.Stderr)
	defer say.End()
	report, err := s.Measure(ctx, lab.Plan{Shards: 2, Rabbit: true}, say, func(ctx context.Context, l *lab.Lab, r *lab.Report) error {
		r.Settings = append(r.Settings, "RabbitMQ: one node, quorum queues as the program declares them")
		return (&bench{lab: l, report: r, settings: s}).run(ctx, chosen)
	})
	if err != nil {
		return err
	}
	say.End()
	return s.Conclude(report)
}
