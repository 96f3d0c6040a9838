package databasetest

import (
	"flashsale/transport"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// ExercisePlaces runs the suite of the places of sweeps; open returns a table that is empty.
func ExercisePlaces(t *testing.T, open func(t *testing.T) transport.Places) {
	t.Helper()
	place := func(t *testing.T, p transport.Places, sweep string, hold time.Duration, upto int64, mine bool) {
		t.Helper()
		got, ok, err := p.Place(t.Context(), sweep, hold)
		if err != nil || ok != mine || ok && got != upto {
			t.Fatalf("%s is at %d, mine %v, %v; want %d, %v", sweep, got, ok, err, upto, mine)
		}
	}
	set := func(t *testing.T, p transport.Places, sweep string, upto int64) {
		t.Helper()
		if err := p.SetPlace(t.Context(), sweep, upto); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("one at a time, from where the last one was", func(t *testing.T) {
		t.Parallel()
		p := open(t)
		place(t, p, "a", time.Hour, 0, true)
		place(t, p, "a", time.Hour, 0, false)
		place(t, p, "b", time.Hour, 0, true) // another sweep
		set(t, p, "a", 1<<40)
		place(t, p, "a", 0, 1<<40, true) // a hold of no length is over at once
		place(t, p, "a", time.Hour, 1<<40, true)
		set(t, p, "a", 1<<40) // no progress lets others have it too
		place(t, p, "a", time.Hour, 1<<40, true)
		set(t, p, "c", 7) // never asked for
		place(t, p, "c", time.Hour, 7, true)
	})
	t.Run("a crowd", func(t *testing.T) {
		t.Parallel()
		p := open(t)
		var mine atomic.Int32
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				_, ok, err := p.Place(t.Context(), "a", time.Hour)
				if err != nil {
					t.Error(err)
				}
				if ok {
					mine.Add(1)
				}
			})
		}
		wg.Wait()
		if n := mine.Load(); n != 1 {
			t.Fatalf("%d have the sweep", n)
		}
	})
}
