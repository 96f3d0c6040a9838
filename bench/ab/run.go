package ab

import (
	"context"
	"errors"
	"flashsale/audit"
	"flashsale/bench/k6"
	"flashsale/bench/testbed"
	"flashsale/id"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// system is where the two sides run: processes, containers, or addresses that are given.
type system interface {
	// start brings a side up from the beginning, with nothing of the run before but the accounts, and returns where its
	// shop answers and where the echo does, behind the same nginx; "" when there is none.
	start(ctx context.Context, side string) (shopURL, echoURL string, err error)
	// audit waits until nothing is on its way and returns what the audit finds.
	audit(ctx context.Context, side string) ([]audit.Check, error)
	// series is where CPU and memory are kept. Without an address nothing is known of them.
	series() influx
	// operator returns the address and password of somebody who may open sales.
	operator() (email, password string)
	versions(ctx context.Context) ([]string, error)
	notes() []string
	close()
}

// bench is a comparison at work.
type bench struct {
	set    Settings
	sys    system
	sides  []string
	load   *load
	parts  *parts
	say    *testbed.Progress
	report *Report
	users  string // prefix of the accounts of this comparison
	ready  map[string]bool
	work   int // runs of k6, in all
	done   int
}

// Compare measures both sides and returns the report. When it is interrupted, or something fails, the report has what was
// measured until then, and says so. Nothing that it has started is left.
func Compare(ctx context.Context, s Settings, say *testbed.Progress) (report *Report, err error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	root, err := testbed.Checkout()
	if err != nil {
		return nil, err
	}
	dir, err := testbed.Folder(s.Dir, "flashsale-ab-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	b := &bench{set: s, say: say, parts: &parts{}, ready: map[string]bool{}, sides: []string{Sync, Async}, users: "ab-" + id.New(time.Now()).String() + "-"}
	if len(s.Against) == 2 {
		b.sides = []string{First, Second}
	}
	b.report = &Report{Version: format, Began: time.Now().UTC().Truncate(time.Second), Short: s.Short, Systems: b.sides}
	if b.report.Commit, b.report.Modified, err = testbed.CommitOf(ctx, root); err != nil {
		return nil, err
	}
	if b.report.Machine, err = testbed.Describe(dir); err != nil {
		return nil, err
	}
	b.load = &load{dir: filepath.Join(dir, "k6"), parts: b.parts}
	if err := os.Mkdir(b.load.dir, 0o755); err != nil {
		return nil, err
	}
	if err := k6.Write(b.load.dir); err != nil {
		return nil, err
	}
	if b.load.bin, err = findK6(ctx, root, s.K6, say); err != nil {
		return nil, err
	}
	if b.sys, err = b.open(ctx, root, dir); b.sys != nil {
		defer b.sys.close()
	}
	if err != nil {
		return nil, err
	}
	if b.report.Versions, err = b.sys.versions(ctx); err != nil {
		return nil, err
	}
	version, _, err := testbed.Output(ctx, testbed.BaseEnv(), nil, b.load.bin, "version")
	if err != nil {
		return nil, err
	}
	b.report.Versions = append(b.report.Versions, strings.TrimSpace(version))
	b.report.Notes = append(b.sys.notes(), b.describe()...)
	err = b.all(ctx)
	b.report.Seconds = time.Since(say.Began).Seconds()
	if err != nil && len(b.report.Runs) == 0 {
		return nil, err
	}
	if err != nil { // what was measured until then is told all the same
		b.report.Interrupted = err.Error()
	}
	return b.report, nil
}

// open chooses where the sides run.
func (b *bench) open(ctx context.Context, root, dir string) (system, error) {
	if len(b.set.Against) == 2 {
		return newRemote(b.set), nil
	}
	where := b.set.In
	if where == Auto {
		if where = Containers; engineAnswers(ctx) != nil {
			where = Processes
		}
	}
	if where == Containers {
		if err := engineAnswers(ctx); err != nil {
			return nil, fmt.Errorf("there is no Docker with Compose that answers; start it, or use --in processes: %w", err)
		}
		return newContainers(ctx, root, dir, b.parts, b.say)
	}
	if err := testbed.Require(ctx, labNeeds(), b.set.Install, b.say); err != nil {
		return nil, err
	}
	l, err := newLab(ctx, root, dir, b.set, b.parts, b.say)
	return l, err
}

// describe says how it was measured.
func (b *bench) describe() []string {
	s := b.set
	out := []string{
		fmt.Sprintf("%d warm-up runs, and %d measured runs of %s at each load, for each side; the sides take turns", s.Warmups, s.Repeats, s.Duration),
		fmt.Sprintf("the journey: log in, create cart, fetch product, add item, reserve, pay, see the order confirmed; no time to think. Before the doors open the shoppers come, %d a second, and log in; their tokens live for 15 minutes, longer than a run. Logins count for latency and failures, throughput and CPU are those after the doors have opened", s.Logins),
		"a reservation is asked for with Prefer: wait, so that its time is the time to decision in both wirings; a payment that is answered 202 is followed by asking for the order until it is confirmed, and these requests count",
		"the time that counts ends with the last answer; journeys that have begun are finished",
		"winner: the better median, when the runs of the two wirings do not overlap; otherwise a tie",
	}
	if s.Short {
		out = append(out, "--short: a trial, these are not figures of record")
	}
	return out
}

// all goes through the plan. The sides take turns, and who begins changes, so that a drift of the machine meets both.
func (b *bench) all(ctx context.Context) error {
	b.work = len(b.sides) * (b.set.Warmups + len(b.set.Loads)*b.set.Repeats)
	for i := range b.set.Warmups {
		for _, side := range b.order(i) {
			if _, err := b.run(ctx, side, slices.Min(b.set.Loads), b.set.Duration/3, fmt.Sprintf("warm-up %d of %d", i+1, b.set.Warmups)); err != nil {
				return err
			}
		}
	}
	for i := range b.set.Repeats {
		for _, users := range b.set.Loads {
			for _, side := range b.order(i) {
				r, err := b.run(ctx, side, users, b.set.Duration, fmt.Sprintf("run %d of %d", i+1, b.set.Repeats))
				if err != nil {
					return err
				}
				b.report.Runs = append(b.report.Runs, r)
			}
		}
	}
	for _, side := range b.sides {
		if err := b.extras(ctx, side); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) order(i int) []string {
	if i%2 == 0 {
		return b.sides
	}
	return []string{b.sides[1], b.sides[0]}
}

// up starts a side, makes the accounts once, and opens a sale.
func (b *bench) up(ctx context.Context, side string) (*shop, goods, string, error) {
	front, echo, err := b.sys.start(ctx, side)
	if err != nil {
		return nil, goods{}, "", fmt.Errorf("%s: start: %w", side, err)
	}
	email, password := b.sys.operator()
	s := newShop(front, email, password)
	if !b.ready[b.accountsOf(side)] {
		n := slices.Max(b.set.Loads)
		if err := s.register(ctx, b.users, n, b.counting(side, n)); err != nil {
			s.close()
			return nil, goods{}, "", err
		}
		b.ready[b.accountsOf(side)] = true
	}
	g, err := s.open(ctx)
	if err != nil {
		s.close()
	}
	return s, g, echo, err
}

// counting shows how many accounts there are, now and then.
func (b *bench) counting(side string, n int) func(int) {
	shown := time.Time{}
	return func(i int) {
		if time.Since(shown) > b.say.Pace()/4 || i+1 == n {
			shown = time.Now()
			b.say.Step("%-5s  accounts: %d of %d", side, i+1, n)
		}
	}
}

// accountsOf: the two sides of a lab share their accounts.
func (b *bench) accountsOf(side string) string {
	if _, ok := b.sys.(*lab); ok {
		return "lab"
	}
	return side
}

// env is what a script needs to know.
func (b *bench) env(s *shop, g goods, users int, d time.Duration) map[string]string {
	return map[string]string{
		"BASE_URL": s.base, "SALE": g.ID, "SKU": g.SKU, "PRODUCT": g.Product, "PREFIX": b.users, "PASSWORD": shopperPassword,
		"SHOPPERS": strconv.Itoa(slices.Max(b.set.Loads)), "VUS": strconv.Itoa(users), "DURATION": strconv.Itoa(int(d.Seconds())) + "s",
		"LOGINS": strconv.Itoa(b.set.Logins), "LOG": "yes", "RUN": g.SKU,
	}
}

// k6Room is what k6 may take beyond a run: to start, to finish journeys, to sum up.
const k6Room = 90 * time.Second

// run is one run of the journey: start, load, look up, audit.
func (b *bench) run(ctx context.Context, side string, users int, d time.Duration, what string) (Run, error) {
	b.done++
	b.say.Step("%-5s  %d virtual users, %s (%d of %d): starting", side, users, what, b.done, b.work)
	s, g, _, err := b.up(ctx, side)
	if err != nil {
		return Run{}, err
	}
	defer s.close()
	began := time.Now()
	showing, hide := context.WithCancel(ctx)
	go b.show(showing, d+b.early(users), "%-5s  %d virtual users, %s (%d of %d)", side, users, what, b.done, b.work)
	var log string
	r, err := b.measured(ctx, side, func() (summary, error) {
		var sum summary
		var err error
		sum, log, err = b.load.run(ctx, "checkout.js", d+b.early(users)+k6Room, b.env(s, g, users, d))
		return sum, err
	})
	hide()
	if err != nil {
		return Run{}, fmt.Errorf("%s with %d virtual users: %w", side, users, err)
	}
	r.System, r.Users, r.Began = side, users, began.UTC().Truncate(time.Second)
	b.say.Step("%-5s  %d virtual users, %s: looking up %d reservations", side, users, what, r.Stock.Acknowledged)
	if err := b.check(ctx, side, s, g, &r, log); err != nil {
		return Run{}, fmt.Errorf("%s: after the run: %w", side, err)
	}
	b.say.Line("%-5s  %d virtual users, %s: %s requests/s, P95 %s ms, failed %.2f %%, sold %d, oversold %d, stranded %d, lost %d", side, users, what,
		testbed.Number(r.Requests/r.Seconds), testbed.Number(r.All.P95), 100*r.Failed, r.Stock.Sold, r.Stock.Oversold, r.Stock.Stranded, r.Stock.Lost)
	if r.Unexpected > 0 {
		b.say.Line("%-5s  unexpected answers: %.0f, the first:\n%s", side, r.Unexpected, errored(log))
	}
	return r, nil
}

// early is how long the shoppers take to log in before the doors open.
func (b *bench) early(users int) time.Duration {
	return time.Duration(users/b.set.Logins+3) * time.Second
}

// measured runs a load while what everybody uses is written into the series, and reads it from there.
func (b *bench) measured(ctx context.Context, side string, load func() (summary, error)) (Run, error) {
	db := b.sys.series()
	from := time.Now()
	before := b.busy()
	watching, end := context.WithCancel(ctx)
	watched := make(chan error, 1)
	if db.url != "" {
		go func() { watched <- b.parts.watch(watching, db, side) }()
	} else {
		watched <- nil
	}
	sum, err := load()
	end()
	to := time.Now()
	after, took := b.busy(), to.Sub(from)
	if werr := <-watched; err != nil || werr != nil {
		return Run{}, errors.Join(err, werr)
	}
	r := sum.run()
	if db.url == "" {
		return r, nil
	}
	if sum.Early > 0 {
		from = to.Add(-time.Duration(r.Seconds * float64(time.Second)))
	}
	rs, err := db.complete(ctx, side, from, to)
	if err != nil {
		return r, err
	}
	r.Use = uses(rs)
	if len(r.Use) == 0 {
		return r, fmt.Errorf("InfluxDB at %s has no CPU and memory of the run: does the collector write to the bucket %s?", db.url, db.bucket)
	}
	r.Outside = max(0, (after-before).Seconds()/took.Seconds()-cores(r.Use))
	return r, nil
}

// cores adds up the cores of everybody, k6 too.
func cores(use map[string]Use) (all float64) {
	for _, name := range slices.Sorted(maps.Keys(use)) {
		all += use[name].Cores
	}
	return all
}

// busy is the time that the machine's cores worked: without it, what others used is not told.
func (b *bench) busy() time.Duration {
	d, err := testbed.MachineBusy()
	if err != nil {
		return 0
	}
	return d
}

// check looks up what the shoppers were told, and has the books audited.
func (b *bench) check(ctx context.Context, side string, s *shop, g goods, r *Run, log string) error {
	checks, err := b.sys.audit(ctx, side) // waits for what is on its way
	if err != nil {
		return err
	}
	r.Audit = checks
	t, err := readLog(log)
	if err != nil {
		return err
	}
	stock, err := s.settled(ctx, g, r.Stock.Acknowledged, 5*time.Second)
	if err != nil {
		return err
	}
	stock.Acknowledged = r.Stock.Acknowledged
	if stock.Lost, err = s.lost(ctx, t); err != nil {
		return err
	}
	// Nothing that was acknowledged expires within a run, or is declined: the ledger must have all of it. What k6 has
	// counted and its log does not have could not be looked up.
	stock.Lost = max(stock.Lost, stock.Acknowledged-stock.Sold-stock.Held) + max(0, stock.Acknowledged-t.count())
	r.Stock = stock
	return nil
}

// show says how far a run is, once a second.
func (b *bench) show(ctx context.Context, d time.Duration, format string, args ...any) {
	began := time.Now()
	const width = 20
	tick := time.NewTicker(b.say.Pace())
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		share := min(time.Since(began).Seconds()/d.Seconds(), 1)
		full := int(share * width)
		b.say.Step(format+": "+strings.Repeat("█", full)+strings.Repeat("░", width-full)+" %2.0f of %.0f s", append(args, min(time.Since(began), d).Seconds(), d.Seconds())...)
	}
}

// extras are what is measured once for a side: the echo behind its nginx, the ladder of arrival rates, a login storm.
func (b *bench) extras(ctx context.Context, side string) error {
	b.say.Step("%-5s  starting for the echo, the arrival rates and the login storm", side)
	s, g, echo, err := b.up(ctx, side)
	if err != nil {
		return err
	}
	defer s.close()
	if echo != "" {
		if err := b.echo(ctx, side, s, g, echo); err != nil {
			return err
		}
	}
	rate := 0.0
	if len(b.set.Rates) > 0 {
		found, err := b.ladder(ctx, side, s, g)
		if err != nil {
			return err
		}
		b.report.Sustained = append(b.report.Sustained, found)
		rate = found.Rate
		b.say.Line("%-5s  sustained: %s reservations/s, P95 %s ms", side, testbed.Number(found.Rate), testbed.Number(found.P95))
	}
	if !b.set.Storm {
		return nil
	}
	storm, err := b.storm(ctx, side, s, g, max(20, rate/4))
	if err != nil {
		return err
	}
	b.report.Storms = append(b.report.Storms, storm)
	b.say.Line("%-5s  login storm: P95 of reserve %s ms, without it %s ms; %s logins/s", side, testbed.Number(storm.Stormed.P95), testbed.Number(storm.Quiet.P95), testbed.Number(storm.Logins))
	return nil
}

func (b *bench) echo(ctx context.Context, side string, s *shop, g goods, base string) error {
	d := max(b.set.Duration/4, 2*time.Second)
	for _, users := range b.set.Loads {
		b.say.Step("%-5s  echo, %d virtual users, %s", side, users, d)
		env := b.env(s, g, users, d)
		env["BASE_URL"] = base
		began := time.Now()
		r, err := b.measured(ctx, side, func() (summary, error) {
			sum, _, err := b.load.run(ctx, "echo.js", d+k6Room, env)
			return sum, err
		})
		if err != nil {
			return err
		}
		r.System, r.Users, r.Began = side, users, began.UTC().Truncate(time.Second)
		b.report.Echo = append(b.report.Echo, r)
		b.say.Line("%-5s  echo, %d virtual users: %s requests/s, P95 %s ms", side, users, testbed.Number(r.Requests/r.Seconds), testbed.Number(r.All.P95))
	}
	return nil
}

func (b *bench) ladder(ctx context.Context, side string, s *shop, g goods) (Sustained, error) {
	var text []string
	for _, r := range b.set.Rates {
		text = append(text, strconv.FormatFloat(r, 'f', 0, 64))
	}
	b.say.Step("%-5s  arrival rates: %s a second, %s each", side, strings.Join(text, ", "), b.set.RateFor)
	env := b.env(s, g, 1, b.set.RateFor)
	env["RATES"], env["RUN"] = strings.Join(text, ","), "ladder-"+g.SKU
	sum, _, err := b.load.run(ctx, "spike.js", time.Duration(len(text))*(b.set.RateFor+3*time.Second)+k6Room, env)
	if err != nil {
		return Sustained{}, err
	}
	return sustained(side, sum.ladder(b.set.Rates)), nil
}

// storm sends reservations at a rate, first alone and then while everybody logs in at once.
func (b *bench) storm(ctx context.Context, side string, s *shop, g goods, rate float64) (Storm, error) {
	d := max(b.set.Duration/6, 4*lookEvery) // shorter, and nobody's CPU would be read twice
	out := Storm{System: side, Rate: rate}
	for _, logins := range []bool{false, true} {
		b.say.Step("%-5s  %s reservations/s, login storm: %t", side, testbed.Number(rate), logins)
		env := b.env(s, g, 1, d)
		env["RATE"], env["RUN"], env["STORM"] = strconv.FormatFloat(rate, 'f', 0, 64), fmt.Sprintf("storm-%t-%s", logins, g.SKU), "0"
		if logins {
			env["STORM"] = strconv.Itoa(slices.Min(b.set.Loads))
		}
		var sum summary
		r, err := b.measured(ctx, side, func() (summary, error) {
			var err error
			sum, _, err = b.load.run(ctx, "storm.js", d+k6Room, env)
			return sum, err
		})
		if err != nil {
			return out, err
		}
		if !logins {
			out.Quiet = r.Steps["reserve"]
			continue
		}
		out.Stormed, out.Logins, out.Busy = r.Steps["reserve"], sum.value("logged_in", "count")/r.Seconds, sum.value("told_busy", "count")
		if n := sum.value("logged_in", "count"); n > 0 {
			out.HashCost = 1000 * r.Use["account"].Cores * r.Seconds / n
		}
	}
	return out, nil
}
