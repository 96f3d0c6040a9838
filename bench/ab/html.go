package ab

import (
	_ "embed"
	"flashsale/bench/testbed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
)

//go:embed report.html
var page string

// HTML writes the report as one page with its plots inside: it needs nothing from anywhere.
func (r *Report) HTML(w io.Writer) error {
	t, err := template.New("report").Parse(page)
	if err != nil {
		return err
	}
	type load struct {
		Users int
		Rows  []htmlRow
		Plots []*bars
		Echo  string
	}
	data := struct {
		*Report
		Targets []htmlTarget
		Loads   []load
		Wrong   []string
		Ladder  *curves
		Rates   htmlTable
		Storm   htmlTable
		When    string
	}{Report: r, Wrong: r.Sound(), When: r.Began.Format("2 January 2006 15:04 MST"), Rates: htmlTable{ratesText, r.rates()}, Storm: htmlTable{stormText, r.storms()}}
	for _, v := range r.targets() {
		data.Targets = append(data.Targets, htmlTarget{v.name, v.system, v.want, strings.TrimSpace(v.got), v.verdict, v.baseline})
	}
	for _, users := range r.loads() {
		l := load{Users: users, Echo: r.echoLine(users)}
		rows := r.rows(users)
		for _, v := range rows {
			l.Rows = append(l.Rows, htmlRow{v.figure.name, v.figure.unit, spread(v.side[0]), spread(v.side[1]), v.winner})
		}
		l.Plots = append(l.Plots, barsOf("Throughput, requests/s", rows, "throughput"),
			barsOf("Latency of all requests, ms", rows, "average", "P90", "P95", "P99"),
			barsOf("P95 of each step, ms", rows, "login, P95", "create cart, P95", "fetch product, P95", "add item, P95", "reserve, P95", "pay, P95", "confirm, P95"))
		var cpu, memory []string
		for _, s := range r.services() {
			cpu, memory = append(cpu, "CPU of "+s), append(memory, "memory of "+s)
		}
		if len(cpu) > 0 {
			l.Plots = append(l.Plots, barsOf("CPU, cores", rows, cpu...), barsOf("Memory, MiB", rows, memory...))
		}
		data.Loads = append(data.Loads, l)
	}
	data.Ladder = r.curvesOf()
	return t.Execute(w, data)
}

type htmlTarget struct{ Name, System, Want, Got, Verdict, Baseline string }

type htmlTable struct {
	Text string
	Rows [][]string
}

type htmlRow struct{ Name, Unit, A, B, Winner string }

// bars is a plot of pairs of bars, with the spread of the runs as a line over each.
type bars struct {
	Title  string
	Height int
	Bars   []bar
}

// bar is one value of one side. A name is written beside the first of a pair. Lengths are in the plot's units.
type bar struct {
	Name          string
	Side, Y       int
	Length        float64
	Low, High     float64
	Value         string
	Middle, Label int // heights of the spread's line and of the value
}

const (
	plotWidth = 720
	barsLeft  = 170
)

// barsOf plots the named figures, or nothing when no run has them.
func barsOf(title string, rows []row, names ...string) *bars {
	var chosen []row
	most := 0.0
	for _, name := range names {
		for _, v := range rows {
			if v.figure.name == name && (v.side[0].known() || v.side[1].known()) {
				chosen = append(chosen, v)
				for _, s := range v.side {
					if s.known() {
						most = max(most, s.Max)
					}
				}
			}
		}
	}
	if len(chosen) == 0 || most == 0 {
		return nil
	}
	const right, line, top, gap = 90, 19, 30, 10
	scale := (plotWidth - barsLeft - right) / most
	out := &bars{Title: title, Height: top + len(chosen)*(2*line+gap)}
	for i, v := range chosen {
		name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(v.figure.name, "CPU of "), "memory of "), ", P95")
		for j, s := range v.side {
			if !s.known() {
				continue
			}
			y := top + i*(2*line+gap) + j*line
			out.Bars = append(out.Bars, bar{
				Name: name, Side: j, Y: y, Length: math.Max(s.Median*scale, 0.5), Low: barsLeft + s.Min*scale, High: barsLeft + s.Max*scale,
				Value: testbed.Number(s.Median), Middle: y + (line-4)/2, Label: y + line - 7,
			})
			name = ""
		}
	}
	return out
}

// curves is the plot of the ladder: P95 of reserve, on a logarithmic scale, over the arrival rate.
type curves struct {
	Grid, Across []mark
	Bound        float64 // height of 100 ms
	Lines        []curve
}

type mark struct {
	At    float64
	Value string
}

type curve struct {
	Side   int
	Points string
	Dots   []dot
}

type dot struct {
	X, Y float64
	Text string
}

// curvesOf plots the ladder, or nothing when there was none.
func (r *Report) curvesOf() *curves {
	most := 0.0
	for _, s := range r.Sustained {
		for _, step := range s.Steps {
			most = max(most, step.Rate)
		}
	}
	if most == 0 {
		return nil
	}
	const left, bottom, top, right, height = 60, 30, 30, 20, 260
	const decades = 4 // from 1 ms to 10 s
	x := func(rate float64) float64 { return left + rate/most*(plotWidth-left-right) }
	y := func(ms float64) float64 {
		return height - bottom - min(math.Log10(max(ms, 1)), decades)/decades*(height-bottom-top)
	}
	out := &curves{Bound: y(100)}
	for d := range decades + 1 {
		v := math.Pow10(d)
		out.Grid = append(out.Grid, mark{y(v), fmt.Sprintf("%.0f", v)})
	}
	for _, share := range []float64{0, 0.25, 0.5, 0.75, 1} {
		out.Across = append(out.Across, mark{x(share * most), testbed.Number(share * most)})
	}
	for j, s := range r.Sustained {
		c := curve{Side: j % 2}
		var points []string
		for _, step := range s.Steps {
			if step.P95 > 0 {
				at := dot{x(step.Rate), y(step.P95), fmt.Sprintf("%s at %s a second: %s ms", s.System, testbed.Number(step.Rate), testbed.Number(step.P95))}
				points, c.Dots = append(points, fmt.Sprintf("%.1f,%.1f", at.X, at.Y)), append(c.Dots, at)
			}
		}
		c.Points = strings.Join(points, " ")
		out.Lines = append(out.Lines, c)
	}
	return out
}
