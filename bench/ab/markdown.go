package ab

import (
	"flashsale/bench/testbed"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Markdown writes the report for people.
func (r *Report) Markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s or %s?\n\n", r.Systems[0], r.Systems[1])
	commit := r.Commit[:min(len(r.Commit), 12)]
	if r.Modified {
		commit += " with changes that are not committed"
	}
	fmt.Fprintf(&b, "%s, commit %s, took %.0f minutes. Medians; in brackets the lowest and the highest run.\n", r.Began.Format("2 January 2006 15:04 MST"), commit, r.Seconds/60)
	if r.Short {
		b.WriteString("\n**A trial: too short for figures of record.**\n")
	}
	if r.Interrupted != "" {
		fmt.Fprintf(&b, "\n**Interrupted, figures are missing: %s**\n", r.Interrupted)
	}
	b.WriteString("\n## Targets\n\n| target | wiring | wanted | reached | | |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, t := range r.targets() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", t.name, t.system, t.want, strings.TrimSpace(t.got), t.verdict, t.baseline)
	}
	for _, users := range r.loads() {
		fmt.Fprintf(&b, "\n## %d virtual users\n\n| | %s | %s | winner |\n| --- | ---: | ---: | --- |\n", users, r.Systems[0], r.Systems[1])
		for _, row := range r.rows(users) {
			fmt.Fprintf(&b, "| %s, %s | %s | %s | %s |\n", row.figure.name, row.figure.unit, spread(row.side[0]), spread(row.side[1]), row.winner)
		}
		if e := r.echoLine(users); e != "" {
			fmt.Fprintf(&b, "\n%s\n", e)
		}
	}
	b.WriteString("\n## What became of the units\n\n| wiring | virtual users | acknowledged | sold | held at the end | oversold | stranded | lost | audit | used by others, cores |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |\n")
	for _, v := range r.Runs {
		verdict := fmt.Sprintf("%d checks hold", len(v.Audit))
		for _, c := range v.Audit {
			if !c.OK {
				verdict = "FAILED: " + c.Name
				break
			}
		}
		if len(v.Audit) == 0 {
			verdict = "NOT MADE"
		}
		fmt.Fprintf(&b, "| %s | %d | %s | %s | %d | %d | %d | %d | %s | %.2f |\n", v.System, v.Users, testbed.Thousands(v.Stock.Acknowledged), testbed.Thousands(v.Stock.Sold), v.Stock.Held,
			v.Stock.Oversold, v.Stock.Stranded, v.Stock.Lost, verdict, v.Outside)
	}
	b.WriteString("\nSold and held are the ledger's, after all that was on its way had arrived. Lost: a reservation or a confirmed order that a shopper was told of, by the journey's own log, and that is not there when the shopper lists their orders.\n")
	r.markdownExtras(&b)
	b.WriteString("\n## How\n\n")
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "- %s\n", n)
	}
	b.WriteString("\nThe machine: ")
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(r.Machine)) {
		parts = append(parts, k+" "+r.Machine[k])
	}
	fmt.Fprintf(&b, "%s. It ran k6 too.\n\nVersions: %s.\n", strings.Join(parts, ", "), strings.Join(r.Versions, "; "))
	_, err := io.WriteString(w, b.String())
	return err
}

// echoLine says what the same k6 reached at the echo, or nothing when it was not asked.
func (r *Report) echoLine(users int) string {
	e := r.echoes(users)
	if len(e) == 0 {
		return ""
	}
	of := func(f func(Run) float64) string { return spread(figure{get: always(f)}.of(e)) }
	return fmt.Sprintf("The echo behind the same nginx, same k6: %s requests/s, average %s ms, P95 %s ms.",
		of(func(v Run) float64 { return v.Requests / v.Seconds }), of(func(v Run) float64 { return v.All.Average }), of(func(v Run) float64 { return v.All.P95 }))
}

const (
	ratesText = "Reservations arrive at a rate, whether or not the answers keep up. A rate holds when P95 stays under 100 ms and no arrival is dropped or fails."
	stormText = "A login costs a password hash (argon2id, 19 MiB, two passes), on purpose. The account service makes a bounded number at a time, in processes of their own and of low priority, and turns away who would wait for more than five seconds."
)

// rates and storms are the lines of the report's tables of these names.
func (r *Report) rates() (out [][]string) {
	for _, s := range r.Sustained {
		for _, step := range s.Steps {
			holds := "no"
			if step.holds() {
				holds = "yes"
			}
			out = append(out, []string{s.System, testbed.Number(step.Rate), testbed.Number(step.P95), fmt.Sprintf("%.0f", step.Dropped), fmt.Sprintf("%.2f", 100*step.Failed), holds})
		}
	}
	return out
}

func (r *Report) storms() (out [][]string) {
	for _, s := range r.Storms {
		cost := "–"
		if s.HashCost > 0 {
			cost = testbed.Number(s.HashCost)
		}
		out = append(out, []string{s.System, testbed.Number(s.Rate), testbed.Number(s.Quiet.P95), testbed.Number(s.Stormed.P95), testbed.Number(s.Logins), fmt.Sprintf("%.0f", s.Busy), cost})
	}
	return out
}

func (r *Report) markdownExtras(b *strings.Builder) {
	table := func(title, text, head string, rows [][]string) {
		if len(rows) == 0 {
			return
		}
		fmt.Fprintf(b, "\n## %s\n\n%s\n\n%s\n", title, text, head)
		for _, row := range rows {
			fmt.Fprintf(b, "| %s |\n", strings.Join(row, " | "))
		}
	}
	table("Arrival rates", ratesText, "| wiring | arrivals/s | P95, ms | dropped | failed, % | holds |\n| --- | ---: | ---: | ---: | ---: | --- |", r.rates())
	table("A login storm", stormText, "| wiring | reservations/s | P95 of reserve alone, ms | P95 in the storm, ms | logins/s | turned away | CPU of a login, ms |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |", r.storms())
}

// Comparison writes two reports side by side, each wiring against itself: what has changed from one to the other.
func Comparison(w io.Writer, a, b *Report, nameA, nameB string) error {
	var out strings.Builder
	for _, users := range a.loads() {
		for i, side := range a.Systems {
			if len(b.runs(b.Systems[i], users)) == 0 {
				continue
			}
			fmt.Fprintf(&out, "\n%s, %d virtual users\n\n| | %s | %s | change | better |\n| --- | ---: | ---: | ---: | --- |\n", side, users, nameA, nameB)
			for _, f := range figures(a.services()) {
				x, y := f.of(a.runs(side, users)), f.of(b.runs(b.Systems[i], users))
				if !x.known() || !y.known() {
					continue
				}
				change := "–"
				if x.Median != 0 {
					change = fmt.Sprintf("%+.1f %%", 100*(y.Median/x.Median-1))
				}
				fmt.Fprintf(&out, "| %s, %s | %s | %s | %s | %s |\n", f.name, f.unit, spread(x), spread(y), change, f.decide([]string{nameA, nameB}, x, y))
			}
		}
	}
	if out.Len() == 0 {
		return fmt.Errorf("the reports have no load in common: %v and %v virtual users", a.loads(), b.loads())
	}
	_, err := fmt.Fprintf(w, "%s: %s, commit %.12s\n%s: %s, commit %.12s\n%s", nameA, a.Began.Format(time.DateTime), a.Commit, nameB, b.Began.Format(time.DateTime), b.Commit, out.String())
	return err
}
