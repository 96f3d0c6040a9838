// Command core is the benchmark of the stock core: every figure is a ratio against a baseline that
// is taken in the same run, on servers that it starts itself.
//
//	go run ./bench/core                        all figures, eight to ten minutes on two idle cores
//	go run ./bench/core --short                all of them, shorter and smaller, about a minute and a half
//	go run ./bench/core --only=http,takes      some of them
//	go run ./bench/core --only=telemetry       what metrics, collector and tracing cost
//	go run ./bench/core --json > result.json
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

type coreSettings struct {
	lab.Settings
	only           string
	shards, buyers int
}

func parseFlags(args []string) (coreSettings, []group, error) {
	var s coreSettings
	names := make([]string, 0, len(groups()))
	var usual []string
	for _, g := range groups() {
		names = append(names, g.name)
		if !g.apart {
			usual = append(usual, g.name)
		}
	}
	fl := flag.NewFlagSet("bench/core", flag.ContinueOnError)
	fl.SetOutput(io.Discard)
	s.Flags(fl)
	fl.StringVar(&s.only, "only", strings.Join(usual, ","), "figures to take; telemetry besides, when it is named")
	fl.IntVar(&s.shards, "shards", 2, "Redis servers of the gate, 1 to 16")
	fl.IntVar(&s.buyers, "buyers", 0, "past buyers of figure scale (default 5000000, or 100000 with --short)")
	if err := s.Parse(fl, args); err != nil {
		return s, nil, err
	}
	if s.buyers == 0 {
		s.buyers = 5_000_000
		if s.Short {
			s.buyers = 100_000
		}
	}
	switch {
	case s.shards < 1 || s.shards > 16:
		return s, nil, fmt.Errorf("--shards is %d; use 1 to 16", s.shards)
	case s.buyers < pastSales || s.buyers > 20_000_000:
		return s, nil, fmt.Errorf("--buyers is %d; use %d to 20000000", s.buyers, pastSales)
	}
	var chosen []group
	for name := range strings.SplitSeq(s.only, ",") {
		i := slices.Index(names, name)
		if i < 0 {
			return s, nil, fmt.Errorf("--only: there is no figure %q; there are %s", name, strings.Join(names, ", "))
		}
		chosen = append(chosen, groups()[i])
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
	report, err := s.Measure(ctx, lab.Plan{Shards: s.shards, Front: true}, say, func(ctx context.Context, l *lab.Lab, r *lab.Report) error {
		b := &bench{lab: l, report: r, opts: options{repeats: s.Repeats, round: s.Round, items: 10_000, buyers: s.buyers, pending: 200_000, shards: s.shards}}
		if s.Short {
			b.opts.items, b.opts.pending = 1000, 50_000
		}
		return b.run(ctx, chosen)
	})
	if err != nil {
		return err
	}
	say.End()
	return s.Conclude(report)
}
