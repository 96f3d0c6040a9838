package main

import (
	"context"
	"errors"
	"flashsale/bench/lab"
	"flashsale/inventory"
	"flashsale/transport"
	"testing"
	"time"
)

func TestFlags(t *testing.T) {
	t.Parallel()
	s, chosen, err := parseFlags([]string{"--short", "--only=publish,decided"})
	if err != nil || len(chosen) != 2 || chosen[0].name != "publish" || s.Round != time.Second || s.Repeats != 3 {
		t.Errorf("%+v, %d figures, %v", s, len(chosen), err)
	}
	if s, chosen, err := parseFlags(nil); err != nil || len(chosen) != len(groups()) || s.Round != 4*time.Second {
		t.Errorf("%+v, %d figures, %v", s, len(chosen), err)
	}
	for _, args := range [][]string{{"--only=speed"}, {"--repeats=2"}, {"--round=1500ms"}, {"publish"}, {"--fast"}} {
		if _, _, err := parseFlags(args); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
}

// TestLatencies: the ratio is of the p95s, whatever the rates were, and half is enough.
func TestLatencies(t *testing.T) {
	t.Parallel()
	rounds := func(p95s ...float64) (out []round) {
		for i, v := range p95s {
			out = append(out, round{Measured: lab.Measured{Rate: float64(1000 * i), Good: 1, Took: time.Second}, p95: v})
		}
		return out
	}
	f := latencies("p95", "", rounds(40, 60, 20), rounds(25, 10))
	f.Judge()
	if f.Ratio.Runs[0] != 0.5 || f.Ratio.Runs[1] != 0.25 || f.Baseline.Median != 40 || f.Verdict != "met" {
		t.Errorf("%+v", f)
	}
	if f = latencies("p95", "", rounds(40, 60), rounds(26)); f.Ratio.Median != 0.52 {
		t.Errorf("%+v", f)
	}
	if f.Judge(); f.Verdict != "missed" {
		t.Errorf("%+v", f)
	}
}

// TestWait: what becomes so is waited for, an error is not.
func TestWait(t *testing.T) {
	t.Parallel()
	n := 0
	if took, err := wait(t.Context(), time.Now().Add(-time.Minute), func() (bool, error) { n++; return n == 3, nil }); err != nil || n != 3 || took < time.Minute {
		t.Errorf("%d times, %s, %v", n, took, err)
	}
	fault := errors.New("fault")
	if _, err := wait(t.Context(), time.Now(), func() (bool, error) { return false, fault }); !errors.Is(err, fault) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := wait(ctx, time.Now(), func() (bool, error) { return false, nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestClaim: what is published is what inventory reads.
func TestClaim(t *testing.T) {
	t.Parallel()
	b, err := transport.Marshal(claim(1))
	if err != nil {
		t.Fatal(err)
	}
	e, err := transport.Unmarshal(b)
	if err != nil || e.Type != inventory.EventRequested {
		t.Fatalf("%+v, %v", e, err)
	}
	if d, err := transport.Decode[inventory.ClaimData](e); err != nil || len(d.Legs) != 1 || d.Quantity != 1 || !d.Promised {
		t.Errorf("%+v, %v", d, err)
	}
}
