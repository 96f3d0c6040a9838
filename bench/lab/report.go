package lab

import (
	"encoding/json"
	"flashsale/audit"
	"flashsale/bench/testbed"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// The verdicts.
const (
	met         = "met"
	missed      = "missed"
	stated      = "stated" // there is no target
	notMeasured = "not measured"
)

// Figure is one line of the table.
type Figure struct {
	Group    string  `json:"group"` // the name for --only
	Name     string  `json:"name"`
	Unit     string  `json:"unit"`
	Value    Series  `json:"value"`
	Against  string  `json:"against,omitempty"`
	Baseline *Series `json:"baseline,omitempty"`
	Ratio    *Series `json:"ratio,omitempty"`
	// Target bounds the ratio's median: AtMost or at least this much. Zero for none.
	Target  float64 `json:"target,omitempty"`
	AtMost  bool    `json:"at_most,omitempty"`
	Verdict string  `json:"verdict"`
	Stock   *Stock  `json:"stock,omitempty"`
	// CPU is the time per good answer of each part, µs; "all" is the whole machine's.
	CPU     map[string]float64 `json:"cpu_us,omitempty"`
	Outside float64            `json:"outside_cores"` // cores that others were using meanwhile, at the worst
	Notes   []string           `json:"notes,omitempty"`
	Error   string             `json:"error,omitempty"`
}

// Judge fills in the verdict.
func (f *Figure) Judge() {
	switch {
	case f.Error != "":
		f.Verdict = notMeasured
	case f.Target == 0 || f.Ratio == nil:
		f.Verdict = stated
	case f.AtMost == (f.Ratio.Median <= f.Target) || f.Ratio.Median == f.Target:
		f.Verdict = met
	default:
		f.Verdict = missed
	}
}

// Audited is what an audit said of a shop.
type Audited struct {
	Name   string        `json:"name"`
	Clean  bool          `json:"clean"`
	Checks []audit.Check `json:"checks"`
	Error  string        `json:"error,omitempty"`
}

// Report is everything that a run has found.
type Report struct {
	Commit   string            `json:"commit"`
	Modified bool              `json:"modified"` // the checkout had changes that are in no commit
	Machine  map[string]string `json:"machine"`
	Versions []string          `json:"versions"`
	Settings []string          `json:"settings"`
	Short    bool              `json:"short"`
	Seconds  float64           `json:"seconds"`
	Figures  []Figure          `json:"figures"`
	// Interrupted says why the run ended early: figures are missing, and audits too.
	Interrupted string    `json:"interrupted,omitempty"`
	Audits      []Audited `json:"audits"`
}

// sound reports whether everything was measured and nothing oversold, stranded or lost.
func (r Report) sound() bool {
	if r.Interrupted != "" {
		return false
	}
	for _, f := range r.Figures {
		if f.Error != "" || f.Stock != nil && !f.Stock.clean() {
			return false
		}
	}
	for _, w := range r.Audits {
		if !w.Clean {
			return false
		}
	}
	return true
}

func (r Report) allMet() bool {
	return !slices.ContainsFunc(r.Figures, func(f Figure) bool { return f.Verdict == missed })
}

func (r Report) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

func spread(s *Series) string {
	if s == nil || len(s.Runs) == 0 {
		return ""
	}
	if len(s.Runs) == 1 {
		return testbed.Number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", testbed.Number(s.Median), testbed.Number(s.Min), testbed.Number(s.Max))
}

func (f Figure) bound() string {
	switch {
	case f.Target == 0:
		return "–"
	case f.AtMost:
		return "≤ " + testbed.Number(f.Target)
	}
	return "≥ " + testbed.Number(f.Target)
}

// print writes the report for a person.
func (r Report) print(out io.Writer) {
	commit := r.Commit
	if r.Modified {
		commit += " with changes that are not committed"
	}
	fmt.Fprintf(out, "\ncommit   %s\n", commit)
	for _, k := range slices.Sorted(maps.Keys(r.Machine)) {
		fmt.Fprintf(out, "%-8s %s\n", k, r.Machine[k])
	}
	fmt.Fprintf(out, "versions %s\n", strings.Join(r.Versions, "\n         "))
	fmt.Fprintf(out, "settings %s\n\n", strings.Join(r.Settings, "\n         "))

	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "figure\tvalue (spread)\tbaseline (spread)\tratio (spread)\ttarget\tverdict\treserved\toversold\tstranded\tlost")
	for _, f := range r.Figures {
		stock := "\t\t\t"
		if s := f.Stock; s != nil {
			stock = fmt.Sprintf("%s\t%d\t%d\t%d", testbed.Thousands(s.Reserved), s.Oversold, s.Stranded, s.Lost)
		}
		name := f.Name
		if f.Unit != "" {
			name += ", " + f.Unit
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, spread(&f.Value), spread(f.Baseline), spread(f.Ratio), f.bound(), f.Verdict, stock)
	}
	_ = w.Flush()
	r.printCPU(out)
	fmt.Fprintln(out)
	for _, f := range r.Figures {
		if f.Against != "" {
			fmt.Fprintf(out, "%s: against %s\n", f.Name, f.Against)
		}
		for _, n := range f.Notes {
			fmt.Fprintf(out, "    %s\n", n)
		}
		if f.Outside > 0.15 {
			fmt.Fprintf(out, "    others on this machine used up to %.2f cores meanwhile\n", f.Outside)
		}
		if f.Error != "" {
			fmt.Fprintf(out, "%s: NOT MEASURED: %s\n", f.Name, f.Error)
		}
	}
	fmt.Fprintln(out)
	for _, a := range r.Audits {
		verdict := "clean"
		if !a.Clean {
			verdict = "NOT CLEAN"
		}
		fmt.Fprintf(out, "audit of %s: %s, %d checks\n", a.Name, verdict, len(a.Checks))
		if a.Error != "" {
			fmt.Fprintf(out, "    %s\n", a.Error)
		}
		for _, c := range a.Checks {
			if !c.OK {
				fmt.Fprintf(out, "    FAIL %d. %s: %s\n", c.Equation, c.Name, c.Figures)
			}
		}
	}
	if r.Interrupted != "" {
		fmt.Fprintf(out, "INTERRUPTED, figures and audits are missing: %s\n", r.Interrupted)
	}
	fmt.Fprintf(out, "took %.0f s\n", r.Seconds)
}

// printCPU writes what an answer costs each part.
func (r Report) printCPU(out io.Writer) {
	columns := []string{"service", "PostgreSQL", "Redis", "RabbitMQ", "nginx", "echo", "wrk", Machine}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\nCPU µs per good answer\t%s\t\n", strings.Join(columns, "\t"))
	rows := 0
	for _, f := range r.Figures {
		if len(f.CPU) == 0 {
			continue
		}
		rows++
		fmt.Fprintf(w, "%s\t", f.Name)
		for _, c := range columns {
			cell := "–"
			if v, ok := f.CPU[c]; ok && v >= 0.05 {
				cell = testbed.Number(v)
			}
			fmt.Fprintf(w, "%s\t", cell)
		}
		fmt.Fprintln(w)
	}
	if rows > 0 {
		_ = w.Flush()
	}
}
