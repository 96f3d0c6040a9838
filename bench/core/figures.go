package main

import (
	"context"
	"errors"
	"flashsale/account"
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
	lab    *lab
	opts   options
	report *Report
	shop   *world  // of most figures
	best   float64 // the highest rate of figure http
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
	measure func(*bench, context.Context) ([]Figure, error)
}

func groups() []group {
	return []group{
		{"http", (*bench).http},
		{"nginx", (*bench).nginx},
		{"takes", (*bench).takes},
		{"hotrow", (*bench).hotRow},
		{"latency", (*bench).latency},
		{"instances", (*bench).instances},
		{"memory", (*bench).memory},
		{"rejects", (*bench).rejects},
		{"scale", (*bench).scale},
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
			figures = append(figures, Figure{Group: g.name, Name: g.name, Error: err.Error()})
			b.lab.say.line("%s: %v", g.name, err)
		}
		for _, f := range figures {
			f.Group = g.name
			f.judge()
			b.report.Figures = append(b.report.Figures, f)
		}
		if b.shop != nil {
			if err := b.shop.resume(); err != nil {
				return err
			}
		}
	}
	return nil
}

// opened returns the shop with one instance, behind nginx too, and whatever else must be there.
func (b *bench) opened(ctx context.Context) (*world, error) {
	if b.shop == nil {
		b.lab.say.step("starting the service")
		w, err := b.lab.newWorld(ctx, "shop", b.shards())
		if err != nil {
			return nil, err
		}
		if _, err := w.start(ctx, b.lab.servicePort); err != nil {
			return nil, err
		}
		b.shop = w
		g, err := w.sale(ctx, maxStock)
		if err != nil {
			return nil, err
		}
		b.lab.say.step("warming up")
		for _, port := range []int{b.lab.servicePort, b.lab.frontPort} {
			if _, err := b.lab.reservations(ctx, w, port, g, g.bodies(), time.Second); err != nil {
				return nil, err
			}
		}
		for _, port := range []int{b.lab.echoPort, b.lab.echoFrontPort} {
			if _, err := b.lab.echoes(ctx, w, port, g.bodies(), time.Second); err != nil {
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

// interleave takes baseline, measured, baseline, …, baseline.
func (b *bench) interleave(ctx context.Context, what string, baseline, measure func(context.Context) (measured, error)) (bases, ms []measured, err error) {
	for i := range 2*b.opts.repeats + 1 {
		if err := b.lab.checkpoint(ctx); err != nil {
			return nil, nil, err
		}
		f, into, side := baseline, &bases, "baseline"
		if i%2 == 1 {
			f, into, side = measure, &ms, "measured"
		}
		b.lab.say.step("%s: %s %d of %d", what, side, len(*into)+1, b.opts.repeats+1-i%2)
		m, err := f(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", side, err)
		}
		*into = append(*into, m)
	}
	return bases, ms, nil
}

func pick(ms []measured, f func(measured) float64) []float64 {
	out := make([]float64, len(ms))
	for i, m := range ms {
		out[i] = f(m)
	}
	return out
}

func rate(m measured) float64 { return m.rate }

// compare makes a figure of interleaved rounds.
func compare(name, unit, against string, bases, ms []measured, f func(measured) float64) Figure {
	base, value := newSeries(pick(bases, f)), newSeries(pick(ms, f))
	ratio := newSeries(ratios(value.Runs, base.Runs))
	fig := Figure{Name: name, Unit: unit, Against: against, Value: value, Baseline: &base, Ratio: &ratio, Stock: &Stock{}, CPU: map[string]float64{}}
	var refused, failed int64
	for _, m := range ms {
		fig.Stock.add(m.stock)
		refused += m.refused
		failed += m.failed
	}
	for _, m := range append(append([]measured{}, bases...), ms...) {
		fig.Outside = max(fig.Outside, m.outside())
	}
	for _, part := range []string{"service", "PostgreSQL", "Redis", "nginx", "wrk", machine} {
		fig.CPU[part] = median(pick(ms, func(m measured) float64 { return m.cost(part) }))
	}
	if refused+failed > 0 {
		fig.Notes = append(fig.Notes, fmt.Sprintf("%d requests were refused and %d failed: they are in no rate", refused, failed))
	}
	return fig
}

func (f Figure) atLeast(target float64) Figure { f.Target = target; return f }

func (f Figure) atMost(target float64) Figure { f.Target, f.AtMost = target, true; return f }

// overHTTP is figures 1 and 2: reservations against the echo, both on the same way.
func (b *bench) overHTTP(ctx context.Context, name string, servicePort, echoPort int) (Figure, error) {
	w, err := b.opened(ctx)
	if err != nil {
		return Figure{}, err
	}
	var last goods
	if last, err = w.sale(ctx, maxStock); err != nil {
		return Figure{}, err
	}
	bases, ms, err := b.interleave(ctx, name, func(ctx context.Context) (measured, error) {
		return b.lab.echoes(ctx, w, echoPort, last.bodies(), b.opts.round)
	}, func(ctx context.Context) (measured, error) {
		var err error
		if last, err = w.sale(ctx, maxStock); err != nil { // every round is a sale of its own: all shoppers are new to it
			return measured{}, err
		}
		return b.lab.reservations(ctx, w, servicePort, last, last.bodies(), b.opts.round)
	})
	if err != nil {
		return Figure{}, err
	}
	f := compare(name, "durable reservations/s", "a bare Fiber echo of the same requests, wrk -t2 -c200", bases, ms, rate)
	f.CPU["echo"] = 0
	f.Notes = append(f.Notes,
		fmt.Sprintf("CPU µs per echo: echo %s, nginx %s, wrk %s, machine %s", number(median(pick(bases, part("echo")))), number(median(pick(bases, part("nginx")))),
			number(median(pick(bases, part("wrk")))), number(median(pick(bases, part(machine))))),
		fmt.Sprintf("latency p50 / p99, closed loop: %.2f / %.2f ms; echo %.2f / %.2f ms",
			median(pick(ms, func(m measured) float64 { return float64(m.p50.Microseconds()) / 1000 })), median(pick(ms, func(m measured) float64 { return float64(m.p99.Microseconds()) / 1000 })),
			median(pick(bases, func(m measured) float64 { return float64(m.p50.Microseconds()) / 1000 })), median(pick(bases, func(m measured) float64 { return float64(m.p99.Microseconds()) / 1000 }))))
	return f, nil
}

func part(name string) func(measured) float64 {
	return func(m measured) float64 { return m.cost(name) }
}

func (b *bench) http(ctx context.Context) ([]Figure, error) {
	if _, err := b.opened(ctx); err != nil {
		return nil, err
	}
	f, err := b.overHTTP(ctx, "reservations over HTTP", b.lab.servicePort, b.lab.echoPort)
	if err != nil {
		return nil, err
	}
	b.best = f.Value.Max
	return []Figure{f.atLeast(0.6)}, nil
}

func (b *bench) nginx(ctx context.Context) ([]Figure, error) {
	if _, err := b.opened(ctx); err != nil {
		return nil, err
	}
	f, err := b.overHTTP(ctx, "reservations through nginx", b.lab.frontPort, b.lab.echoFrontPort)
	if err != nil {
		return nil, err
	}
	f.Against += ", both through the same nginx"
	return []Figure{f.atLeast(0.6)}, nil
}

// takes is figure 3.
func (b *bench) takes(ctx context.Context) ([]Figure, error) {
	if b.shop != nil {
		if err := b.shop.pause(); err != nil {
			return nil, err
		}
	}
	t, err := b.lab.newTakeBench(ctx)
	if err != nil {
		return nil, err
	}
	defer t.close()
	b.lab.say.step("takes: warming up")
	expect, err := t.benchmark(ctx, 100_000, time.Second)
	if err != nil {
		return nil, err
	}
	if _, err := t.takes(ctx, time.Second/2); err != nil {
		return nil, err
	}
	d := min(b.opts.round, 3*time.Second)
	round := func(f func() (float64, error)) func(context.Context) (measured, error) {
		return func(context.Context) (measured, error) {
			parts := map[string][]int{"Redis": {t.pid}}
			before, err := read(parts)
			if err != nil {
				return measured{}, err
			}
			began := time.Now()
			rate, err := f()
			if err != nil {
				return measured{}, err
			}
			after, err := read(parts)
			m := measured{rate: rate, took: time.Since(began), used: after.since(before)}
			m.good = int64(rate * d.Seconds())
			return m, err
		}
	}
	bases, ms, err := b.interleave(ctx, "takes",
		round(func() (float64, error) { return t.benchmark(ctx, expect, d) }), round(func() (float64, error) { return t.takes(ctx, d) }))
	if err != nil {
		return nil, err
	}
	f := compare("takes at the gate", "takes/s", "redis-benchmark -c 50 -P 64 with the same script on the same server", bases, ms, rate)
	f.Stock, f.CPU, f.Outside = nil, nil, 0 // redis-benchmark is nobody's part
	f.Notes = append(f.Notes, fmt.Sprintf("%d goroutines on one Redis server; CPU µs per take: Redis %s, the gate's side %s; Redis under redis-benchmark %s", takers,
		number(median(pick(ms, part("Redis")))), number(median(pick(ms, part(harness)))), number(median(pick(bases, part("Redis"))))))
	return []Figure{f.atLeast(0.7)}, nil
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
func (b *bench) hotRow(ctx context.Context) ([]Figure, error) {
	w, err := b.opened(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.lab.sql(ctx, "postgres", `CREATE DATABASE hot`); err != nil {
		return nil, err
	}
	if err := b.lab.sql(ctx, "hot", hotSchema); err != nil {
		return nil, err
	}
	script := filepath.Join(b.lab.dir, "hot.sql")
	if err := os.WriteFile(script, []byte(hotScript), 0o644); err != nil {
		return nil, err
	}
	pgbench := func(ctx context.Context) (m measured, err error) {
		if err := w.pause(); err != nil {
			return m, err
		}
		defer func() { err = errors.Join(err, w.resume()) }()
		parts := b.lab.parts(w)
		before, err := read(parts)
		if err != nil {
			return m, err
		}
		began := time.Now()
		text, cpu, err := output(ctx, baseEnv(), nil, filepath.Join(b.lab.bin, "pgbench"), "-h", "127.0.0.1", "-p", strconv.Itoa(b.lab.pgPort), "-U", "postgres",
			"-n", "-M", "prepared", "-c", "32", "-j", "2", "-T", strconv.Itoa(int(max(1, b.opts.round.Seconds()))), "-f", script, "hot")
		if err != nil {
			return m, err
		}
		m.took = time.Since(began)
		after, err := read(parts)
		if err != nil {
			return m, err
		}
		r, err := parsePgbench(text)
		if err == nil && r.Failed > 0 {
			err = fmt.Errorf("%d transactions of pgbench failed", r.Failed)
		}
		m.rate, m.good, m.used = r.Rate, r.Transactions, after.since(before)
		m.used["wrk"] = cpu // the other load generator
		return m, err
	}
	bases, ms, err := b.interleave(ctx, "hot row", pgbench, func(ctx context.Context) (measured, error) {
		g, err := w.sale(ctx, maxStock)
		if err != nil {
			return measured{}, err
		}
		return b.lab.reservations(ctx, w, b.lab.servicePort, g, g.bodies(), b.opts.round)
	})
	if err != nil {
		return nil, err
	}
	f := compare("reservations against a hot row", "durable reservations/s",
		"pgbench -c 32 -M prepared: a transaction per reservation that updates the one row and inserts a row, same server", bases, ms, rate)
	f.Notes = append(f.Notes, fmt.Sprintf("CPU µs per transaction of the baseline: PostgreSQL %s", number(median(pick(bases, part("PostgreSQL"))))))
	return []Figure{f.atLeast(15)}, nil
}

// bestRate returns the best rate over HTTP, measured now if figure http was not.
func (b *bench) bestRate(ctx context.Context) (float64, error) {
	w, err := b.opened(ctx)
	if err != nil || b.best > 0 {
		return b.best, err
	}
	for range 3 {
		b.lab.say.step("finding the best rate")
		g, err := w.sale(ctx, maxStock)
		if err != nil {
			return 0, err
		}
		m, err := b.lab.reservations(ctx, w, b.lab.servicePort, g, g.bodies(), b.opts.round)
		if err != nil {
			return 0, err
		}
		b.best = max(b.best, m.rate)
	}
	return b.best, nil
}

// latency is figure 5.
func (b *bench) latency(ctx context.Context) ([]Figure, error) {
	best, err := b.bestRate(ctx)
	if err != nil {
		return nil, err
	}
	w, half := b.shop, best/2
	g, err := w.sale(ctx, maxStock)
	if err != nil {
		return nil, err
	}
	var p50, base50, late []float64
	p99 := func(r openResult, m measured) (measured, error) {
		if r.bad > 0 || r.good == 0 {
			return m, fmt.Errorf("%d of %d requests were not answered with 201", r.bad, r.good+r.bad)
		}
		late = append(late, percentile(r.late, 0.99))
		m.rate = percentile(r.latencies, 0.99)
		return m, nil
	}
	bases, ms, err := b.interleave(ctx, fmt.Sprintf("p99 at %.0f/s", half), func(ctx context.Context) (m measured, err error) {
		if err := w.pause(); err != nil {
			return m, err
		}
		defer func() { err = errors.Join(err, w.resume()) }()
		r, used, err := b.lab.open(ctx, w, []int{b.lab.echoPort}, g.bodies(), half, b.opts.round)
		if err != nil {
			return m, err
		}
		base50 = append(base50, percentile(r.latencies, 0.5))
		return p99(r, measured{good: r.good, used: used, took: r.took})
	}, func(ctx context.Context) (measured, error) {
		if g, err = w.sale(ctx, maxStock); err != nil {
			return measured{}, err
		}
		r, m, err := b.lab.openReservations(ctx, w, []int{b.lab.servicePort}, g, half, b.opts.round)
		if err != nil {
			return m, err
		}
		p50 = append(p50, percentile(r.latencies, 0.5))
		return p99(r, m)
	})
	if err != nil {
		return nil, err
	}
	f := compare(fmt.Sprintf("p99 at half of the best rate (%s/s)", number(half)), "ms, open loop",
		"the echo's p99 at the same rate; times run from the moment a request was due", bases, ms, rate)
	f.Notes = append(f.Notes, fmt.Sprintf("p50 %s ms, echo %s ms; the generator sent %s ms late at its p99, at the worst", number(median(p50)), number(median(base50)), number(newSeries(late).Max)))
	return []Figure{f.atMost(5)}, nil
}

// costParts are what figures 6 and 7 add up.
func engineCost(m measured) float64 { return m.cost("service", "PostgreSQL", "Redis") }

// instances is figure 7.
func (b *bench) instances(ctx context.Context) ([]Figure, error) {
	best, err := b.bestRate(ctx)
	if err != nil {
		return nil, err
	}
	w, half := b.shop, best/2
	defer w.stopFrom(1)
	rounds := map[int][]measured{}
	one := func(n int) error {
		if n < len(w.instances) {
			w.stopFrom(n)
		}
		for len(w.instances) < n {
			if _, err := w.start(ctx, 0); err != nil {
				return err
			}
		}
		g, err := w.sale(ctx, maxStock)
		if err != nil {
			return err
		}
		if err := b.lab.checkpoint(ctx); err != nil {
			return err
		}
		var ports []int
		for _, i := range w.instances {
			ports = append(ports, i.port)
		}
		b.lab.say.step("%d instances at %.0f/s in all: %d of %d", n, half, len(rounds[n])+1, b.opts.repeats)
		if _, _, err := b.lab.openReservations(ctx, w, ports, g, half, b.opts.round/4); err != nil { // a new process has everything to load
			return err
		}
		_, m, err := b.lab.openReservations(ctx, w, ports, g, half, b.opts.round)
		if err == nil && m.refused > 0 {
			err = fmt.Errorf("%d instances: %d requests were not answered with 201", n, m.refused)
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
	var figures []Figure
	for _, n := range []int{2, 4} {
		f := compare(fmt.Sprintf("cost with %d instances at %s/s in all", n, number(half)), "CPU µs per reservation: service, PostgreSQL, Redis",
			"one instance at the same load, open loop", rounds[1], rounds[n], engineCost)
		figures = append(figures, f.atMost(1.2))
	}
	return figures, nil
}

// memory is figure 8.
func (b *bench) memory(ctx context.Context) ([]Figure, error) {
	w, err := b.opened(ctx)
	if err != nil {
		return nil, err
	}
	t, err := b.lab.newTakeBench(ctx)
	if err != nil {
		return nil, err
	}
	defer t.close()
	var pending, known []float64
	for range b.opts.repeats {
		b.lab.say.step("memory of %d pending takes", b.opts.pending)
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
	figures := []Figure{
		{Name: "memory of a pending take in Redis", Unit: "bytes", Value: newSeries(pending), Notes: []string{fmt.Sprintf("used_memory over %d takes of as many shoppers; given back when settled", b.opts.pending)}},
		{Name: "memory of a shopper who has units, in Redis", Unit: "bytes", Value: newSeries(known), Notes: []string{"what stays after the take is settled: the per-shopper count"}},
	}
	f, err := b.holdMemory(ctx, w)
	return append(figures, f), err
}

// holdMemory compares the anonymous memory of a new process before and after holds that stay live.
func (b *bench) holdMemory(ctx context.Context, w *world) (Figure, error) {
	i, err := w.start(ctx, 0)
	if err != nil {
		return Figure{}, err
	}
	defer w.stopFrom(len(w.instances) - 1)
	g, err := w.sale(ctx, maxStock)
	if err != nil {
		return Figure{}, err
	}
	f := Figure{Name: "memory of a live hold in the service", Unit: "bytes", Stock: &Stock{}}
	var last int64
	var grown []float64
	holds := int64(0)
	for n := range b.opts.repeats + 2 {
		b.lab.say.step("memory of live holds: round %d", n+1)
		m, err := b.lab.reservations(ctx, w, i.port, g, g.bodies(), b.opts.round)
		if err != nil {
			return f, err
		}
		f.Stock.add(m.stock)
		if err := rest(ctx, 2*time.Second); err != nil {
			return f, err
		}
		now, err := residentAnon(i.pid())
		if err != nil {
			return f, err
		}
		if n >= 2 { // by then the caches, which are bounded, are as large as they get
			grown = append(grown, float64(now-last)/float64(m.good))
		}
		last, holds = now, holds+m.stock.Reserved
	}
	f.Value = newSeries(grown)
	f.Notes = append(f.Notes, fmt.Sprintf("growth of RssAnon per hold from round to round; at the end %s MB with %s live holds", number(float64(last)/(1<<20)), thousands(holds)))
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
func (b *bench) rejects(ctx context.Context) ([]Figure, error) {
	w, err := b.opened(ctx)
	if err != nil {
		return nil, err
	}
	const stock = 16
	b.lab.say.step("rejects: selling %d units out", stock)
	g, err := w.sale(ctx, stock)
	if err != nil {
		return nil, err
	}
	if err := b.sellOut(ctx, w, g, stock); err != nil {
		return nil, err
	}
	before, err := w.settled(ctx, g)
	if err != nil {
		return nil, err
	}
	b.lab.say.step("rejects: waiting for PostgreSQL's counters")
	if err := rest(ctx, countersLate); err != nil { // or the sell-out's own would be told during the rejects
		return nil, err
	}
	commits, err := b.commits(ctx, w)
	if err != nil {
		return nil, err
	}
	began, paused := time.Now(), time.Duration(0)
	bases, ms, err := b.interleave(ctx, "rejects", func(ctx context.Context) (measured, error) {
		m, err := b.lab.echoes(ctx, w, b.lab.echoPort, g.bodies(), b.opts.round)
		paused += m.took
		return m, err
	}, func(ctx context.Context) (measured, error) {
		m, err := b.lab.wrk(ctx, w, b.lab.servicePort, g.bodies(), b.opts.round)
		if err == nil && (m.good > 0 || m.failed > 0 || m.refused == 0) {
			err = fmt.Errorf("a sold-out sale answered %d successes, %d refusals, %d failures", m.good, m.refused, m.failed)
		}
		m.good, m.rate, m.refused = m.refused, m.answers, 0
		return m, err
	})
	if err != nil {
		return nil, err
	}
	if err := b.refusedRight(ctx, w, g); err != nil {
		return nil, err
	}
	f := compare("rejects of a sold-out sale", "rejects/s", "the echo", bases, ms, rate)
	after, err := w.settled(ctx, g)
	if err != nil {
		return nil, err
	}
	s := stockOf(0, before, after)
	f.Stock = &s
	extra, err := b.extraCommits(ctx, w, commits, began, paused)
	if err != nil {
		return nil, err
	}
	var rejected int64
	for _, m := range ms {
		rejected += m.good
	}
	per := newSeries([]float64{max(0, extra) / float64(rejected)})
	touch := Figure{
		Name: "PostgreSQL commits per reject", Unit: "beyond those of an idle service", Value: per, Ratio: &per,
		Notes: []string{fmt.Sprintf("%.0f commits beyond the idle service's, over %s rejects", extra, thousands(rejected))},
	}
	return []Figure{f, touch.atMost(0.001)}, nil
}

// commits counts the transactions in the world's databases. Reading them is one in another database.
func (b *bench) commits(ctx context.Context, w *world) (int64, error) {
	var n int64
	err := w.books.QueryRow(ctx, `SELECT sum(xact_commit)::bigint FROM pg_stat_database WHERE datname LIKE $1`, w.name+"\\_%").Scan(&n)
	return n, err
}

// countersLate is how long PostgreSQL's processes may keep their commits to themselves.
const countersLate = 11 * time.Second

// extraCommits returns the commits since a count, without those that the service makes when idle.
func (b *bench) extraCommits(ctx context.Context, w *world, since int64, began time.Time, paused time.Duration) (float64, error) {
	b.lab.say.step("rejects: waiting for PostgreSQL's counters")
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
func (b *bench) sellOut(ctx context.Context, w *world, g goods, units int) error {
	base := w.instances[0].base() + "/api/v1"
	var wg sync.WaitGroup
	errs := make([]error, units)
	for i := range units {
		wg.Go(func() {
			who := map[string]any{"email": id.New(time.Now()).String() + "@example.com", "password": b.lab.password}
			var login struct {
				Token string `json:"access_token"`
			}
			if errs[i] = errors.Join(post(ctx, base+"/auth/register", "", who, nil), post(ctx, base+"/auth/login", "", who, &login)); errs[i] != nil {
				return
			}
			token := login.Token
			var r struct {
				Order string `json:"order_id"`
			}
			body := map[string]any{"sale_id": g.items[0].sale, "sku": g.items[0].sku, "quantity": 1}
			if errs[i] = post(ctx, base+"/reservations", token, body, &r); errs[i] == nil {
				errs[i] = post(ctx, base+"/orders/"+r.Order+"/payments", token, map[string]any{"method": "tok_ok"}, nil)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// refusedRight checks what wrk cannot see: that the refusals say "sold out".
func (b *bench) refusedRight(ctx context.Context, w *world, g goods) error {
	t, err := b.lab.signer()
	if err != nil {
		return err
	}
	for range 100 {
		token, _, err := t.Sign(id.New(time.Now()), account.Shopper)
		if err != nil {
			return err
		}
		status, answer, err := call(ctx, http.MethodPost, w.instances[0].base()+"/api/v1/reservations", token,
			map[string]string{"Idempotency-Key": id.New(time.Now()).String()}, []byte(g.bodies()[0]))
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
func (b *bench) scale(ctx context.Context) ([]Figure, error) {
	if b.shop != nil {
		if err := b.shop.pause(); err != nil {
			return nil, err
		}
	}
	l := b.lab
	small, err := l.newWorld(ctx, "small", b.shards())
	if err != nil {
		return nil, err
	}
	if _, err := small.start(ctx, 0); err != nil {
		return nil, err
	}
	one, err := small.sale(ctx, maxStock)
	if err != nil {
		return nil, err
	}
	large, err := l.newWorld(ctx, "large", b.shards())
	if err != nil {
		return nil, err
	}
	large.roles = "inventory" // the past buyers have no payments
	if err := l.fillBuyers(ctx, large, b.opts.buyers); err != nil {
		return nil, fmt.Errorf("past buyers: %w", err)
	}
	if err := small.pause(); err != nil {
		return nil, err
	}
	if _, err := large.start(ctx, 0); err != nil {
		return nil, err
	}
	many, err := large.manySales(ctx, b.opts.items)
	if err != nil {
		return nil, fmt.Errorf("%d sale items: %w", b.opts.items, err)
	}
	if err := large.pause(); err != nil {
		return nil, err
	}
	round := func(w *world, g goods, bodies []string) (m measured, err error) {
		if err := errors.Join(l.checkpoint(ctx), w.resume(), rest(ctx, time.Second/2)); err != nil {
			return m, err
		}
		defer func() { err = errors.Join(err, w.pause()) }()
		return l.reservations(ctx, w, w.instances[0].port, g, bodies, b.opts.round)
	}
	var bases, all, hot []measured
	n := -1 // the first time round is the warm-up
	for ; n < b.opts.repeats; n++ {
		l.say.step("scale: round %d of %d", n+1, b.opts.repeats)
		m1, err := round(small, one, one.bodies())
		if err != nil {
			return nil, fmt.Errorf("1 item: %w", err)
		}
		if n >= 0 {
			bases = append(bases, m1)
		}
		m2, err := round(large, many, many.bodies())
		if err != nil {
			return nil, fmt.Errorf("%d items: %w", b.opts.items, err)
		}
		m3, err := round(large, many, many.bodies()[:1])
		if err != nil {
			return nil, fmt.Errorf("one of %d items: %w", b.opts.items, err)
		}
		if n >= 0 {
			all, hot = append(all, m2), append(hot, m3)
		}
	}
	m, err := round(small, one, one.bodies())
	if err != nil {
		return nil, err
	}
	bases = append(bases, m)
	for _, w := range []*world{small, large} {
		if err := w.resume(); err != nil {
			return nil, err
		}
		w.stopFrom(0)
	}
	what := fmt.Sprintf("%s items, %s past buyers", thousands(int64(b.opts.items)), thousands(int64(b.opts.buyers)))
	const against = "1 item and no past buyers, each in databases of its own on the same servers, wrk -t2 -c200"
	const unit = "CPU µs per reservation: service, PostgreSQL, Redis"
	var figures []Figure
	for _, v := range []struct {
		how string
		ms  []measured
	}{{"requests for all of them", all}, {"requests for one of them", hot}} {
		cost := compare("cost at "+what+", "+v.how, unit, against, bases, v.ms, engineCost)
		speed := compare("speed at "+what+", "+v.how, "durable reservations/s", against, bases, v.ms, rate)
		speed.CPU, speed.Stock = nil, cost.Stock
		figures = append(figures, cost.atMost(1.15), speed.atLeast(math.Round(100/1.15)/100))
	}
	return figures, nil
}
