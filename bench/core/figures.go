package main

import (
	"context"
	"errors"
	"flashsale/account"
	"flashsale/bench/lab"
	"flashsale/bench/testbed"
	"flashsale/id"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"
)

// bench is one run of the benchmark.
type bench struct {
	lab    *lab.Lab
	opts   options
	report *lab.Report
	shop   *lab.World // of most figures
	best   float64    // the highest rate of figure http
}

// options are what the command line says, filled in.
type options struct {
	repeats int
	round   time.Duration
	items   int // of figure scale
	buyers  int
	pending int64 // takes of figure memory
	shards  int
}

// group is what one name of --only measures.
type group struct {
	name    string
	measure func(*bench, context.Context) ([]lab.Figure, error)
	apart   bool // only when it is named
}

func groups() []group {
	return []group{
		{name: "http", measure: (*bench).http},
		{name: "nginx", measure: (*bench).nginx},
		{name: "takes", measure: (*bench).takes},
		{name: "hotrow", measure: (*bench).hotRow},
		{name: "latency", measure: (*bench).latency},
		{name: "instances", measure: (*bench).instances},
		{name: "memory", measure: (*bench).memory},
		{name: "rejects", measure: (*bench).rejects},
		{name: "scale", measure: (*bench).scale},
		{name: "telemetry", measure: (*bench).telemetry, apart: true},
	}
}

// run measures groups, and what cannot be measured is said, not left out.
func (b *bench) run(ctx context.Context, chosen []group) error {
	for _, g := range chosen {
		figures, err := g.measure(b, ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			figures = append(figures, lab.Figure{Group: g.name, Name: g.name, Error: err.Error()})
			b.lab.Say.Line("%s: %v", g.name, err)
		}
		for _, f := range figures {
			f.Group = g.name
			f.Judge()
			b.report.Figures = append(b.report.Figures, f)
		}
		if b.shop != nil {
			if err := b.shop.Resume(); err != nil {
				return err
			}
		}
	}
	return nil
}

// opened returns the shop with one instance, behind nginx too, and whatever else must be there.
func (b *bench) opened(ctx context.Context) (*lab.World, error) {
	if b.shop == nil {
		b.lab.Say.Step("starting the service")
		w, err := b.lab.NewWorld(ctx, "shop", b.shards())
		if err != nil {
			return nil, err
		}
		if _, err := w.Start(ctx, b.lab.ServicePort); err != nil {
			return nil, err
		}
		b.shop = w
		g, err := w.Sale(ctx, lab.MaxStock)
		if err != nil {
			return nil, err
		}
		b.lab.Say.Step("warming up")
		for _, port := range []int{b.lab.ServicePort, b.lab.FrontPort} {
			if _, err := b.lab.Reservations(ctx, w, port, g, g.Bodies(), time.Second); err != nil {
				return nil, err
			}
		}
		for _, port := range []int{b.lab.EchoPort, b.lab.EchoFrontPort} {
			if _, err := b.lab.Echoes(ctx, w, port, g.Bodies(), time.Second); err != nil {
				return nil, err
			}
		}
	}
	return b.shop, nil
}

func (b *bench) shards() []int {
	out := make([]int, b.opts.shards)
	for i := range out {
		out[i] = i
	}
	return out
}

