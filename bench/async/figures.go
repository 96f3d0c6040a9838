package main

import (
	"context"
	"errors"
	"flashsale/bench/lab"
	"flashsale/bench/testbed"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// bench is one run of the benchmark.
type bench struct {
	lab      *lab.Lab
	report   *lab.Report
	settings lab.Settings
	sync     *shop
	async    *shop
	best     float64 // reservations a second of the slower wiring
}

// shop is a world with its orders in sight.
type shop struct {
	*lab.World
	orders *pgxpool.Pool
	status int // of an acknowledgement
}

func (b *bench) run(ctx context.Context, chosen []group) error {
	defer func() {
		for _, s := range []*shop{b.sync, b.async} {
			if s != nil && s.orders != nil {
				s.orders.Close()
			}
		}
	}()
	for _, g := range chosen {
		figures, err := g.measure(b, ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // what cannot be measured is said, not left out
			figures = append(figures, lab.Figure{Name: g.name, Error: err.Error()})
			b.lab.Say.Line("%s: %v", g.name, err)
		}
		for _, f := range figures {
			f.Group = g.name
			f.Judge()
			b.report.Figures = append(b.report.Figures, f)
		}
	}
	for _, s := range []*shop{b.sync, b.async} {
		if s != nil {
			if err := s.Resume(); err != nil {
				return err
			}
		}
	}
	return nil
}

// open starts both wirings, each with databases of its own on the same servers, and leaves them paused.
func (b *bench) open(ctx context.Context) error {
	if b.async != nil {
		return nil
	}
	for _, w := range []struct {
		name   string
		into   **shop
		more   []string
		status int
	}{
		{"sync", &b.sync, nil, http.StatusCreated},
		{"async", &b.async, []string{"FLASHSALE_MODE=async", "AMQP_URL=" + b.lab.Rabbit.URL()}, http.StatusAccepted},
	} {
		b.lab.Say.Step("starting the %s wiring", w.name)
		world, err := b.lab.NewWorld(ctx, w.name, []int{0, 1})
		if err != nil {
			return err
		}
		world.More = w.more
		s := &shop{World: world, status: w.status}
		if s.orders, err = pgxpool.New(ctx, b.lab.Postgres.URL(w.name+"_orders")); err != nil {
			return err
		}
		if _, err := world.Start(ctx, 0); err != nil {
			return err
		}
		*w.into = s
		b.lab.Say.Step("warming the %s wiring up", w.name)
		if _, err := b.crowd(ctx, s, time.Second); err != nil {
			return err
		}
		if err := world.Pause(); err != nil {
			return err
		}
	}
	return nil
}

// round is a round of one wiring, and what came after the load.
type round struct {
	lab.Measured
	p95     float64 // of the acknowledgement, ms
	drained float64 // s from the end of the load to the last decision
	ordered float64 // s from the last decision to the last order
}

// finish is how long the last decision may come after the load.
const finish = 90 * time.Second

// crowd loads a wiring by wrk until everybody who was told "reserved" or "accepted" is decided and has an
// order. The rate is decisions over the time from the first request to the last decision.
func (b *bench) crowd(ctx context.Context, s *shop, d time.Duration) (round, error) {
	g, before, err := s.begin(ctx)
	if err != nil {
		return round{}, err
	}
	parts := b.lab.Parts(s.World)
	used, err := lab.Read(parts)
	if err != nil {
		return round{}, err
	}
	began := time.Now()
	m, err := b.lab.Wrk(ctx, s.World, s.Instances[0].Port, g.Bodies(), d)
	if err == nil && m.Good == 0 {
		err = fmt.Errorf("no request was acknowledged; %d were refused, %d failed", m.Refused, m.Failed)
	}
	if err != nil {
		return round{}, err
	}
	r := round{Measured: m, p95: float64(m.P95) / float64(time.Millisecond)}
	wrk := m.Used["wrk"]
	if err := b.settle(ctx, s, &r, g, before, began); err != nil {
		return r, err
	}
	after, err := lab.Read(parts)
	r.Used = after.Since(used)
	r.Used["wrk"] = wrk
	return r, err
}

// begin opens a sale that all shoppers are new to.
func (s *shop) begin(ctx context.Context) (lab.Goods, lab.Balance, error) {
	s.Used = true
	g, err := s.Sale(ctx, lab.MaxStock)
	if err != nil {
		return g, lab.Balance{}, err
	}
	before, err := s.Settled(ctx, g)
	return g, before, err
}

// settle waits for the decisions and orders of everything that was acknowledged, and fills in the round.
func (b *bench) settle(ctx context.Context, s *shop, r *round, g lab.Goods, before lab.Balance, began time.Time) error {
	loaded := time.Since(began)
	var after lab.Balance
	decided, err := wait(ctx, began, func() (bool, error) {
		var err error
		after, err = s.Balance(ctx, g)
		return after.Held+after.Sold-before.Held-before.Sold >= r.Good && after.Pending == 0, err
	})
	if err != nil {
		return err
	}
	if after, err = s.Settled(ctx, g); err != nil {
		return err
	}
	r.Stock = lab.StockOf(r.Good, before, after)
	var orders int64
	ordered, err := wait(ctx, began, func() (bool, error) {
		err := s.orders.QueryRow(ctx, `SELECT count(*) FROM orders WHERE sale = $1`, g.Sale()).Scan(&orders)
		return orders >= r.Stock.Reserved, err
	})
	if err == nil && orders != r.Stock.Reserved {
		err = fmt.Errorf("%d orders of %d reservations", orders, r.Stock.Reserved)
	}
	r.drained, r.ordered = (decided - loaded).Seconds(), (ordered - decided).Seconds()
	r.Took, r.Rate = decided, float64(r.Stock.Reserved)/decided.Seconds()
	return err
}

// wait polls until something is so, and returns when it was, since began. What is never so is told by
// the books.
func wait(ctx context.Context, began time.Time, so func() (bool, error)) (time.Duration, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(finish); ; {
		ok, err := so()
		if ok || err != nil || time.Now().After(deadline) {
			return time.Since(began), err
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
	}
}

// alone resumes one wiring for a round.
func (b *bench) alone(s *shop, measure func() (round, error)) (r round, err error) {
	if err := s.Resume(); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.Pause()) }()
	return measure()
}

