//go:build faults

package faults

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// row is what one cell has shown.
type row struct {
	wiring, fault string
	phase         string // between which steps, or how; empty where it is the fault itself
	seed          uint64
	struck        int           // percent of the crowd that was done when it struck
	back          time.Duration // from the fault's end until a shopper was served again
	total         time.Duration
	sold          int64
	repeated      string // what shoppers were told that sends them again
	ok            bool
	wrong         []string
}

// report is the table of a run.
type report struct {
	mu   sync.Mutex
	rows []row
}

// results are those of every test of this run that has cells.
var results report

// publish prints the table when every test has ended, and appends it to the file that FAULTS_REPORT names.
func (r *report) publish() error {
	if len(r.rows) == 0 {
		return nil
	}
	table := r.String()
	fmt.Print("\n", table, "\n")
	path := os.Getenv("FAULTS_REPORT")
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "# %s\n\n%s\n", time.Now().UTC().Format(time.RFC3339), table)
	return errors.Join(err, f.Close())
}

func (r *report) add(v row) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = append(r.rows, v)
}

// String is a Markdown table that can be read as it is, and below it what went wrong: a log may be cut at its beginning.
func (r *report) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	cells := [][]string{{"wiring", "fault", "phase", "seed", "struck at", "served again after", "whole cell", "units sold", "told to repeat", "verdict"}}
	for _, v := range r.rows {
		verdict := "holds"
		if !v.ok {
			verdict = "FAILED"
		}
		cells = append(cells, []string{
			v.wiring, v.fault, v.phase, fmt.Sprint(v.seed), fmt.Sprintf("%d %%", v.struck), fmt.Sprintf("%.2f s", v.back.Seconds()),
			fmt.Sprintf("%.1f s", v.total.Seconds()), fmt.Sprint(v.sold), v.repeated, verdict,
		})
	}
	width := make([]int, len(cells[0]))
	for _, line := range cells {
		for i, c := range line {
			width[i] = max(width[i], len(c))
		}
	}
	var b strings.Builder
	for n, line := range cells {
		for i, c := range line {
			fmt.Fprintf(&b, "| %-*s ", width[i], c)
		}
		b.WriteString("|\n")
		if n == 0 {
			for _, w := range width {
				b.WriteString("|" + strings.Repeat("-", w+2))
			}
			b.WriteString("|\n")
		}
	}
	for _, v := range r.rows {
		for _, what := range v.wrong {
			fmt.Fprintf(&b, "\n%s, %s, seed %d: %s\n", v.wiring, v.fault, v.seed, what)
		}
	}
	return b.String()
}
