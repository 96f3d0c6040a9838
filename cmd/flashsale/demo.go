package main

import (
	"context"
	"encoding/json"
	"flashsale/audit"
	"flashsale/bench/journey"
	"flashsale/id"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// demoFlags are what a person can set about the demo.
type demoFlags struct {
	mode        string
	stock       int64
	shoppers    int
	units       int
	limit       int
	failures    float64
	timeouts    float64
	abandon     float64
	hold        time.Duration
	concurrency int
	seed        uint64
	data        string
	json        bool
}

func demoCommand() *cobra.Command {
	f := demoFlags{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a whole sale in this process, in both wirings; nothing to install",
		Long: `Starts every service in this process on the embedded default, opens a sample sale, and sends a crowd
of shoppers over HTTP on loopback through the whole journey: register, log in, fill a cart, reserve, pay,
see the order confirmed. Then it audits the books. It ends with status 1 if anything is oversold, lost or
does not balance.`,
		Example: `  flashsale demo
  flashsale demo --mode=async --stock 500 --shoppers 5000
  flashsale demo --units 2 --payment-failure-rate 0.3 --hold 2s
  flashsale demo --json | jq .sync.result.orders_confirmed`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.mode, "mode", "both", "wiring: sync, async or both, one after the other")
	fl.Int64Var(&f.stock, "stock", 200, "units on sale")
	fl.IntVar(&f.shoppers, "shoppers", 1000, "shoppers who want them")
	fl.IntVar(&f.units, "units", 1, "units per order")
	fl.IntVar(&f.limit, "limit", 0, "units per shopper (0: as many as one order has)")
	fl.Float64Var(&f.failures, "payment-failure-rate", 0.05, "share of payments that are declined")
	fl.Float64Var(&f.timeouts, "payment-timeout-rate", 0.01, "share of payments that the provider does not answer; half of them are charged")
	fl.Float64Var(&f.abandon, "abandon-rate", 0.05, "share of winners who walk away without paying")
	fl.DurationVar(&f.hold, "hold", 3*time.Second, "how long units are held for a shopper who has not paid")
	fl.IntVar(&f.concurrency, "concurrency", 64, "shoppers at the same time")
	fl.Uint64Var(&f.seed, "seed", 1, "of the crowd's whims")
	fl.StringVar(&f.data, "data", "", "keep the data in this folder (default: a temporary one, removed at the end)")
	fl.BoolVar(&f.json, "json", false, "print the result as JSON")
	return cmd
}

func (f demoFlags) validate() error {
	switch {
	case f.mode != "both" && f.mode != string(Sync) && f.mode != string(Async):
		return fmt.Errorf("--mode is %q; use sync, async or both", f.mode)
	case f.stock < 1 || f.stock > 10_000_000:
		return fmt.Errorf("--stock is %d; use 1 to 10000000", f.stock)
	case f.shoppers < 1 || f.shoppers > 1_000_000:
		return fmt.Errorf("--shoppers is %d; use 1 to 1000000", f.shoppers)
	case f.units < 1 || f.units > 1000:
		return fmt.Errorf("--units is %d; use 1 to 1000", f.units)
	case f.limit < 0 || f.limit > 1000 || f.limit > 0 && f.limit < f.units:
		return fmt.Errorf("--limit is %d; use 0, or %d to 1000", f.limit, f.units)
	case f.concurrency < 1 || f.concurrency > 2000:
		return fmt.Errorf("--concurrency is %d; use 1 to 2000", f.concurrency)
	case f.hold < time.Second || f.hold > 24*time.Hour || f.hold%time.Second != 0:
		return fmt.Errorf("--hold is %s; use whole seconds, 1s to 24h", f.hold)
	}
	for name, rate := range map[string]float64{"payment-failure-rate": f.failures, "payment-timeout-rate": f.timeouts, "abandon-rate": f.abandon} {
		if math.IsNaN(rate) || rate < 0 || rate > 1 {
			return fmt.Errorf("--%s is %v; use 0 to 1", name, rate)
		}
	}
	if f.failures+f.timeouts > 1 {
		return fmt.Errorf("--payment-failure-rate and --payment-timeout-rate add up to %v; use at most 1", f.failures+f.timeouts)
	}
	return nil
}

// demoResult is the outcome in one wiring.
type demoResult struct {
	Mode      Mode           `json:"mode"`
	Result    journey.Result `json:"result"`
	Stock     int64          `json:"stock"`
	Sold      int64          `json:"sold"`      // units, by the ledger
	Available int64          `json:"available"` // units that can still be bought, by the gate
	Oversold  int64          `json:"oversold"`
	Stranded  int64          `json:"stranded"`
	Checks    []audit.Check  `json:"audit"`
}

func (r demoResult) clean() bool {
	return audit.Clean(r.Checks) && r.Oversold == 0 && r.Stranded == 0 && r.Result.Lost == 0 && r.Result.Undecided == 0 && r.Result.Unexpected == 0
}

func (f demoFlags) run(ctx context.Context, out, progress io.Writer) error {
	if err := f.validate(); err != nil {
		return err
	}
	folder := f.data
	if folder == "" {
		tmp, err := os.MkdirTemp("", "flashsale-demo-")
		if err != nil {
			return fmt.Errorf("temporary folder: %w", err)
		}
		defer func() { _ = os.RemoveAll(tmp) }()
		folder = tmp
	}
	modes := []Mode{Sync, Async}
	if f.mode != "both" {
		modes = []Mode{Mode(f.mode)}
	}
	fmt.Fprintf(progress, "%d shoppers want %d of %d units each: register, log in, cart, product, reserve, pay, confirm\n", f.shoppers, f.units, f.stock)
	results := map[Mode]demoResult{}
	for _, mode := range modes {
		r, err := f.one(ctx, mode, filepath.Join(folder, string(mode)), progress)
		if err != nil {
			return fmt.Errorf("%s: %w", mode, err)
		}
		results[mode] = r
	}
	if f.json {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(results); err != nil {
			return err
		}
	} else {
		f.print(out, modes, results)
	}
	for _, r := range results {
		if !r.clean() {
			return errFailed
		}
	}
	return nil
}

func (f demoFlags) one(ctx context.Context, mode Mode, data string, progress io.Writer) (demoResult, error) {
	cfg := defaults()
	cfg.Mode, cfg.Data, cfg.Listen = mode, data, "127.0.0.1:0"
	cfg.PasswordMemory, cfg.PasswordSlots = 64, 4 // a demo of the sale, not of the password hash
	cfg.OperatorPassword = "demo operator password"
	cfg.PaymentDeclineRate = f.failures
	cfg.PaymentTimeoutRate, cfg.PaymentLostReplyRate = f.timeouts/2, f.timeouts/2
	cfg.PaymentPatience, cfg.ProbeAfter = 500*time.Millisecond, time.Second
	cfg.PaymentLatency = 10 * time.Millisecond
	cfg.LogLevel, cfg.DrainNotice = "error", 0
	if err := cfg.validate(); err != nil {
		return demoResult{}, err
	}
	a, err := start(ctx, cfg, slog.New(slog.NewTextHandler(progress, &slog.HandlerOptions{Level: slog.LevelError})))
	if err != nil {
		return demoResult{}, err
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		MaxIdleConns: f.concurrency + 8, MaxIdleConnsPerHost: f.concurrency + 8, MaxConnsPerHost: f.concurrency + 8,
	}}
	stopped := false
	stop := func() error {
		if stopped {
			return nil
		}
		stopped = true
		client.CloseIdleConnections() // the server waits for open connections
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.DrainFor)
		defer cancel()
		return a.stop(end)
	}
	defer func() { _ = stop() }()

	crowd := journey.Crowd{
		Base: a.url(), Operator: cfg.OperatorEmail, Password: cfg.OperatorPassword, Shoppers: f.shoppers, Stock: f.stock,
		Units: f.units, Limit: f.limit, Hold: f.hold, AbandonRate: f.abandon, Concurrency: f.concurrency, Seed: f.seed,
		Client: client,
		Decide: 30 * time.Second, GiveUpOnHeld: 2*f.hold + 10*time.Second,
	}
	sale, err := journey.OpenSale(ctx, crowd)
	if err != nil {
		return demoResult{}, err
	}
	run := journey.New(crowd, sale)
	watched := make(chan struct{})
	watching, endWatch := context.WithCancel(ctx)
	go func() {
		defer close(watched)
		watch(watching, progress, mode, run)
	}()
	res := run.Do(ctx)
	endWatch()
	<-watched
	if err := ctx.Err(); err != nil {
		return demoResult{}, fmt.Errorf("interrupted after %d of %d journeys", res.Journeys, f.shoppers)
	}
	return f.settle(ctx, a, run, sale, res, mode)
}