// pair takes rounds of the synchronous and the asynchronous wiring in turn.
func (b *bench) pair(ctx context.Context, what string, measure func(context.Context, *shop) (round, error)) (bases, ms []round, err error) {
	one := func(s *shop, into *[]round) func(context.Context) (lab.Measured, error) {
		return func(ctx context.Context) (lab.Measured, error) {
			r, err := b.alone(s, func() (round, error) { return measure(ctx, s) })
			*into = append(*into, r)
			return r.Measured, err
		}
	}
	_, _, err = b.lab.Interleave(ctx, b.settings.Repeats, what, one(b.sync, &bases), one(b.async, &ms))
	return bases, ms, err
}

func plain(rs []round) []lab.Measured {
	out := make([]lab.Measured, len(rs))
	for i, r := range rs {
		out[i] = r.Measured
	}
	return out
}

func medians(rs []round, f func(round) float64) float64 {
	v := make([]float64, len(rs))
	for i, r := range rs {
		v[i] = f(r)
	}
	return lab.Median(v)
}

// latencies makes the figure of the acknowledgement's p95 out of rounds.
func latencies(name, against string, bases, ms []round) lab.Figure {
	withP95 := func(rs []round) []lab.Measured {
		out := plain(rs)
		for i := range out {
			out[i].Rate = rs[i].p95
		}
		return out
	}
	f := lab.Compare(name, "ms", against, withP95(bases), withP95(ms), lab.Rate)
	f.CPU = nil
	return f.NoMoreThan(0.5)
}

