package lab

import (
	"context"
	"errors"
	"flag"
	"flashsale/bench/testbed"
	"fmt"
	"os"
	"strings"
	"time"
)

// Settings are what every benchmark's command line says.
type Settings struct {
	Short, json, strict, install bool
	dir                          string
	Repeats                      int
	Round                        time.Duration
}

// Flags adds the settings to a command line.
func (s *Settings) Flags(fl *flag.FlagSet) {
	fl.BoolVar(&s.Short, "short", false, "shorter rounds, fewer and smaller")
	fl.BoolVar(&s.json, "json", false, "write the report as JSON")
	fl.BoolVar(&s.strict, "strict", false, "end with status 1 when a target is missed")
	fl.BoolVar(&s.install, "install", true, "install missing servers with apt-get (root on Debian)")
	fl.StringVar(&s.dir, "dir", "", "where the temporary folder is made (a real disk)")
	fl.IntVar(&s.Repeats, "repeats", 3, "measured rounds of each figure, 3 to 20")
	fl.DurationVar(&s.Round, "round", 0, "how long a round takes, 1s to 60s (default 4s, or 1s with --short)")
}

// Parse reads a command line that has the settings among its flags, and fills in what it leaves open.
func (s *Settings) Parse(fl *flag.FlagSet, args []string) error {
	if err := fl.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fl.SetOutput(os.Stderr)
			fl.Usage()
			return err
		}
		return fmt.Errorf("%w; --help lists the settings", err)
	}
	if s.Round == 0 {
		s.Round = 4 * time.Second
		if s.Short {
			s.Round = time.Second
		}
	}
	switch {
	case fl.NArg() > 0:
		return fmt.Errorf("%q is no setting; --help lists them", fl.Arg(0))
	case s.Repeats < 3 || s.Repeats > 20:
		return fmt.Errorf("--repeats is %d; use 3 to 20", s.Repeats)
	case s.Round < time.Second || s.Round > time.Minute || s.Round%time.Second != 0: // wrk and pgbench count whole seconds
		return fmt.Errorf("--round is %s; use whole seconds, 1s to 60s", s.Round)
	}
	return nil
}

// Measure starts the servers of a plan in a temporary folder, has the figures taken, audits every shop
// that was used, and stops and removes everything. take returns the settings that are told beside the
// figures.
func (s *Settings) Measure(ctx context.Context, plan Plan, say *testbed.Progress, take func(context.Context, *Lab, *Report) error) (*Report, error) {
	root, err := testbed.Checkout()
	if err != nil {
		return nil, err
	}
	if err := testbed.Require(ctx, plan.needs(), s.install, say); err != nil {
		return nil, err
	}
	dir, err := testbed.Folder(s.dir, "flashsale-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	r := &Report{Short: s.Short}
	if r.Commit, r.Modified, err = testbed.CommitOf(ctx, root); err != nil {
		return nil, err
	}
	if r.Machine, err = testbed.Describe(dir); err != nil {
		return nil, err
	}
	l, err := newLab(ctx, root, dir, plan, say)
	defer l.close()
	if err != nil {
		return nil, err
	}
	r.Versions = l.versions
	r.Settings = []string{
		fmt.Sprintf("%d Redis shards without persistence; rounds of %s, %d measured and %d baseline rounds, interleaved; median (min–max)", plan.Shards, s.Round, s.Repeats, s.Repeats+1),
		"PostgreSQL: fsync, synchronous_commit, full_page_writes and wal_level as installed; " + strings.Join(testbed.PostgresSettings(), ", "),
		"the service's defaults; services are paused while a baseline is measured",
	}
	if s.Short {
		r.Settings = append(r.Settings, "--short: smaller and shorter than the figures of record")
	}
	err = take(ctx, l, r)
	if err == nil {
		err = l.audits(ctx, r)
	}
	if err != nil && len(r.Figures) == 0 {
		return nil, err
	}
	if err != nil { // what was measured until then is told all the same
		r.Interrupted = err.Error()
	}
	r.Seconds = time.Since(say.Began).Seconds()
	return r, nil
}

// Conclude writes a report, and returns an error when it is not sound, or not as strict asks.
func (s *Settings) Conclude(report *Report) error {
	var err error
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

// audits has the program audit every shop in which something was reserved.
func (l *Lab) audits(ctx context.Context, r *Report) error {
	for _, w := range l.worlds {
		if !w.Used {
			continue
		}
		l.Say.Step("audit of %s", w.Name)
		w.StopFrom(0)
		checks, err := w.audit(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v := Audited{Name: w.Name, Checks: checks, Clean: err == nil && len(checks) > 0}
		if err != nil {
			v.Error = err.Error()
		}
		for _, c := range checks {
			v.Clean = v.Clean && c.OK
		}
		r.Audits = append(r.Audits, v)
	}
	return nil
}
