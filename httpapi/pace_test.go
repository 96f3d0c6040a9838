package httpapi

import (
	"testing"
	"time"
)

// TestPaces: who is turned away is told to come again when those before have been served, spread out; a route is as fast
// as it was in the last two seconds, and has nothing to do with another one.
func TestPaces(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := newPaces(func() time.Time { return now })
	const hot, other = "POST /hot", "GET /other"
	for range 50 {
		if got := p.note(hot, false); got != 0 {
			t.Fatalf("a request that is answered is told to come again in %d s", got)
		}
	}
	least, most, sum := 99, 0, 0
	const turned = 1000
	for range turned {
		got := p.note(hot, true)
		least, most, sum = min(least, got), max(most, got), sum+got
	}
	// The last of them has 1,000 before it, at 50 a second: 20 seconds; the first none.
	if least != 1 || most < 25 || most > longest || sum/turned < 7 || sum/turned > 13 {
		t.Errorf("1,000 are turned away where 50 a second get done: told %d to %d s, %d on average", least, most, sum/turned)
	}
	if got := p.note(other, true); got != 1 {
		t.Errorf("on a quiet route: told %d s", got)
	}
	now = now.Add(paceWindow)
	if got := p.note(hot, true); got < 10 {
		t.Errorf("a second later it is forgotten: told %d s", got)
	}
	now = now.Add(2 * paceWindow)
	if got := p.note(hot, true); got != 1 {
		t.Errorf("after two quiet seconds: told %d s", got)
	}
	now = now.Add(-time.Hour) // the clock is set back
	if got := p.note(hot, true); got != 1 {
		t.Errorf("after the clock was set back: told %d s", got)
	}
}
