//go:build faults

package faults

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// row is what one cell has shown.
type row struct {
	wiring, fault string
	seed          uint64
	struck        int           // percent of the crowd that was done when it struck
	back          time.Duration // from the fault's end until a shopper was served again
	total         time.Duration
	sold          int64
	repeated      string // what shoppers were told that sends them again
	ok            bool
	wrong         []string
}

// report is the table of a run. It is printed when the test ends, and appended to the file that FAULTS_REPORT names.
type report struct {
	mu   sync.Mutex
	rows []row
}

func newReport(t *testing.T) *report {
	t.Helper()
	r := &report{}
	t.Cleanup(func() {
		if len(r.rows) == 0 {
			return
		}
		table := r.String()
		fmt.Print("\n", table, "\n") // whole, not as lines of a test's log
		if path := os.Getenv("FAULTS_REPORT"); path != "" {
			f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
			must(t, err)
			_, err = fmt.Fprintf(f, "# %s, %s\n\n%s\n", t.Name(), time.Now().UTC().Format(time.RFC3339), table)
			must(t, err)
			must(t, f.Close())
		}
	})
	return r
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
	cells := [][]string{{"wiring", "fault", "seed", "struck at", "served again after", "whole cell", "units sold", "told to repeat", "verdict"}}
	for _, v := range r.rows {
		verdict := "holds"
		if !v.ok {
			verdict = "FAILED"
		}
		cells = append(cells, []string{
			v.wiring, v.fault, fmt.Sprint(v.seed), fmt.Sprintf("%d %%", v.struck), fmt.Sprintf("%.2f s", v.back.Seconds()),
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
