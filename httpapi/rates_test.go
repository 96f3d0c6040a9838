package httpapi

import (
	"flashsale/id"
	"fmt"
	"testing"
	"time"
)

// TestRates: a shopper may spend a window's worth at once, then what comes back, and nobody else's.
func TestRates(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000_000, 0)
	r := newRates(5, func() time.Time { return now })
	if r.policy != `"shopper";q=20;w=4` {
		t.Errorf("the policy is %s", r.policy)
	}
	ann, bob := id.Derive("ann"), id.Derive("bob")
	check := func(who id.ID, ok bool, left, reset int) {
		t.Helper()
		if gotOK, gotLeft, gotReset := r.spend(who); gotOK != ok || gotLeft != left || gotReset != reset {
			t.Fatalf("spend: %v, %d left, all back in %d s; want %v, %d, %d", gotOK, gotLeft, gotReset, ok, left, reset)
		}
	}
	for left := 19; left >= 0; left-- {
		check(ann, true, left, (20-left+4)/5)
	}
	check(ann, false, 0, 4)
	check(ann, false, 0, 4) // what is refused costs nothing
	check(bob, true, 19, 1)
	now = now.Add(200 * time.Millisecond)
	check(ann, true, 0, 4)
	check(ann, false, 0, 4)
	now = now.Add(3 * time.Second) // a turn comes between, and nothing is forgotten that counts
	for left := 14; left >= 0; left-- {
		check(ann, true, left, (20-left+4)/5)
	}
	now = now.Add(rateWindow - time.Second)
	for left := 14; left >= 0; left-- {
		check(ann, true, left, (20-left+4)/5)
	}
	check(ann, false, 0, 4)
	now = now.Add(time.Hour)
	check(ann, true, 19, 1)
}

// TestRatesAreBounded: however many shoppers come, so many are remembered.
func TestRatesAreBounded(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000_000, 0)
	r := newRates(1, func() time.Time { return now })
	for n := range 3 * maxRated {
		r.spend(id.Derive(fmt.Sprint(n)))
		if n%1000 == 0 && len(r.young)+len(r.old) > 2*maxRated {
			t.Fatalf("%d shoppers are remembered", len(r.young)+len(r.old))
		}
	}
	if len(r.young)+len(r.old) != 2*maxRated {
		t.Fatalf("%d shoppers are remembered", len(r.young)+len(r.old))
	}
	now = now.Add(rateWindow)
	r.spend(id.Derive("late"))
	now = now.Add(rateWindow)
	r.spend(id.Derive("later"))
	if n := len(r.young) + len(r.old); n != 2 {
		t.Errorf("%d shoppers are remembered after two quiet windows", n)
	}
}
