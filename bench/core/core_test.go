package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func read1(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestParseRedisBenchmark(t *testing.T) {
	t.Parallel()
	if got, err := parseRedisBenchmark(read1(t, "redis-benchmark.csv")); err != nil || got != 435478.25 {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{"", "Could not connect", "\"test\",\"rps\"\n", "\"test\",\"rps\"\n\"EVALSHA\",\"fast\"\n", "\"a\",\"b\"\n\"c\",\"1\"\n"} {
		if got, err := parseRedisBenchmark(text); err == nil {
			t.Errorf("%q gave %v", text, got)
		}
	}
}

func TestParsePgbench(t *testing.T) {
	t.Parallel()
	got, err := parsePgbench(read1(t, "pgbench.txt"))
	if want := (pgbenchResult{Transactions: 5271, Rate: 1316.264318}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	failed := strings.Replace(read1(t, "pgbench.txt"), "failed transactions: 0", "failed transactions: 12", 1)
	if got, err := parsePgbench(failed); err != nil || got.Failed != 12 {
		t.Errorf("%+v, %v; want 12 failed", got, err)
	}
	if got, err := parsePgbench("pgbench: error: connection failed"); err == nil {
		t.Errorf("an error gave %+v", got)
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	s, chosen, err := parseFlags([]string{"--short", "--only=takes,http"})
	if err != nil || len(chosen) != 2 || chosen[0].name != "takes" || s.Round != time.Second || s.buyers != 100_000 {
		t.Errorf("%+v, %d figures, %v", s, len(chosen), err)
	}
	if _, chosen, err := parseFlags(nil); err != nil || len(chosen) != len(groups())-1 || slices.ContainsFunc(chosen, func(g group) bool { return g.apart }) {
		t.Errorf("%d figures, %v", len(chosen), err)
	}
	if _, chosen, err := parseFlags([]string{"--only=telemetry"}); err != nil || len(chosen) != 1 || !chosen[0].apart {
		t.Errorf("%d figures, %v", len(chosen), err)
	}
	for _, args := range [][]string{{"--only=speed"}, {"--repeats=2"}, {"--round=1500ms"}, {"--round=2m"}, {"--shards=0"}, {"--buyers=3"}, {"http"}, {"--fast"}} {
		if _, _, err := parseFlags(args); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
}
