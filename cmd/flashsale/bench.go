package main

import (
	"errors"
	"flashsale/bench/ab"
	"flashsale/bench/testbed"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

func benchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Compare the synchronous and the asynchronous wiring on this machine",
		Example: `  flashsale bench ab                              the run of record: some 25 minutes
  flashsale bench ab --short                      does everything work? about four minutes
  flashsale bench compare before.json after.json  what has changed?`,
	}
	cmd.AddCommand(benchABCommand(), benchCompareCommand())
	return cmd
}

func benchABCommand() *cobra.Command {
	s := ab.Defaults()
	var short, asJSON bool
	ladder := true
	cmd := &cobra.Command{
		Use:   "ab [--against URL URL]",
		Short: "Drive the checkout journey through both wirings and write one report",
		Long: `Brings up each wiring (nginx, two instances of every service, PostgreSQL, Redis shards, RabbitMQ, InfluxDB), sends
the checkout journey through nginx with k6, and writes one report as Markdown, JSON and HTML. For each wiring and load:
latency, throughput, failures, CPU and memory of every service, durable reservations a second, time to decision, and what
became of every unit, by an audit and by the shoppers' own log. In the same run: an echo behind the same nginx, the
highest arrival rate of reservations that holds, and a login storm.

Run it in the checkout, on a machine that does nothing else. Where Docker answers, the two compose files are brought up,
under project names and on ports of their own; otherwise the same topology runs as processes, and missing servers are
installed (root on Debian). k6 and InfluxDB are built the first time. It ends with status 1 when something was oversold, stranded or lost, when an answer was
unexpected, or when figures are missing. Ctrl-C stops every process, and writes what was measured until then.`,
		Example: `  flashsale bench ab
  flashsale bench ab --short --out /tmp/trial
  flashsale bench ab --in processes               although there is Docker
  flashsale bench ab --loads 100,1000 --duration 30s --repeats 5
  OPERATOR_PASSWORD=… flashsale bench ab --against http://127.0.0.1:8080 http://127.0.0.1:8081
  flashsale bench ab --json | jq '.runs[].stock'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && len(s.Against) == 0 {
				return fmt.Errorf("%q is no setting; --help lists them", args[0])
			}
			s.Against = append(s.Against, args...) // --against A B, as well as A,B
			if short {
				trial := s
				trial.Shorten()
				for name, keep := range map[string]func(){
					"duration": func() { trial.Duration = s.Duration }, "loads": func() { trial.Loads = s.Loads }, "repeats": func() { trial.Repeats = s.Repeats },
					"warmups": func() { trial.Warmups = s.Warmups }, "rates": func() { trial.Rates = s.Rates }, "rate-for": func() { trial.RateFor = s.RateFor },
				} {
					if cmd.Flags().Changed(name) {
						keep()
					}
				}
				s = trial
			}
			if !ladder {
				s.Rates = nil
			}
			s.Password = os.Getenv("OPERATOR_PASSWORD")
			say := testbed.NewProgress(os.Stderr)
			defer say.End()
			report, err := ab.Compare(cmd.Context(), s, say)
			if err != nil {
				return err
			}
			say.End()
			paths, err := report.WriteFiles(s.Out)
			if err != nil {
				return err
			}
			if asJSON {
				err = report.WriteJSON(cmd.OutOrStdout())
			} else {
				err = report.Markdown(cmd.OutOrStdout())
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "written: %s\n", strings.Join(paths, ", "))
			if err != nil {
				return err
			}
			if wrong := report.Sound(); len(wrong) > 0 {
				return errors.New(strings.Join(wrong, "\n"))
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&short, "short", false, "a trial: shorter runs, fewer virtual users; the flags below still count")
	f.DurationVar(&s.Duration, "duration", s.Duration, "how long a measured run takes; a warm-up takes a third")
	f.IntSliceVar(&s.Loads, "loads", s.Loads, "numbers of virtual users")
	f.IntVar(&s.Repeats, "repeats", s.Repeats, "measured runs of each wiring at each load")
	f.IntVar(&s.Warmups, "warmups", s.Warmups, "runs before them, at the lowest load")
	f.BoolVar(&ladder, "ladder", ladder, "find the highest arrival rate of reservations that holds")
	f.Float64SliceVar(&s.Rates, "rates", s.Rates, "arrival rates of reservations to try, a second, ascending")
	f.DurationVar(&s.RateFor, "rate-for", s.RateFor, "how long each of them is tried")
	f.BoolVar(&s.Storm, "storm", s.Storm, "measure what a login storm does to the sale")
	f.IntVar(&s.Logins, "logins", s.Logins, "shoppers that come, and log in, in a second of a run")
	f.StringVar(&s.In, "in", s.In, "where the two wirings run: containers (the compose files), processes (the same topology), or auto: containers where Docker answers")
	f.StringSliceVar(&s.Against, "against", nil, "compare two systems that run already, called A and B; nothing is started but k6: URL URL")
	f.StringVar(&s.Operator, "operator-email", s.Operator, "with --against: who opens the sales; the password is OPERATOR_PASSWORD")
	f.StringVar(&s.K6, "k6", "", "k6 1.x to use, instead of building the tools module's")
	f.StringVar(&s.Influxd, "influxd", "", "InfluxDB 1.8 to use, instead of building it")
	f.BoolVar(&s.Install, "install", s.Install, "install missing servers with apt-get (root on Debian)")
	f.StringVar(&s.Dir, "dir", "", "where the temporary folder is made: a real disk")
	f.StringVar(&s.Out, "out", s.Out, "folder of the report")
	f.BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}

func benchCompareCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "compare A.json B.json",
		Short: "Show what has changed from one report to another",
		Example: `  flashsale bench compare bench/results/ab.json /tmp/trial/ab.json
  git show HEAD~5:bench/results/ab.json > old.json && flashsale bench compare old.json bench/results/ab.json`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var reports [2]*ab.Report
			for i, path := range args {
				f, err := os.Open(path)
				if err != nil {
					return err
				}
				reports[i], err = ab.Read(f)
				_ = f.Close()
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
			}
			return compareReports(cmd.OutOrStdout(), reports, args)
		},
	}
}

// compareReports names the columns by the files, or by their folders too when the files have one name.
func compareReports(out io.Writer, r [2]*ab.Report, paths []string) error {
	a, b := filepath.Base(paths[0]), filepath.Base(paths[1])
	if a == b {
		a, b = paths[0], paths[1]
	}
	return ab.Comparison(out, r[0], r[1], a, b)
}
