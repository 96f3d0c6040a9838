// Package ab compares the synchronous and the asynchronous wiring on one machine: it brings each up,
// sends the checkout journey through nginx with k6, and writes one report.
package ab

import (
	"encoding/json"
	"flashsale/audit"
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// The two sides of a comparison: the wirings, or with Settings.Against whatever runs at the first and the second address.
const (
	Sync   = "sync"
	Async  = "async"
	First  = "A"
	Second = "B"
)

// Latency is how long something took, in milliseconds.
type Latency struct {
	Count   float64 `json:"count"`
	Average float64 `json:"avg_ms"`
	P90     float64 `json:"p90_ms"`
	P95     float64 `json:"p95_ms"`
	P99     float64 `json:"p99_ms"`
	Max     float64 `json:"max_ms"`
}

// Use is what a service used of the machine during a run: all its instances together.
type Use struct {
	Cores  float64 `json:"cores"`        // on average
	Memory float64 `json:"memory_bytes"` // at most
}

// Stock is what became of the units on sale, in one run.
type Stock struct {
	Acknowledged int64 `json:"acknowledged"` // reservations that shoppers were told they have
	Sold         int64 `json:"sold"`         // by the ledger
	Held         int64 `json:"held"`         // of shoppers whose journey the end of the run cut off
	Oversold     int64 `json:"oversold"`
	Stranded     int64 `json:"stranded"` // neither sold nor held nor to be bought
	Lost         int64 `json:"lost"`     // acknowledged or confirmed, and not there when looked up
}

func (s Stock) clean() bool { return s.Oversold == 0 && s.Stranded == 0 && s.Lost == 0 }

// Run is one run of k6 with a number of virtual users.
type Run struct {
	System     string             `json:"system"`
	Users      int                `json:"virtual_users"`
	Began      time.Time          `json:"began"`
	Seconds    float64            `json:"seconds"`
	Requests   float64            `json:"requests"`
	Journeys   float64            `json:"journeys"`
	All        Latency            `json:"all"`
	Journey    Latency            `json:"journey"`
	Steps      map[string]Latency `json:"steps"`
	Decision   Latency            `json:"time_to_decision"`
	Confirm    Latency            `json:"time_to_confirmation"`
	Failed     float64            `json:"failed_share"` // of the requests, 0 to 1
	Unexpected float64            `json:"unexpected_answers"`
	SoldOut    float64            `json:"told_sold_out"`
	Use        map[string]Use     `json:"use,omitempty"`
	Outside    float64            `json:"outside_cores"` // used by what is no part of the benchmark
	Stock      Stock              `json:"stock"`
	Audit      []audit.Check      `json:"audit,omitempty"`
}

// Sustained is what the ladder of arrival rates found.
type Sustained struct {
	System string  `json:"system"`
	Rate   float64 `json:"reservations_per_second"` // the highest step that held, 0 for none
	P95    float64 `json:"p95_ms"`                  // of reserve, at this rate
	Steps  []Step  `json:"steps"`
}

// Step is one arrival rate of the ladder.
type Step struct {
	Rate    float64 `json:"rate"`
	P95     float64 `json:"p95_ms"`
	Dropped float64 `json:"dropped"` // arrivals for which no virtual user was free
	Failed  float64 `json:"failed_share"`
}

// Storm is what a login storm does to the sale: reservations at a rate, without and with it.
type Storm struct {
	System   string  `json:"system"`
	Rate     float64 `json:"reservations_per_second"`
	Quiet    Latency `json:"reserve_quiet"`
	Stormed  Latency `json:"reserve_stormed"`
	Logins   float64 `json:"logins_per_second"` // that were answered with tokens
	Busy     float64 `json:"told_busy"`         // logins that were turned away
	HashCost float64 `json:"login_cpu_ms"`      // CPU time of the account service per login
}

// Report is everything that a comparison has found.
type Report struct {
	Version     int               `json:"version"` // of this format
	Began       time.Time         `json:"began"`
	Commit      string            `json:"commit"`
	Modified    bool              `json:"modified"` // the checkout had changes that are in no commit
	Machine     map[string]string `json:"machine"`
	Versions    []string          `json:"versions"`
	Notes       []string          `json:"notes"`
	Systems     []string          `json:"systems"` // the two sides, in order
	Short       bool              `json:"short"`
	Runs        []Run             `json:"runs"`
	Echo        []Run             `json:"echo"`
	Sustained   []Sustained       `json:"sustained,omitempty"`
	Storms      []Storm           `json:"login_storms,omitempty"`
	Seconds     float64           `json:"seconds"`
	Interrupted string            `json:"interrupted,omitempty"` // why figures are missing
}

const format = 1

// Read reads a report that was written as JSON.
func Read(r io.Reader) (*Report, error) {
	var out Report
	dec := json.NewDecoder(r)
	if err := dec.Decode(&out); err != nil {
		return nil, fmt.Errorf("not a report of flashsale bench ab: %w", err)
	}
	if out.Version != format || len(out.Systems) != 2 {
		return nil, fmt.Errorf("a report of version %d with %d systems; this program reads version %d with two: make it anew with flashsale bench ab", out.Version, len(out.Systems), format)
	}
	return &out, nil
}

// WriteJSON writes the report as JSON.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// runs returns the measured runs of a system at a load.
func (r *Report) runs(system string, users int) []Run {
	var out []Run
	for _, v := range r.Runs {
		if v.System == system && v.Users == users {
			out = append(out, v)
		}
	}
	return out
}

func (r *Report) echoes(users int) []Run {
	var out []Run
	for _, v := range r.Echo {
		if v.Users == users {
			out = append(out, v)
		}
	}
	return out
}

// loads lists the numbers of virtual users, ascending.
func (r *Report) loads() []int {
	var out []int
	for _, v := range r.Runs {
		if !slices.Contains(out, v.Users) {
			out = append(out, v.Users)
		}
	}
	slices.Sort(out)
	return out
}

// services lists whose CPU and memory was read.
func (r *Report) services() []string {
	var out []string
	for _, v := range r.Runs {
		for name := range v.Use {
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return out
}

// Sound returns what is wrong with what was measured: anything oversold, stranded or lost, an audit
// that does not balance, an unexpected answer. Empty when nothing is.
func (r *Report) Sound() []string {
	var wrong []string
	for _, v := range r.Runs {
		name := fmt.Sprintf("%s with %d virtual users, %s", v.System, v.Users, v.Began.Format(time.TimeOnly))
		if !v.Stock.clean() {
			wrong = append(wrong, fmt.Sprintf("%s: oversold %d, stranded %d, lost %d", name, v.Stock.Oversold, v.Stock.Stranded, v.Stock.Lost))
		}
		if v.Failed > 0 || v.Unexpected > 0 {
			wrong = append(wrong, fmt.Sprintf("%s: %.4f %% of the requests failed, %.0f answers were unexpected", name, 100*v.Failed, v.Unexpected))
		}
		if len(v.Audit) == 0 {
			wrong = append(wrong, name+": was not audited")
		}
		for _, c := range v.Audit {
			if !c.OK {
				wrong = append(wrong, fmt.Sprintf("%s: audit %d, %s: %s", name, c.Equation, c.Name, c.Figures))
			}
		}
	}
	if r.Interrupted != "" {
		wrong = append(wrong, "figures are missing: "+r.Interrupted)
	}
	return wrong
}

// Series are the runs of one figure: their median, and from where to where they spread.
type Series struct{ Median, Min, Max float64 }

func series(values []float64) Series {
	if len(values) == 0 {
		return Series{math.NaN(), math.NaN(), math.NaN()}
	}
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	m := s[n/2]
	if n%2 == 0 {
		m = (s[n/2-1] + s[n/2]) / 2
	}
	return Series{Median: m, Min: s[0], Max: s[n-1]}
}

func (s Series) known() bool { return !math.IsNaN(s.Median) }

// overlaps reports whether the spreads have something in common: then the order of the medians may be chance.
func (s Series) overlaps(o Series) bool { return s.Min <= o.Max && o.Min <= s.Max }