// decided compares accepted-and-decided reservations a second, and says how many messages one takes.
func (b *bench) decided(ctx context.Context) ([]lab.Figure, error) {
	if err := b.open(ctx); err != nil {
		return nil, err
	}
	before, err := b.messages(ctx)
	if err != nil {
		return nil, err
	}
	bases, ms, err := b.pair(ctx, "decided", func(ctx context.Context, s *shop) (round, error) { return b.crowd(ctx, s, b.settings.Round) })
	if err != nil {
		return nil, err
	}
	f := lab.Compare("accepted and decided, asynchronous", "reservations/s", "the synchronous wiring, decided before it answers; wrk -t2 -c200", plain(bases), plain(ms), lab.Rate)
	b.best = min(f.Value.Median, f.Baseline.Median)
	f.Notes = append(f.Notes,
		fmt.Sprintf("acknowledged %s/s, the last decision %.2f s and the last order %.2f s after the load; synchronous: the last order %.2f s",
			testbed.Number(medians(ms, func(r round) float64 { return r.Answers })), medians(ms, func(r round) float64 { return r.drained }),
			medians(ms, func(r round) float64 { return r.drained + r.ordered }), medians(bases, func(r round) float64 { return r.drained + r.ordered })),
		fmt.Sprintf("CPU µs per reservation, synchronous: service %s, PostgreSQL %s, Redis %s, wrk %s", cost(bases, "service"), cost(bases, "PostgreSQL"), cost(bases, "Redis"), cost(bases, "wrk")))
	p95 := latencies("acknowledgement p95, closed loop", "the synchronous wiring in the same rounds", bases, ms)
	after, err := b.messages(ctx)
	if err != nil {
		return nil, err
	}
	reserved := int64(0)
	for _, m := range ms {
		reserved += m.Stock.Reserved
	}
	per := lab.NewSeries([]float64{float64(after-before) / float64(reserved)})
	messages := lab.Figure{
		Name: "messages per reservation", Unit: "published, by the broker's count", Value: per,
		Notes: []string{fmt.Sprintf("%s messages carried %s reservation.requested and as many reservation.held", testbed.Thousands(after-before), testbed.Thousands(reserved))},
	}
	return []lab.Figure{f.NoLessThan(0.9), p95, messages}, nil
}

func cost(rs []round, part string) string {
	return testbed.Number(medians(rs, func(r round) float64 { return r.Cost(part) }))
}

// messages is how many messages the broker has been sent in all. It counts every five seconds.
func (b *bench) messages(ctx context.Context) (int64, error) {
	b.lab.Say.Step("waiting for the broker's counters")
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(7 * time.Second):
	}
	var overview struct {
		Stats struct {
			Publish int64 `json:"publish"`
		} `json:"message_stats"`
	}
	err := b.lab.Rabbit.Manage(ctx, http.MethodGet, "/api/overview", "", &overview)
	return overview.Stats.Publish, err
}

// latency compares the acknowledgement's p95 at the same rate, by a generator that does not wait.
func (b *bench) latency(ctx context.Context) ([]lab.Figure, error) {
	if err := b.open(ctx); err != nil {
		return nil, err
	}
	if b.best == 0 {
		for _, s := range []*shop{b.sync, b.async} {
			b.lab.Say.Step("the best rate of the %s wiring", s.Name)
			r, err := b.alone(s, func() (round, error) { return b.crowd(ctx, s, b.settings.Round) })
			if err != nil {
				return nil, err
			}
			if b.best == 0 || r.Rate < b.best {
				b.best = r.Rate
			}
		}
	}
	half := math.Round(b.best / 2)
	bases, ms, err := b.pair(ctx, "latency", func(ctx context.Context, s *shop) (round, error) {
		g, before, err := s.begin(ctx)
		if err != nil {
			return round{}, err
		}
		began := time.Now()
		o, used, err := b.lab.Open(ctx, s.World, []int{s.Instances[0].Port}, g.Bodies(), s.status, half, b.settings.Round)
		if err != nil {
			return round{}, err
		}
		if o.Bad > 0 || o.Good == 0 {
			return round{}, fmt.Errorf("%d of %d requests were not acknowledged", o.Bad, o.Good+o.Bad)
		}
		r := round{Measured: lab.Measured{Good: o.Good, Used: used}, p95: lab.Percentile(o.Latencies, 0.95)}
		return r, b.settle(ctx, s, &r, g, before, began)
	})
	if err != nil {
		return nil, err
	}
	f := latencies(fmt.Sprintf("acknowledgement p95 at %s/s", testbed.Number(half)), "the synchronous wiring at the same rate, half of the slower one's best; times run from the moment a request was due", bases, ms)
	return []lab.Figure{f}, nil
}