// settle lets the last holds run out and the last steps arrive, and then audits.
func (f demoFlags) settle(ctx context.Context, a *app, run *journey.Run, sale journey.Sale, res journey.Result, mode Mode) (demoResult, error) {
	bound, cancel := context.WithTimeout(ctx, f.hold+20*time.Second)
	defer cancel()
	sid, err := id.Parse(sale.ID)
	if err != nil {
		return demoResult{}, err
	}
	book, err := a.audit.SettleSale(bound, a.saleReader(), sid)
	if err != nil {
		return demoResult{}, err
	}
	if res.Lost, err = run.Verify(ctx); err != nil {
		return demoResult{}, err
	}
	checks, err := a.audit.Run(ctx)
	if err != nil {
		return demoResult{}, err
	}
	r := demoResult{Mode: mode, Result: res, Stock: f.stock, Sold: book.Sold, Available: book.Available, Checks: checks}
	r.Oversold = max(0, book.Sold+book.Held-f.stock)
	r.Stranded = f.stock - book.Sold - book.Held - book.Available
	r.Checks = append(r.Checks,
		audit.Check{
			Equation: 10, Name: "every acknowledged reservation exists with its quantity",
			Figures: fmt.Sprintf("acknowledged %d, lost %d, undecided %d", res.Acknowledged, res.Lost, res.Undecided), OK: res.Lost == 0 && res.Undecided == 0,
		},
		audit.Check{
			Equation: 11, Name: "what is not sold can still be bought",
			Figures: fmt.Sprintf("stock %d = sold %d + held %d + available %d, stranded %d", f.stock, book.Sold, book.Held, book.Available, r.Stranded),
			OK:      r.Stranded == 0 && r.Oversold == 0 && book.Sold == int64(res.SoldUnits),
		})
	return r, nil
}

