package metrics

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// all returns metrics with every family that there can be.
func all() *Metrics {
	m := New("all", "sync", slog.New(slog.DiscardHandler))
	m.Busy(func() int { return 0 }, 1)
	m.Paying(func() (int, int) { return 0, 1 })
	m.LetIn(func() float64 { return 0 })
	m.Peer("order", func() float64 { return 0 }, func() int { return 0 }, 1)
	return m
}

// table returns a row a metric, as the documentation has them.
func (m *Metrics) table() []string {
	var rows []string
	for _, f := range m.families {
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |", f.name, f.kind, strings.Join(f.labels, ", "), f.help))
	}
	slices.Sort(rows)
	return slices.Compact(rows)
}

// TestDocumented: the table of metrics in the documentation is this program's, and whatever else names a metric names
// one of these.
func TestDocumented(t *testing.T) {
	t.Parallel()
	want := all().table()
	b, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.SplitSeq(string(b), "\n") {
		if strings.HasPrefix(line, "| `flashsale_") {
			got = append(got, line)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the table of metrics in docs/operations.md should be, in this order:\n%s", strings.Join(want, "\n"))
	}
	names := all()
	for _, dir := range []string{"docs", "deploy", "grafana"} {
		_ = filepath.WalkDir(filepath.Join("../..", dir), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil // a folder that is not there names nothing
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if unknown := names.unknown(string(b)); len(unknown) > 0 {
				t.Errorf("%s names metrics that are not: %s", path, strings.Join(unknown, ", "))
			}
			return nil
		})
	}
	if unknown := all().unknown("rate(flashsale_nothing_total[1m]) flashsale_event_seconds_bucket flashsale_events_sent_total"); len(unknown) != 1 {
		t.Errorf("of a text with one unknown metric these were found: %v", unknown)
	}
}

// unknown returns the metrics that a text names and that are not.
func (m *Metrics) unknown(text string) (names []string) {
	known := map[string]bool{}
	for _, f := range m.families {
		known[f.name] = true
		if f.kind == "histogram" {
			known[f.name+"_bucket"], known[f.name+"_sum"], known[f.name+"_count"] = true, true, true
		}
	}
	for _, name := range regexp.MustCompile(`\bflashsale_[a-z_]+[a-z]\b`).FindAllString(text, -1) {
		if !known[name] {
			names = append(names, name)
		}
	}
	return names
}

// TestProbeWithoutAnswer: gauges of a look that fails are absent rather than old, and the log has one line a change.
func TestProbeWithoutAnswer(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	m := New("all", "sync", slog.New(slog.NewTextHandler(&log, nil)))
	g := m.levels("flashsale_test_units", "For this test.")
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	m.add("test", 0, func(context.Context) error {
		n++
		switch {
		case n <= 2 || n == 6:
			g.set([]level{{float64(n), nil}})
		case n <= 5:
			if n > 3 && len(g.have) != 0 {
				t.Error("old gauges are shown")
			}
			return os.ErrDeadlineExceeded
		default:
			cancel()
		}
		return nil
	}, g)
	if err := m.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(log.String(), "\n"); lines != 2 || len(g.have) != 1 || g.have[0].value != 6 {
		t.Errorf("gauges %v, and the log says:\n%s", g.have, log.String())
	}
}
