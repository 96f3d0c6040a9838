// Command core is the benchmark of the stock core: every figure is a ratio against a baseline that
// is taken in the same run, on servers that it starts itself.
//
//	go run ./bench/core                        all figures, eight to ten minutes on two idle cores
//	go run ./bench/core --short                all of them, shorter and smaller, about a minute and a half
//	go run ./bench/core --only=http,takes      some of them
//	go run ./bench/core --json > result.json
package main

import (
	"context"
	"errors"
	"flag"
	"flashsale/id"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
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

type settings struct {
	short, json, strict, install bool
	only, dir                    string
	repeats, shards, buyers      int
	round                        time.Duration
}

func parseFlags(args []string) (settings, []group, error) {
	var s settings
	names := make([]string, 0, len(groups()))
	for _, g := range groups() {
		names = append(names, g.name)
	}
	fl := flag.NewFlagSet("bench/core", flag.ContinueOnError)
	fl.BoolVar(&s.short, "short", false, "shorter rounds, fewer items and buyers")
	fl.BoolVar(&s.json, "json", false, "write the report as JSON")
	fl.BoolVar(&s.strict, "strict", false, "end with status 1 when a target is missed")
	fl.BoolVar(&s.install, "install", true, "install missing servers with apt-get (root on Debian)")
	fl.StringVar(&s.only, "only", strings.Join(names, ","), "figures to take")
	fl.StringVar(&s.dir, "dir", "", "where the temporary folder is made (a real disk)")
	fl.IntVar(&s.repeats, "repeats", 3, "measured rounds of each figure, 3 to 20")
	fl.IntVar(&s.shards, "shards", 2, "Redis servers of the gate, 1 to 16")
	fl.IntVar(&s.buyers, "buyers", 0, "past buyers of figure scale (default 5000000, or 100000 with --short)")
	fl.DurationVar(&s.round, "round", 0, "how long a round takes, 1s to 60s (default 4s, or 1s with --short)")
	fl.SetOutput(io.Discard)
	if err := fl.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fl.SetOutput(os.Stderr)
			fl.Usage()
			return s, nil, err
		}
		return s, nil, fmt.Errorf("%w; --help lists the settings", err)
	}
	if s.round == 0 {
		s.round = 4 * time.Second
		if s.short {
			s.round = time.Second
		}
	}
	if s.buyers == 0 {
		s.buyers = 5_000_000
		if s.short {
			s.buyers = 100_000
		}
	}
	switch {
	case fl.NArg() > 0:
		return s, nil, fmt.Errorf("%q is no setting; --help lists them", fl.Arg(0))
	case s.repeats < 3 || s.repeats > 20:
		return s, nil, fmt.Errorf("--repeats is %d; use 3 to 20", s.repeats)
	case s.shards < 1 || s.shards > 16:
		return s, nil, fmt.Errorf("--shards is %d; use 1 to 16", s.shards)
	case s.buyers < pastSales || s.buyers > 20_000_000:
		return s, nil, fmt.Errorf("--buyers is %d; use %d to 20000000", s.buyers, pastSales)
	case s.round < time.Second || s.round > time.Minute || s.round%time.Second != 0: // wrk and pgbench count whole seconds
		return s, nil, fmt.Errorf("--round is %s; use whole seconds, 1s to 60s", s.round)
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
	say := newProgress(os.Stderr)
	defer say.end()
	report, err := measure(ctx, s, chosen, say)
	if err != nil {
		return err
	}
	say.end()
	if s.json {
		err = report.writeJSON(os.Stdout)
	} else {
		report.print(os.Stdout)
	}
	switch {
	case err != nil:
		return err
	case report.Interrupted != "":
		return errors.New("interrupted: " + report.Interrupted)
	case !report.sound():
		return errors.New("something was oversold, stranded or lost, or could not be measured")
	case s.strict && !report.allMet():
		return errors.New("a target was missed")
	}
	return nil
}

func measure(ctx context.Context, s settings, chosen []group, say *progress) (*Report, error) {
	root, err := checkoutRoot()
	if err != nil {
		return nil, err
	}
	if err := require(ctx, s.install, say); err != nil {
		return nil, err
	}
	parent := s.dir
	if parent == "" {
		parent = os.TempDir()
	}
	dir, err := filepath.Abs(filepath.Join(parent, "flashsale-bench-"+id.New(time.Now()).String()))
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o755); err != nil { // PostgreSQL and nginx's workers are other users
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	r := &Report{Short: s.short}
	if r.Commit, r.Modified, err = commitOf(ctx, root); err != nil {
		return nil, err
	}
	if r.Machine, err = describeMachine(dir); err != nil {
		return nil, err
	}
	l, err := newLab(ctx, root, dir, s.shards, say)
	defer l.close()
	if err != nil {
		return nil, err
	}
	r.Versions = l.versions
	r.Settings = []string{
		fmt.Sprintf("%d Redis shards without persistence; rounds of %s, %d measured and %d baseline rounds, interleaved; median (min–max)", s.shards, s.round, s.repeats, s.repeats+1),
		"PostgreSQL: fsync, synchronous_commit, full_page_writes and wal_level as installed; " + strings.Join(pgSettings(), ", "),
		"the service's defaults; services are paused while a baseline is measured",
	}
	b := &bench{lab: l, report: r, opts: options{repeats: s.repeats, round: s.round, items: 10_000, buyers: s.buyers, pending: 200_000, shards: s.shards}}
	if s.short {
		b.opts.items, b.opts.pending = 1000, 50_000
		r.Settings = append(r.Settings, "--short: smaller and shorter than the figures of record")
	}
	err = b.run(ctx, chosen)
	if err == nil {
		err = b.audits(ctx)
	}
	if err != nil && len(r.Figures) == 0 {
		return nil, err
	}
	if err != nil { // what was measured until then is told all the same
		r.Interrupted = err.Error()
	}
	r.Seconds = time.Since(say.began).Seconds()
	return r, nil
}

// audits has the program audit every shop in which something was reserved.
func (b *bench) audits(ctx context.Context) error {
	for _, w := range b.lab.worlds {
		if !w.used {
			continue
		}
		b.lab.say.step("audit of %s", w.name)
		w.stopFrom(0)
		checks, err := w.audit(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v := World{Name: w.name, Checks: checks, Clean: err == nil && len(checks) > 0}
		if err != nil {
			v.Error = err.Error()
		}
		for _, c := range checks {
			v.Clean = v.Clean && c.OK
		}
		b.report.Audits = append(b.report.Audits, v)
	}
	return nil
}