// watch shows the crowd's progress: a line that changes on a terminal, a line now and then elsewhere.
func watch(ctx context.Context, w io.Writer, mode Mode, run *journey.Run) {
	file, isFile := w.(*os.File)
	live := false
	if isFile {
		if st, err := file.Stat(); err == nil {
			live = st.Mode()&os.ModeCharDevice != 0
		}
	}
	interval := 5 * time.Second
	if live {
		interval = 100 * time.Millisecond
	}
	began := time.Now()
	show := func(end string) {
		p := run.Progress()
		const width = 24
		full := width * p.Done / max(p.Of, 1)
		fmt.Fprintf(w, "%-5s %s%s %3d%%  %5.1fs  done %d  sold %d  sold out %d  declined %d  abandoned %d%s", mode,
			strings.Repeat("█", full), strings.Repeat("░", width-full), 100*p.Done/max(p.Of, 1), time.Since(began).Seconds(),
			p.Done, p.Sold, p.SoldOut, p.Declined, p.Abandoned, end)
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if live {
				fmt.Fprint(w, "\r")
			}
			show("\n")
			return
		case <-tick.C:
			if live {
				fmt.Fprint(w, "\r")
				show("  ")
			} else {
				show("\n")
			}
		}
	}
}

func (f demoFlags) print(out io.Writer, modes []Mode, results map[Mode]demoResult) {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	row := func(name string, cell func(demoResult) string) {
		fmt.Fprintf(w, "%s\t", name)
		for _, m := range modes {
			fmt.Fprintf(w, "%s\t", cell(results[m]))
		}
		fmt.Fprintln(w)
	}
	number := func(get func(demoResult) int64) func(demoResult) string {
		return func(r demoResult) string { return fmt.Sprint(get(r)) }
	}
	fmt.Fprintln(out)
	row("", func(r demoResult) string { return string(r.Mode) })
	row("journeys", number(func(r demoResult) int64 { return int64(r.Result.Journeys) }))
	row("orders confirmed", number(func(r demoResult) int64 { return int64(r.Result.Sold) }))
	row("told sold out", number(func(r demoResult) int64 { return int64(r.Result.SoldOut) }))
	row("told held out, in all", number(func(r demoResult) int64 { return int64(r.Result.Waits) }))
	row("gave up held out", number(func(r demoResult) int64 { return int64(r.Result.HeldOut) }))
	row("payments declined", number(func(r demoResult) int64 { return int64(r.Result.Declined) }))
	row("walked away", number(func(r demoResult) int64 { return int64(r.Result.Abandoned) }))
	row("paid too late", number(func(r demoResult) int64 { return int64(r.Result.Expired) }))
	row("unexpected answers", number(func(r demoResult) int64 { return int64(r.Result.Unexpected) }))
	row("stock", number(func(r demoResult) int64 { return r.Stock }))
	row("sold", number(func(r demoResult) int64 { return r.Sold }))
	row("oversold", number(func(r demoResult) int64 { return r.Oversold }))
	row("stranded", number(func(r demoResult) int64 { return r.Stranded }))
	row("lost", number(func(r demoResult) int64 { return int64(r.Result.Lost) }))
	row("took", func(r demoResult) string { return r.Result.Took.Round(10 * time.Millisecond).String() })
	row("requests/s", func(r demoResult) string {
		return fmt.Sprintf("%.0f", float64(r.Result.Requests)/r.Result.Took.Seconds())
	})
	for _, step := range steps(modes, results) {
		row(step+", p50 / p95 / p99 ms", func(r demoResult) string {
			s, ok := r.Result.Steps[step]
			if !ok {
				return "–"
			}
			return fmt.Sprintf("%.1f / %.1f / %.1f", ms(s.P50), ms(s.P95), ms(s.P99))
		})
	}
	_ = w.Flush()
	for _, m := range modes {
		r := results[m]
		fmt.Fprintf(out, "\naudit, %s\n", m)
		printChecks(out, r.Checks)
		for _, e := range r.Result.Errors {
			fmt.Fprintf(out, "  ! %s\n", e)
		}
		verdict := "clean"
		if !r.clean() {
			verdict = "NOT CLEAN"
		}
		fmt.Fprintf(out, "%s: oversold %d, stranded %d, lost %d, audit %s\n", m, r.Oversold, r.Stranded, r.Result.Lost, verdict)
	}
}

// printChecks writes an audit, line by line.
func printChecks(out io.Writer, checks []audit.Check) {
	for _, c := range checks {
		verdict := "ok  "
		if !c.OK {
			verdict = "FAIL"
		}
		fmt.Fprintf(out, "  %s %2d. %s\n            %s\n", verdict, c.Equation, c.Name, c.Figures)
	}
}

// steps lists the steps of the journey in their order.
func steps(modes []Mode, results map[Mode]demoResult) []string {
	order := []string{
		"register", "login", "create cart", "fetch product", "add item", "reserve", "poll reservation", "time to decision",
		"pay", "poll order", "time to confirmation",
	}
	return slices.DeleteFunc(order, func(step string) bool {
		for _, m := range modes {
			if _, ok := results[m].Result.Steps[step]; ok {
				return false
			}
		}
		return true
	})
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
