package httpapi

import (
	"flashsale/reservation"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
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

// TestUncertainIsPaced: those who are told that nobody knows what became of their requests come again one after the other, too.
func TestUncertainIsPaced(t *testing.T) {
	t.Parallel()
	a := New(Config{Timeout: time.Second, MaxRequests: 8, Clock: time.Now, Log: slog.New(slog.DiscardHandler)})
	a.app.Get("/", func(*fiber.Ctx) error { return reservation.ErrUncertain })
	latest := 0
	for range 60 {
		res, err := a.app.Test(httptest.NewRequest(http.MethodGet, "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		secs, err := strconv.Atoi(res.Header.Get("Retry-After"))
		if err != nil || res.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("%d, to come again after %q", res.StatusCode, res.Header.Get("Retry-After"))
		}
		latest = max(latest, secs)
	}
	if latest < 10 {
		t.Errorf("60 come at the same time, and the last is told to come again after %d s", latest)
	}
}

// TestLookAgain: the longer a decision takes, the longer is told to wait before the next look at it, within bounds.
func TestLookAgain(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := &API{cfg: Config{Clock: func() time.Time { return now }}}
	for age, want := range map[time.Duration]string{-time.Hour: "1", 0: "1", 3900 * time.Millisecond: "1", 4 * time.Second: "2", 9 * time.Second: "4", time.Hour: "5"} {
		app := fiber.New()
		app.Get("/", func(c *fiber.Ctx) error {
			a.lookAgain(c, now.Add(-age))
			return nil
		})
		res, err := app.Test(httptest.NewRequest(http.MethodGet, "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if got := res.Header.Get("Retry-After"); got != want {
			t.Errorf("undecided for %s: told to look again after %s s, want %s", age, got, want)
		}
	}
}
