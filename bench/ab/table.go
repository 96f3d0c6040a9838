package ab

import (
	"flashsale/bench/testbed"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// better says which of two values is preferred.
type better int

const (
	lower better = iota
	higher
	neither // it is told, and nobody wins
)

// figure is one line of the comparison. get returns false when a run does not have it.
type figure struct {
	name, unit string
	better     better
	get        func(Run) (float64, bool)
}

func always(get func(Run) float64) func(Run) (float64, bool) {
	return func(r Run) (float64, bool) { return get(r), true }
}

// journeySteps are the requests of the journey, in their order.
func journeySteps() []string {
	return []string{"login", "create cart", "fetch product", "add item", "reserve", "pay", "confirm"}
}

// figures lists the lines of the comparison.
func figures(services []string) []figure {
	perSecond := func(n func(Run) float64) func(Run) (float64, bool) {
		return func(r Run) (float64, bool) { return n(r) / r.Seconds, r.Seconds > 0 }
	}
	out := []figure{
		{"throughput", "requests/s", higher, perSecond(func(r Run) float64 { return r.Requests })},
		{"journeys", "1/s", higher, perSecond(func(r Run) float64 { return r.Journeys })},
		{"reservations, accepted and durable", "1/s", higher, perSecond(func(r Run) float64 { return float64(r.Stock.Acknowledged) })},
		{"failed", "%", lower, always(func(r Run) float64 { return 100 * r.Failed })},
		{"average", "ms", lower, always(func(r Run) float64 { return r.All.Average })},
		{"P90", "ms", lower, always(func(r Run) float64 { return r.All.P90 })},
		{"P95", "ms", lower, always(func(r Run) float64 { return r.All.P95 })},
		{"P99", "ms", lower, always(func(r Run) float64 { return r.All.P99 })},
		{"time to decision, average", "ms", lower, always(func(r Run) float64 { return r.Decision.Average })},
		{"time to decision, P95", "ms", lower, always(func(r Run) float64 { return r.Decision.P95 })},
		{"time from paid to confirmed, P95", "ms", lower, always(func(r Run) float64 { return r.Confirm.P95 })},
		{"whole journey, average", "ms", lower, always(func(r Run) float64 { return r.Journey.Average })},
	}
	for _, step := range journeySteps() {
		out = append(out, figure{step + ", P95", "ms", lower, func(r Run) (float64, bool) { l, ok := r.Steps[step]; return l.P95, ok && l.Count > 0 }})
	}
	if len(services) == 0 {
		return out
	}
	out = append(out,
		figure{"CPU, all services and servers", "cores", lower, func(r Run) (float64, bool) { return sum(r.Use).Cores, len(r.Use) > 0 }},
		figure{"CPU per request", "µs", lower, func(r Run) (float64, bool) {
			return 1e6 * sum(r.Use).Cores * r.Seconds / r.Requests, len(r.Use) > 0 && r.Requests > 0
		}},
		figure{"memory, all services and servers", "MiB", lower, func(r Run) (float64, bool) { return sum(r.Use).Memory / (1 << 20), len(r.Use) > 0 }})
	for _, s := range services {
		b := lower
		if s == loadGenerator {
			b = neither
		}
		out = append(out, figure{"CPU of " + s, "cores", b, func(r Run) (float64, bool) { u, ok := r.Use[s]; return u.Cores, ok }})
	}
	for _, s := range services {
		if s != loadGenerator {
			out = append(out, figure{"memory of " + s, "MiB", lower, func(r Run) (float64, bool) { u, ok := r.Use[s]; return u.Memory / (1 << 20), ok }})
		}
	}
	return out
}

// loadGenerator is k6's name among the services: what it uses is told, and is not the system's.
const loadGenerator = "k6"

// sum adds up what the system used.
func sum(use map[string]Use) (all Use) {
	for _, name := range slices.Sorted(maps.Keys(use)) {
		if name != loadGenerator {
			all.Cores += use[name].Cores
			all.Memory += use[name].Memory
		}
	}
	return all
}

// row is a figure of both systems at one load.
type row struct {
	figure figure
	side   [2]Series
	winner string // a system, "tie", or "" when nobody can win
}

func (f figure) of(runs []Run) Series {
	var values []float64
	for _, r := range runs {
		if v, ok := f.get(r); ok && !math.IsNaN(v) && !math.IsInf(v, 0) {
			values = append(values, v)
		}
	}
	return series(values)
}

const tie = "tie"

// decide names the winner: the better median, when the runs of one side do not overlap those of the
// other. With overlap the difference may be chance, and is called a tie.
func (f figure) decide(names []string, a, b Series) string {
	switch {
	case f.better == neither || !a.known() || !b.known():
		return ""
	case a.overlaps(b):
		return tie
	case (a.Median < b.Median) == (f.better == lower):
		return names[0]
	}
	return names[1]
}

// rows compares the systems at a load.
func (r *Report) rows(users int) []row {
	var out []row
	for _, f := range figures(r.services()) {
		w := row{figure: f}
		for i, s := range r.Systems {
			w.side[i] = f.of(r.runs(s, users))
		}
		if !w.side[0].known() && !w.side[1].known() {
			continue
		}
		w.winner = f.decide(r.Systems, w.side[0], w.side[1])
		out = append(out, w)
	}
	return out
}

// target is one line of the table of targets.
type target struct {
	name     string
	system   string
	want     string
	got      string
	verdict  string // met, missed or not measured
	baseline string // where the bound comes from
}

// published is the comparison that this one is held against: 8 cores, two wirings of another shop.
type published struct{ throughput, average, p95, failed float64 }

func publishedFigures() map[string]map[int]published {
	return map[string]map[int]published{
		Sync:  {500: {107, 2200, 6900, 13.3}, 250: {114, 1600, 0, 0}},
		Async: {500: {137, 1200, 2400, 14.3}, 250: {153, 750, 0, 4.5}},
	}
}

// targets holds the report against what was asked for.
func (r *Report) targets() []target {
	var out []target
	add := func(system, name string, s Series, unit string, atMost bool, bound float64, why string) {
		t := target{name: name, system: system, baseline: why, verdict: "not measured", got: "–"}
		sign := "≥"
		if atMost {
			sign = "≤"
		}
		t.want = sign + " " + strings.TrimSpace(testbed.Number(bound)+" "+unit)
		if s.known() {
			t.got, t.verdict = spread(s)+" "+unit, "missed"
			if atMost && s.Median <= bound || !atMost && s.Median >= bound {
				t.verdict = "met"
			}
		}
		out = append(out, t)
	}
	for _, users := range r.loads() {
		for _, system := range r.Systems {
			runs := r.runs(system, users)
			get := func(f func(Run) float64) Series { return figure{get: always(f)}.of(runs) }
			at := fmt.Sprintf(", %d virtual users", users)
			rate := get(func(v Run) float64 { return v.Requests / v.Seconds })
			worst := get(func(v Run) float64 { return 100 * v.Failed })
			worst.Median = worst.Max // not one run may have failures
			add(system, "failures"+at, worst, "%", true, 0, "the worst run counts")
			p, ok := publishedFigures()[system][users]
			if ok {
				add(system, "throughput"+at, rate, "requests/s", false, 20*p.throughput, fmt.Sprintf("20 × %.0f of the published comparison", p.throughput))
				if p.p95 > 0 {
					add(system, "P95"+at, get(func(v Run) float64 { return v.All.P95 }), "ms", true, p.p95/10, fmt.Sprintf("a tenth of %.1f s", p.p95/1000))
				} else {
					add(system, "P95"+at, get(func(v Run) float64 { return v.All.P95 }), "ms", true, p.average/10,
						fmt.Sprintf("no P95 was published: a tenth of the average, %.2f s", p.average/1000))
				}
				add(system, "average"+at, get(func(v Run) float64 { return v.All.Average }), "ms", true, p.average/10, fmt.Sprintf("a tenth of %.2f s", p.average/1000))
			}
			if echo := (figure{get: always(func(v Run) float64 { return v.Requests / v.Seconds })}).of(r.echoes(users)); echo.known() {
				share := rate
				share.Median, share.Min, share.Max = rate.Median/echo.Median, rate.Min/echo.Median, rate.Max/echo.Median
				add(system, "share of k6's rate against the echo"+at, share, "", false, 0.5, fmt.Sprintf("the echo answers %s requests/s in this run", testbed.Number(echo.Median)))
			}
		}
	}
	for _, s := range r.Sustained {
		t := target{name: "sustained arrival rate with P95 of reserve under 100 ms", system: s.System, want: "stated", verdict: "stated", baseline: "no drops, no failures"}
		t.got = fmt.Sprintf("%s reservations/s (P95 %s ms)", testbed.Number(s.Rate), testbed.Number(s.P95))
		if s.Rate == 0 {
			t.got = "none of the rates that were tried"
		}
		out = append(out, t)
	}
	return out
}

// spread writes the median and, when there is more than one value, from where to where the runs went.
func spread(s Series) string {
	if !s.known() || s.Min == s.Max {
		return testbed.Number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", testbed.Number(s.Median), testbed.Number(s.Min), testbed.Number(s.Max))
}