// overHTTP is figures 1 and 2: reservations against the echo, both on the same way.
func (b *bench) overHTTP(ctx context.Context, name string, servicePort, echoPort int) (lab.Figure, error) {
	w, err := b.opened(ctx)
	if err != nil {
		return lab.Figure{}, err
	}
	var last lab.Goods
	if last, err = w.Sale(ctx, lab.MaxStock); err != nil {
		return lab.Figure{}, err
	}
	bases, ms, err := b.lab.Interleave(ctx, b.opts.repeats, name, func(ctx context.Context) (lab.Measured, error) {
		return b.lab.Echoes(ctx, w, echoPort, last.Bodies(), b.opts.round)
	}, func(ctx context.Context) (lab.Measured, error) {
		var err error
		if last, err = w.Sale(ctx, lab.MaxStock); err != nil { // every round is a sale of its own: all shoppers are new to it
			return lab.Measured{}, err
		}
		return b.lab.Reservations(ctx, w, servicePort, last, last.Bodies(), b.opts.round)
	})
	if err != nil {
		return lab.Figure{}, err
	}
	f := lab.Compare(name, "durable reservations/s", "a bare Fiber echo of the same requests, wrk -t2 -c200", bases, ms, lab.Rate)
	f.CPU["echo"] = 0
	f.Notes = append(f.Notes,
		fmt.Sprintf("CPU µs per echo: echo %s, nginx %s, wrk %s, machine %s", testbed.Number(lab.Median(lab.Pick(bases, lab.Part("echo")))), testbed.Number(lab.Median(lab.Pick(bases, lab.Part("nginx")))),
			testbed.Number(lab.Median(lab.Pick(bases, lab.Part("wrk")))), testbed.Number(lab.Median(lab.Pick(bases, lab.Part(lab.Machine))))),
		fmt.Sprintf("latency p50 / p99, closed loop: %.2f / %.2f ms; echo %.2f / %.2f ms",
			lab.Median(lab.Pick(ms, func(m lab.Measured) float64 { return float64(m.P50.Microseconds()) / 1000 })), lab.Median(lab.Pick(ms, func(m lab.Measured) float64 { return float64(m.P99.Microseconds()) / 1000 })),
			lab.Median(lab.Pick(bases, func(m lab.Measured) float64 { return float64(m.P50.Microseconds()) / 1000 })), lab.Median(lab.Pick(bases, func(m lab.Measured) float64 { return float64(m.P99.Microseconds()) / 1000 }))))
	return f, nil
}

func (b *bench) http(ctx context.Context) ([]lab.Figure, error) {
	if _, err := b.opened(ctx); err != nil {
		return nil, err
	}
	f, err := b.overHTTP(ctx, "reservations over HTTP", b.lab.ServicePort, b.lab.EchoPort)
	if err != nil {
		return nil, err
	}
	b.best = f.Value.Max
	return []lab.Figure{f.NoLessThan(0.6)}, nil
}

func (b *bench) nginx(ctx context.Context) ([]lab.Figure, error) {
	if _, err := b.opened(ctx); err != nil {
		return nil, err
	}
	f, err := b.overHTTP(ctx, "reservations through nginx", b.lab.FrontPort, b.lab.EchoFrontPort)
	if err != nil {
		return nil, err
	}
	f.Against += ", both through the same nginx"
	return []lab.Figure{f.NoLessThan(0.6)}, nil
}

// takes is figure 3.
func (b *bench) takes(ctx context.Context) ([]lab.Figure, error) {
	if b.shop != nil {
		if err := b.shop.Pause(); err != nil {
			return nil, err
		}
	}
	t, err := newTakeBench(ctx, b.lab)
	if err != nil {
		return nil, err
	}
	defer t.close()
	b.lab.Say.Step("takes: warming up")
	expect, err := t.benchmark(ctx, 100_000, time.Second)
	if err != nil {
		return nil, err
	}
	if _, err := t.takes(ctx, time.Second/2); err != nil {
		return nil, err
	}
	d := min(b.opts.round, 3*time.Second)
	round := func(f func() (float64, error)) func(context.Context) (lab.Measured, error) {
		return func(context.Context) (lab.Measured, error) {
			parts := map[string][]int{"Redis": {t.pid}}
			before, err := lab.Read(parts)
			if err != nil {
				return lab.Measured{}, err
			}
			began := time.Now()
			rate, err := f()
			if err != nil {
				return lab.Measured{}, err
			}
			after, err := lab.Read(parts)
			m := lab.Measured{Rate: rate, Took: time.Since(began), Used: after.Since(before)}
			m.Good = int64(rate * d.Seconds())
			return m, err
		}
	}
	bases, ms, err := b.lab.Interleave(ctx, b.opts.repeats, "takes",
		round(func() (float64, error) { return t.benchmark(ctx, expect, d) }), round(func() (float64, error) { return t.takes(ctx, d) }))
	if err != nil {
		return nil, err
	}
	f := lab.Compare("takes at the gate", "takes/s", "redis-benchmark -c 50 -P 64 with the same script on the same server", bases, ms, lab.Rate)
	f.Stock, f.CPU, f.Outside = nil, nil, 0 // redis-benchmark is nobody's part
	f.Notes = append(f.Notes, fmt.Sprintf("%d goroutines on one Redis server; CPU µs per take: Redis %s, the gate's side %s; Redis under redis-benchmark %s", takers,
		testbed.Number(lab.Median(lab.Pick(ms, lab.Part("Redis")))), testbed.Number(lab.Median(lab.Pick(ms, lab.Part(lab.Harness)))), testbed.Number(lab.Median(lab.Pick(bases, lab.Part("Redis"))))))
	return []lab.Figure{f.NoLessThan(0.7)}, nil
}

