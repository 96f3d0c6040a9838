package metrics

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestLooksRest: a quick look is made again when its turn comes, a slow one leaves the servers alone for twenty times as
// long as it took, and one that hangs is given up and made again soon enough to tell an operator.
func TestLooksRest(t *testing.T) {
	t.Parallel()
	for takes, want := range map[time.Duration]time.Duration{
		10 * time.Millisecond:  5*time.Second + 10*time.Millisecond,
		500 * time.Millisecond: 10*time.Second + 500*time.Millisecond,
		time.Hour:              lookBound + longRest,
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			var began []time.Time
			go quiet().repeat(ctx, probe{"slow", 5 * time.Second, func(ctx context.Context) error {
				began = append(began, time.Now())
				select {
				case <-time.After(takes):
				case <-ctx.Done():
				}
				return ctx.Err()
			}, func() {}})
			time.Sleep(3*want - time.Nanosecond) // of the bubble's clock
			synctest.Wait()
			cancel()
			synctest.Wait()
			var apart []time.Duration
			for n := 1; n < len(began); n++ {
				apart = append(apart, began[n].Sub(began[n-1]))
			}
			if !slices.Equal(apart, []time.Duration{want, want}) {
				t.Errorf("looks of %s begin %v apart, want %s", takes, apart, want)
			}
		})
	}
}
