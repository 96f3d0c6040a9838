package console

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

func TestMoney(t *testing.T) {
	t.Parallel()
	for want, m := range map[string]money{
		"99.00 EUR": {9900, "EUR"}, "0.05 EUR": {5, "EUR"}, "-0.05 EUR": {-5, "EUR"}, "500 JPY": {500, "JPY"}, "1.500 KWD": {1500, "KWD"}, "0.0001 CLF": {1, "CLF"},
		"-92233720368547758.08 EUR": {math.MinInt64, "EUR"}, "–": {},
	} {
		if got := m.String(); got != want {
			t.Errorf("%+v is %s, want %s", m, got, want)
		}
	}
	for _, c := range []struct {
		in, currency string
		want         int64
		ok           bool
	}{
		{"19.90", "EUR", 1990, true},
		{" 19.9 ", "eur", 1990, true},
		{"19", "EUR", 1900, true},
		{"19.", "EUR", 1900, true},
		{"0", "EUR", 0, true},
		{"500", "JPY", 500, true},
		{"5.5", "JPY", 0, false},
		{"19.905", "EUR", 0, false},
		{"", "EUR", 0, false},
		{".5", "EUR", 0, false},
		{"-1", "EUR", 0, false},
		{"+1", "EUR", 0, false},
		{"1e3", "EUR", 0, false},
		{"1,5", "EUR", 0, false},
		{"1.2.3", "EUR", 0, false},
		{"92233720368547758.07", "EUR", math.MaxInt64, true},
		{"92233720368547758.08", "EUR", 0, false},
	} {
		got, err := parseMoney(c.in, c.currency)
		if (err == nil) != c.ok || c.ok && got.Amount != c.want {
			t.Errorf("%q %s: %v %v, want %d %v", c.in, c.currency, got, err, c.want, c.ok)
		}
	}
}

func FuzzAmount(f *testing.F) {
	f.Add("19.90", 2)
	f.Add("007", 0)
	f.Fuzz(func(t *testing.T, s string, n int) {
		n = max(0, n%5)
		got, err := parseAmount(s, n)
		if err != nil {
			return
		}
		if again, err := parseAmount(decimal(got, n), n); err != nil || again != got {
			t.Errorf("%q with %d digits is %d, written %s, read %d %v", s, n, got, decimal(got, n), again, err)
		}
	})
}

func TestLocalPath(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/orders": "/orders", "/orders?after=x": "/orders?after=x", "": "/", "orders": "/", "//evil.example": "/", "/\\evil.example": "/", "https://evil.example/": "/",
		"javascript:alert(1)": "/", "/a\r\nSet-Cookie: x": "/", "/\t/evil.example": "/", "/%": "/",
	} {
		if got := localPath(in); got != want {
			t.Errorf("%q leads to %q, want %q", in, got, want)
		}
	}
}

func TestPhase(t *testing.T) {
	t.Parallel()
	opens, ends := recordedAt(), recordedAt().Add(time.Hour)
	for _, c := range []struct {
		status string
		after  time.Duration
		want   string
		until  time.Time
	}{
		{"scheduled", -time.Second, "soon", opens},
		{"open", -time.Second, "soon", opens},
		{"scheduled", 0, "soon", time.Time{}},
		{"open", 0, "open", ends},
		{"paused", 0, "paused", ends},
		{"ended", 0, "over", time.Time{}},
		{"open", time.Hour, "over", time.Time{}},
	} {
		if got := phaseOf(c.status, opens, ends, opens.Add(c.after)); got.Name != c.want || !got.Until.Equal(c.until) || got.Label == "" {
			t.Errorf("%s after %s is %+v, want %s until %s", c.status, c.after, got, c.want, c.until)
		}
	}
}

func TestPageOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		query          string
		items, page, n int
		more           bool
	}{
		{"", 3, 1, 3, false},
		{"", 25, 1, 24, true},
		{"?page=2", 25, 2, 1, false},
		{"?page=3", 25, 1, 24, true},
		{"?page=0", 3, 1, 3, false},
		{"?page=x", 3, 1, 3, false},
		{"?page=9223372036854775807", 3, 1, 3, false},
		{"?page=2", 24, 2, 0, false},
		{"", 0, 1, 0, false},
	} {
		page, part, more := pageOf(httptest.NewRequest(http.MethodGet, "/"+c.query, nil), make([]saleItem, c.items))
		if page != c.page || len(part) != c.n || more != c.more {
			t.Errorf("%d items%s: page %d with %d, more %v", c.items, c.query, page, len(part), more)
		}
	}
}

func TestSessionRole(t *testing.T) {
	t.Parallel()
	for token, want := range map[string]bool{operatorToken: true, shopperToken: false, "": false, "a.b": false, "a.b.c": false, "a.bm8.c": false} {
		if s := (session{access: token}); s.operator() != want {
			t.Errorf("%q is an operator's: %v", token, !want)
		}
	}
}

func TestMemo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := recordedAt()
		m := newMemo[int](time.Second, 2, time.Minute, func() time.Time { return now })
		calls := 0
		answer := func(n int, err error) func(context.Context) (int, error) {
			return func(context.Context) (int, error) { calls++; return n, err }
		}
		want := func(key string, n int, err error, give func(context.Context) (int, error), made int) {
			t.Helper()
			got, gotErr := m.get(t.Context(), key, give)
			if got != n || !errors.Is(gotErr, err) || calls != made {
				t.Errorf("%s: %d %v after %d calls, want %d %v after %d", key, got, gotErr, calls, n, err, made)
			}
		}
		broken := errors.New("broken")
		want("a", 0, broken, answer(0, broken), 1)
		want("a", 1, nil, answer(1, nil), 2) // an error is not remembered
		want("a", 1, nil, answer(2, nil), 2)
		want("b", 3, nil, answer(3, nil), 3)
		want("c", 4, nil, answer(4, nil), 4) // no room
		want("c", 5, nil, answer(5, nil), 5)
		now = now.Add(time.Second)
		want("c", 6, nil, answer(6, nil), 6) // the old ones made room
		want("c", 6, nil, answer(7, nil), 6)
		m.forget("c")
		want("c", 8, nil, answer(8, nil), 7)

		// Those who ask together share one request, also when the one who makes it has left; who waits may leave.
		gate := make(chan struct{})
		leaving, leave := context.WithCancel(t.Context())
		results := make(chan string, 3)
		ask := func(ctx context.Context) {
			n, err := m.get(ctx, "slow", func(ctx context.Context) (int, error) { calls++; <-gate; return 9, ctx.Err() })
			results <- fmt.Sprint(n, err)
		}
		go ask(leaving)
		synctest.Wait()
		go ask(t.Context())
		waiting, stop := context.WithCancel(t.Context())
		go ask(waiting)
		synctest.Wait()
		leave()
		stop()
		synctest.Wait()
		if got := <-results; got != "0 console: the API does not answer in time: context canceled" {
			t.Errorf("who left got %s", got)
		}
		close(gate)
		if a, b := <-results, <-results; a != "9 <nil>" || b != "9 <nil>" || calls != 8 {
			t.Errorf("%s, %s after %d calls", a, b, calls)
		}

		// A request that panics leaves nobody waiting.
		func() {
			defer func() { _ = recover() }()
			_, _ = m.get(t.Context(), "panic", func(context.Context) (int, error) { panic("broken") })
		}()
		m.forget("slow")
		want("panic", 1, nil, answer(1, nil), 9)
	})
}
