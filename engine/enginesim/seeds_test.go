package enginesim

import (
	"flag"
	"flashsale/inventory"
	"flashsale/payment"
	"flashsale/reservation"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

var (
	oneSeed = flag.Uint64("seed", 0, "run this seed only; with -v its log of events is shown")
	seeds   = flag.Uint64("seeds", 1000, "how many seeds to run")
)

// simulate runs a seed in a bubble of its own. Odd seeds have the ledger's CHECKs, even ones not.
func simulate(t *testing.T, seed uint64, v variant, verbose bool) (w *world, violation error) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		w = newWorld(seed, v, seed%2 == 1, verbose)
		violation = w.run()
	})
	return w, violation
}

// workers is how many seeds run at the same time.
const workers = 4

// TestSeeds: whatever a seed brings, the books are right and nobody was told what is not so.
func TestSeeds(t *testing.T) {
	t.Parallel()
	if *oneSeed != 0 {
		w, err := simulate(t, *oneSeed, variant{}, testing.Verbose())
		t.Logf("seed %d, %d steps\n%s", *oneSeed, w.step, strings.Join(w.log, "\n"))
		if err != nil {
			t.Error(err)
		}
		return
	}
	var next atomic.Uint64
	var mu sync.Mutex
	seen := map[string]int{}
	t.Cleanup(func() { coverage(t, seen) })
	for range workers {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			for {
				seed := next.Add(1)
				if seed > *seeds {
					return
				}
				w, err := simulate(t, seed, variant{}, false)
				mu.Lock()
				for what, n := range w.seen {
					seen[what] += n
				}
				mu.Unlock()
				if err != nil {
					t.Errorf("seed %d: %v\n\treplay: go test ./engine/enginesim -run TestSeeds -seed=%d -v", seed, err, seed)
				}
			}
		})
	}
}

// coverage reports what the seeds have brought, and what they should have brought and have not.
func coverage(t *testing.T, seen map[string]int) {
	for _, what := range slices.Sorted(maps.Keys(seen)) {
		t.Logf("%8d  %s", seen[what], what)
	}
	if *seeds < 1000 {
		return
	}
	for _, what := range []string{
		"a bucket is opened again", "a bucket is opened by another", "a process dies", "units are evacuated", "transfer: committed", "transfer: aborted",
		"a call: answer lost", "a call: done twice", "a call: late", "a call: lost", "a publisher without a connection",
		"lost by the queue: " + inventory.EventRequested, "lost by the queue: " + inventory.EventPaid, "lost by the queue: " + inventory.EventReleased,
		"lost by the queue: " + payment.EventCaptured, "lost by the queue: " + payment.EventDeclined,
		"decided from the gate", "claim: held", "claim: held over several shards", "claim: in a group", "claim: replayed",
		"claim: " + inventory.ErrFenced.Error(), "claim: " + inventory.ErrTakeAborted.Error(), "claim: " + reservation.ErrLimitReached.Error(),
		"move: cancel", "move: capture", "move: decline", "move: expire", "move: pay", "move: refund", "move: not made",
		"provider: void", "reaped: aborted", "reaped: committed", "refused: held_out", "refused: limit_reached",
		"told: held", "told: paid", "told: cancelled", "told: refunded", "told: stock is there",
		"told: " + reservation.ErrHeldOut.Error(), "told: " + reservation.ErrSoldOut.Error(), "told: " + reservation.ErrLimitReached.Error(),
	} {
		if seen[what] == 0 {
			t.Errorf("in %d seeds there was never: %s", *seeds, what)
		}
	}
}

// TestReplay: a seed is the same run every time, to the last event.
func TestReplay(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= 100; seed++ {
		w, _ := simulate(t, seed, variant{}, true)
		v, _ := simulate(t, seed, variant{}, true)
		first, again := w.log, v.log
		for i := range min(len(first), len(again)) {
			if first[i] != again[i] {
				t.Fatalf("seed %d, event %d:\n%s\n%s", seed, i, first[i], again[i])
			}
		}
		if !slices.Equal(first, again) {
			t.Fatalf("seed %d: %d events, then %d", seed, len(first), len(again))
		}
	}
}

// TestBrokenVariants: every popular mistake is caught within the seeds. What finds nothing
// proves nothing.
func TestBrokenVariants(t *testing.T) {
	t.Parallel()
	for _, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= *seeds; seed++ {
				if _, err := simulate(t, seed, v, false); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Errorf("not caught by %d seeds", *seeds)
		})
	}
}