const hotSchema = `CREATE TABLE bucket (id int PRIMARY KEY, granted bigint NOT NULL, held bigint NOT NULL DEFAULT 0, CHECK (held <= granted)) WITH (fillfactor = 50);
	CREATE TABLE reservation (id uuid PRIMARY KEY, user_id uuid NOT NULL, qty int NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
	INSERT INTO bucket (id, granted) VALUES (1, 1000000000)`

const hotScript = `BEGIN;
UPDATE bucket SET held = held + 1 WHERE id = 1 AND held + 1 <= granted;
INSERT INTO reservation (id, user_id, qty) VALUES (gen_random_uuid(), gen_random_uuid(), 1);
COMMIT;
`

// hotRow is figure 4.
func (b *bench) hotRow(ctx context.Context) ([]lab.Figure, error) {
	w, err := b.opened(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.lab.Postgres.SQL(ctx, "postgres", `CREATE DATABASE hot`); err != nil {
		return nil, err
	}
	if err := b.lab.Postgres.SQL(ctx, "hot", hotSchema); err != nil {
		return nil, err
	}
	script := filepath.Join(b.lab.Dir, "hot.sql")
	if err := os.WriteFile(script, []byte(hotScript), 0o644); err != nil {
		return nil, err
	}
	pgbench := func(ctx context.Context) (m lab.Measured, err error) {
		if err := w.Pause(); err != nil {
			return m, err
		}
		defer func() { err = errors.Join(err, w.Resume()) }()
		parts := b.lab.Parts(w)
		before, err := lab.Read(parts)
		if err != nil {
			return m, err
		}
		began := time.Now()
		text, cpu, err := testbed.Output(ctx, testbed.BaseEnv(), nil, filepath.Join(b.lab.Postgres.Bin, "pgbench"), "-h", "127.0.0.1", "-p", strconv.Itoa(b.lab.Postgres.Port), "-U", "postgres",
			"-n", "-M", "prepared", "-c", "32", "-j", "2", "-T", strconv.Itoa(int(max(1, b.opts.round.Seconds()))), "-f", script, "hot")
		if err != nil {
			return m, err
		}
		m.Took = time.Since(began)
		after, err := lab.Read(parts)
		if err != nil {
			return m, err
		}
		r, err := parsePgbench(text)
		if err == nil && r.Failed > 0 {
			err = fmt.Errorf("%d transactions of pgbench failed", r.Failed)
		}
		m.Rate, m.Good, m.Used = r.Rate, r.Transactions, after.Since(before)
		m.Used["wrk"] = cpu // the other load generator
		return m, err
	}
	bases, ms, err := b.lab.Interleave(ctx, b.opts.repeats, "hot row", pgbench, func(ctx context.Context) (lab.Measured, error) {
		g, err := w.Sale(ctx, lab.MaxStock)
		if err != nil {
			return lab.Measured{}, err
		}
		return b.lab.Reservations(ctx, w, b.lab.ServicePort, g, g.Bodies(), b.opts.round)
	})
	if err != nil {
		return nil, err
	}
	f := lab.Compare("reservations against a hot row", "durable reservations/s",
		"pgbench -c 32 -M prepared: a transaction per reservation that updates the one row and inserts a row, same server", bases, ms, lab.Rate)
	f.Notes = append(f.Notes, fmt.Sprintf("CPU µs per transaction of the baseline: PostgreSQL %s", testbed.Number(lab.Median(lab.Pick(bases, lab.Part("PostgreSQL"))))))
	return []lab.Figure{f.NoLessThan(15)}, nil
}

// bestRate returns the best rate over HTTP, measured now if figure http was not.
func (b *bench) bestRate(ctx context.Context) (float64, error) {
	w, err := b.opened(ctx)
	if err != nil || b.best > 0 {
		return b.best, err
	}
	for range 3 {
		b.lab.Say.Step("finding the best rate")
		g, err := w.Sale(ctx, lab.MaxStock)
		if err != nil {
			return 0, err
		}
		m, err := b.lab.Reservations(ctx, w, b.lab.ServicePort, g, g.Bodies(), b.opts.round)
		if err != nil {
			return 0, err
		}
		b.best = max(b.best, m.Rate)
	}
	return b.best, nil
}

// latency is figure 5.
func (b *bench) latency(ctx context.Context) ([]lab.Figure, error) {
	best, err := b.bestRate(ctx)
	if err != nil {
		return nil, err
	}
	w, half := b.shop, best/2
	g, err := w.Sale(ctx, lab.MaxStock)
	if err != nil {
		return nil, err
	}
	var p50, base50, late []float64
	p99 := func(r lab.OpenResult, m lab.Measured) (lab.Measured, error) {
		if r.Bad > 0 || r.Good == 0 {
			return m, fmt.Errorf("%d of %d requests were not answered with 201", r.Bad, r.Good+r.Bad)
		}
		late = append(late, lab.Percentile(r.Late, 0.99))
		m.Rate = lab.Percentile(r.Latencies, 0.99)
		return m, nil
	}
	bases, ms, err := b.lab.Interleave(ctx, b.opts.repeats, fmt.Sprintf("p99 at %.0f/s", half), func(ctx context.Context) (m lab.Measured, err error) {
		if err := w.Pause(); err != nil {
			return m, err
		}
		defer func() { err = errors.Join(err, w.Resume()) }()
		r, used, err := b.lab.Open(ctx, w, []int{b.lab.EchoPort}, g.Bodies(), http.StatusCreated, half, b.opts.round)
		if err != nil {
			return m, err
		}
		base50 = append(base50, lab.Percentile(r.Latencies, 0.5))
		return p99(r, lab.Measured{Good: r.Good, Used: used, Took: r.Took})
	}, func(ctx context.Context) (lab.Measured, error) {
		if g, err = w.Sale(ctx, lab.MaxStock); err != nil {
			return lab.Measured{}, err
		}
		r, m, err := b.lab.OpenReservations(ctx, w, []int{b.lab.ServicePort}, g, half, b.opts.round)
		if err != nil {
			return m, err
		}
		p50 = append(p50, lab.Percentile(r.Latencies, 0.5))
		return p99(r, m)
	})
	if err != nil {
		return nil, err
	}
	f := lab.Compare(fmt.Sprintf("p99 at half of the best rate (%s/s)", testbed.Number(half)), "ms, open loop",
		"the echo's p99 at the same rate; times run from the moment a request was due", bases, ms, lab.Rate)
	f.Notes = append(f.Notes, fmt.Sprintf("p50 %s ms, echo %s ms; the generator sent %s ms late at its p99, at the worst", testbed.Number(lab.Median(p50)), testbed.Number(lab.Median(base50)), testbed.Number(lab.NewSeries(late).Max)))
	return []lab.Figure{f.NoMoreThan(5)}, nil
}

// costParts are what figures 6 and 7 add up.
func engineCost(m lab.Measured) float64 { return m.Cost("service", "PostgreSQL", "Redis") }

// instances is figure 7.
func (b *bench) instances(ctx context.Context) ([]lab.Figure, error) {
	best, err := b.bestRate(ctx)
	if err != nil {
		return nil, err
	}
	w, half := b.shop, best/2
	defer w.StopFrom(1)
	rounds := map[int][]lab.Measured{}
	one := func(n int) error {
		if n < len(w.Instances) {
			w.StopFrom(n)
		}
		for len(w.Instances) < n {
			if _, err := w.Start(ctx, 0); err != nil {
				return err
			}
		}
		g, err := w.Sale(ctx, lab.MaxStock)
		if err != nil {
			return err
		}
		if err := b.lab.Checkpoint(ctx); err != nil {
			return err
		}
		var ports []int
		for _, i := range w.Instances {
			ports = append(ports, i.Port)
		}
		b.lab.Say.Step("%d instances at %.0f/s in all: %d of %d", n, half, len(rounds[n])+1, b.opts.repeats)
		if _, _, err := b.lab.OpenReservations(ctx, w, ports, g, half, b.opts.round/4); err != nil { // a new process has everything to load
			return err
		}
		_, m, err := b.lab.OpenReservations(ctx, w, ports, g, half, b.opts.round)
		if err == nil && m.Refused > 0 {
			err = fmt.Errorf("%d instances: %d requests were not answered with 201", n, m.Refused)
		}
		rounds[n] = append(rounds[n], m)
		return err
	}
	for range b.opts.repeats {
		for _, n := range []int{1, 2, 4} {
			if err := one(n); err != nil {
				return nil, err
			}
		}
	}
	if err := one(1); err != nil {
		return nil, err
	}
	var figures []lab.Figure
	for _, n := range []int{2, 4} {
		f := lab.Compare(fmt.Sprintf("cost with %d instances at %s/s in all", n, testbed.Number(half)), "CPU µs per reservation: service, PostgreSQL, Redis",
			"one instance at the same load, open loop", rounds[1], rounds[n], engineCost)
		figures = append(figures, f.NoMoreThan(1.2))
	}
	return figures, nil
}

// memory is figure 8.
func (b *bench) memory(ctx context.Context) ([]lab.Figure, error) {
	w, err := b.opened(ctx)
	if err != nil {
		return nil, err
	}
	t, err := newTakeBench(ctx, b.lab)
	if err != nil {
		return nil, err
	}
	defer t.close()
	var pending, known []float64
	for range b.opts.repeats {
		b.lab.Say.Step("memory of %d pending takes", b.opts.pending)
		if err := t.reset(ctx); err != nil {
			return nil, err
		}
		empty, err := t.memory(ctx)
		if err != nil {
			return nil, err
		}
		n, _, refs, err := t.take(ctx, b.opts.pending, time.Minute)
		if err != nil {
			return nil, err
		}
		full, err := t.memory(ctx)
		if err != nil {
			return nil, err
		}
		for part := range slices.Chunk(refs, 2000) {
			if err := t.gate.Settle(ctx, part); err != nil {
				return nil, err
			}
		}
		settled, err := t.memory(ctx)
		if err != nil {
			return nil, err
		}
		pending = append(pending, float64(full-settled)/float64(n))
		known = append(known, float64(settled-empty)/float64(n))
	}
	figures := []lab.Figure{
		{Name: "memory of a pending take in Redis", Unit: "bytes", Value: lab.NewSeries(pending), Notes: []string{fmt.Sprintf("used_memory over %d takes of as many shoppers; given back when settled", b.opts.pending)}},
		{Name: "memory of a shopper who has units, in Redis", Unit: "bytes", Value: lab.NewSeries(known), Notes: []string{"what stays after the take is settled: the per-shopper count"}},
	}
	f, err := b.holdMemory(ctx, w)
	return append(figures, f), err
}

// holdMemory compares the anonymous memory of a new process before and after holds that stay live.
func (b *bench) holdMemory(ctx context.Context, w *lab.World) (lab.Figure, error) {
	i, err := w.Start(ctx, 0)
	if err != nil {
		return lab.Figure{}, err
	}
	defer w.StopFrom(len(w.Instances) - 1)
	g, err := w.Sale(ctx, lab.MaxStock)
	if err != nil {
		return lab.Figure{}, err
	}
	f := lab.Figure{Name: "memory of a live hold in the service", Unit: "bytes", Stock: &lab.Stock{}}
	var last int64
	var grown []float64
	holds := int64(0)
	for n := range b.opts.repeats + 2 {
		b.lab.Say.Step("memory of live holds: round %d", n+1)
		m, err := b.lab.Reservations(ctx, w, i.Port, g, g.Bodies(), b.opts.round)
		if err != nil {
			return f, err
		}
		f.Stock.Add(m.Stock)
		if err := rest(ctx, 2*time.Second); err != nil {
			return f, err
		}
		now, err := testbed.ResidentAnon(i.PID())
		if err != nil {
			return f, err
		}
		if n >= 2 { // by then the caches, which are bounded, are as large as they get
			grown = append(grown, float64(now-last)/float64(m.Good))
		}
		last, holds = now, holds+m.Stock.Reserved
	}
	f.Value = lab.NewSeries(grown)
	f.Notes = append(f.Notes, fmt.Sprintf("growth of RssAnon per hold from round to round; at the end %s MB with %s live holds", testbed.Number(float64(last)/(1<<20)), testbed.Thousands(holds)))
	return f, nil
}

func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// rejects is figure 9.
func (b *bench) rejects(ctx context.Context) ([]lab.Figure, error) {
	w, err := b.opened(ctx)
	if err != nil {
		return nil, err
	}
	const stock = 16
	b.lab.Say.Step("rejects: selling %d units out", stock)
	g, err := w.Sale(ctx, stock)
	if err != nil {
		return nil, err
	}
	if err := b.sellOut(ctx, w, g, stock); err != nil {
		return nil, err
	}
	before, err := w.Settled(ctx, g)
	if err != nil {
		return nil, err
	}
	b.lab.Say.Step("rejects: waiting for PostgreSQL's counters")
	if err := rest(ctx, countersLate); err != nil { // or the sell-out's own would be told during the rejects
		return nil, err
	}
	commits, err := b.commits(ctx, w)
	if err != nil {
		return nil, err
	}
	began, paused := time.Now(), time.Duration(0)
	bases, ms, err := b.lab.Interleave(ctx, b.opts.repeats, "rejects", func(ctx context.Context) (lab.Measured, error) {
		m, err := b.lab.Echoes(ctx, w, b.lab.EchoPort, g.Bodies(), b.opts.round)
		paused += m.Took
		return m, err
	}, func(ctx context.Context) (lab.Measured, error) {
		m, err := b.lab.Wrk(ctx, w, b.lab.ServicePort, g.Bodies(), b.opts.round)
		if err == nil && (m.Good > 0 || m.Failed > 0 || m.Refused == 0) {
			err = fmt.Errorf("a sold-out sale answered %d successes, %d refusals, %d failures", m.Good, m.Refused, m.Failed)
		}
		m.Good, m.Rate, m.Refused = m.Refused, m.Answers, 0
		return m, err
	})
	if err != nil {
		return nil, err
	}
	if err := b.refusedRight(ctx, w, g); err != nil {
		return nil, err
	}
	f := lab.Compare("rejects of a sold-out sale", "rejects/s", "the echo", bases, ms, lab.Rate)
	after, err := w.Settled(ctx, g)
	if err != nil {
		return nil, err
	}
	s := lab.StockOf(0, before, after)
	f.Stock = &s
	extra, err := b.extraCommits(ctx, w, commits, began, paused)
	if err != nil {
		return nil, err
	}
	var rejected int64
	for _, m := range ms {
		rejected += m.Good
	}
	per := lab.NewSeries([]float64{max(0, extra) / float64(rejected)})
	touch := lab.Figure{
		Name: "PostgreSQL commits per reject", Unit: "beyond those of an idle service", Value: per, Ratio: &per,
		Notes: []string{fmt.Sprintf("%.0f commits beyond the idle service's, over %s rejects", extra, testbed.Thousands(rejected))},
	}
	return []lab.Figure{f, touch.NoMoreThan(0.001)}, nil
}

// commits counts the transactions in the world's databases. Reading them is one in another database.
func (b *bench) commits(ctx context.Context, w *lab.World) (int64, error) {
	var n int64
	err := w.Books.QueryRow(ctx, `SELECT sum(xact_commit)::bigint FROM pg_stat_database WHERE datname LIKE $1`, w.Name+"\\_%").Scan(&n)
	return n, err
}

// countersLate is how long PostgreSQL's processes may keep their commits to themselves.
const countersLate = 11 * time.Second

// extraCommits returns the commits since a count, without those that the service makes when idle.
func (b *bench) extraCommits(ctx context.Context, w *lab.World, since int64, began time.Time, paused time.Duration) (float64, error) {
	b.lab.Say.Step("rejects: waiting for PostgreSQL's counters")
	if err := rest(ctx, countersLate); err != nil {
		return 0, err
	}
	busy, err := b.commits(ctx, w)
	if err != nil {
		return 0, err
	}
	running := time.Since(began) - paused
	const idle = 5 * time.Second
	if err := rest(ctx, idle); err != nil {
		return 0, err
	}
	quiet, err := b.commits(ctx, w)
	return float64(busy-since) - float64(quiet-busy)/idle.Seconds()*running.Seconds(), err
}

// sellOut reserves and pays every unit, as shoppers with accounts: who has paid is sent a message.
func (b *bench) sellOut(ctx context.Context, w *lab.World, g lab.Goods, units int) error {
	base := w.Instances[0].Base() + "/api/v1"
	var wg sync.WaitGroup
	errs := make([]error, units)
	for i := range units {
		wg.Go(func() {
			who := map[string]any{"email": id.New(time.Now()).String() + "@example.com", "password": b.lab.Password}
			var login struct {
				Token string `json:"access_token"`
			}
			if errs[i] = errors.Join(lab.Post(ctx, base+"/auth/register", "", who, nil), lab.Post(ctx, base+"/auth/login", "", who, &login)); errs[i] != nil {
				return
			}
			token := login.Token
			var r struct {
				Order string `json:"order_id"`
			}
			body := map[string]any{"sale_id": g.Items[0].Sale, "sku": g.Items[0].Sku, "quantity": 1}
			if errs[i] = lab.Post(ctx, base+"/reservations", token, body, &r); errs[i] == nil {
				errs[i] = lab.Post(ctx, base+"/orders/"+r.Order+"/payments", token, map[string]any{"method": "tok_ok"}, nil)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// refusedRight checks what wrk cannot see: that the refusals say "sold out".
func (b *bench) refusedRight(ctx context.Context, w *lab.World, g lab.Goods) error {
	t, err := b.lab.Signer()
	if err != nil {
		return err
	}
	for range 100 {
		token, _, err := t.Sign(id.New(time.Now()), account.Shopper)
		if err != nil {
			return err
		}
		status, answer, err := lab.Call(ctx, http.MethodPost, w.Instances[0].Base()+"/api/v1/reservations", token,
			map[string]string{"Idempotency-Key": id.New(time.Now()).String()}, []byte(g.Bodies()[0]))
		if err != nil {
			return err
		}
		if status != http.StatusConflict {
			return fmt.Errorf("a sold-out sale answered %d: %s", status, answer)
		}
	}
	return nil
}

// scale is figure 6.
func (b *bench) scale(ctx context.Context) ([]lab.Figure, error) {
	if b.shop != nil {
		if err := b.shop.Pause(); err != nil {
			return nil, err
		}
	}
	l := b.lab
	small, err := l.NewWorld(ctx, "small", b.shards())
	if err != nil {
		return nil, err
	}
	if _, err := small.Start(ctx, 0); err != nil {
		return nil, err
	}
	one, err := small.Sale(ctx, lab.MaxStock)
	if err != nil {
		return nil, err
	}
	large, err := l.NewWorld(ctx, "large", b.shards())
	if err != nil {
		return nil, err
	}
	large.Roles = "inventory" // the past buyers have no payments
	if err := fillBuyers(ctx, l, large, b.opts.buyers); err != nil {
		return nil, fmt.Errorf("past buyers: %w", err)
	}
	if err := small.Pause(); err != nil {
		return nil, err
	}
	if _, err := large.Start(ctx, 0); err != nil {
		return nil, err
	}
	many, err := large.ManySales(ctx, b.opts.items)
	if err != nil {
		return nil, fmt.Errorf("%d sale items: %w", b.opts.items, err)
	}
	if err := large.Pause(); err != nil {
		return nil, err
	}
	round := func(w *lab.World, g lab.Goods, bodies []string) (m lab.Measured, err error) {
		if err := errors.Join(l.Checkpoint(ctx), w.Resume(), rest(ctx, time.Second/2)); err != nil {
			return m, err
		}
		defer func() { err = errors.Join(err, w.Pause()) }()
		return l.Reservations(ctx, w, w.Instances[0].Port, g, bodies, b.opts.round)
	}
	var bases, all, hot []lab.Measured
	n := -1 // the first time round is the warm-up
	for ; n < b.opts.repeats; n++ {
		l.Say.Step("scale: round %d of %d", n+1, b.opts.repeats)
		m1, err := round(small, one, one.Bodies())
		if err != nil {
			return nil, fmt.Errorf("1 item: %w", err)
		}
		if n >= 0 {
			bases = append(bases, m1)
		}
		m2, err := round(large, many, many.Bodies())
		if err != nil {
			return nil, fmt.Errorf("%d items: %w", b.opts.items, err)
		}
		m3, err := round(large, many, many.Bodies()[:1])
		if err != nil {
			return nil, fmt.Errorf("one of %d items: %w", b.opts.items, err)
		}
		if n >= 0 {
			all, hot = append(all, m2), append(hot, m3)
		}
	}
	m, err := round(small, one, one.Bodies())
	if err != nil {
		return nil, err
	}
	bases = append(bases, m)
	for _, w := range []*lab.World{small, large} {
		if err := w.Resume(); err != nil {
			return nil, err
		}
		w.StopFrom(0)
	}
	what := fmt.Sprintf("%s items, %s past buyers", testbed.Thousands(int64(b.opts.items)), testbed.Thousands(int64(b.opts.buyers)))
	const against = "1 item and no past buyers, each in databases of its own on the same servers, wrk -t2 -c200"
	const unit = "CPU µs per reservation: service, PostgreSQL, Redis"
	var figures []lab.Figure
	for _, v := range []struct {
		how string
		ms  []lab.Measured
	}{{"requests for all of them", all}, {"requests for one of them", hot}} {
		cost := lab.Compare("cost at "+what+", "+v.how, unit, against, bases, v.ms, engineCost)
		speed := lab.Compare("speed at "+what+", "+v.how, "durable reservations/s", against, bases, v.ms, lab.Rate)
		speed.CPU, speed.Stock = nil, cost.Stock
		figures = append(figures, cost.NoMoreThan(1.15), speed.NoLessThan(math.Round(100/1.15)/100))
	}
	return figures, nil
}
