package httpapi

import (
	"context"
	"flashsale/account"
	"flashsale/engine"
	"flashsale/id"
	"flashsale/reservation"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// BenchmarkFrame is what the frame around every request costs, untraced: a request to a route that does
// nothing.
func BenchmarkFrame(b *testing.B) {
	a := New(Config{
		Verify:  func(string) (id.ID, account.Role, error) { return id.ID{}, account.Shopper, nil },
		Timeout: time.Second, MaxRequests: 8, Clock: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	a.MountAudit(nil)
	serve := a.app.Handler()
	var c fasthttp.RequestCtx
	c.Request.SetRequestURI("/api/v1/nothing")
	c.Request.Header.Set("X-Request-Id", "4bf92f3577b34da6a3ce929d0e0e4736")
	b.ReportAllocs()
	for b.Loop() {
		c.Response.Reset()
		c.ResetUserValues()
		serve(&c)
	}
}

// TestSilence: whoever sends no whole request within the time is not answered, for an answer that nobody waits for is
// taken for that to the next request, which has not been handled.
func TestSilence(t *testing.T) {
	t.Parallel()
	a := New(Config{Timeout: time.Second, MaxRequests: 8, Clock: time.Now, Log: slog.New(slog.DiscardHandler)})
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = a.Serve(l) }()
	t.Cleanup(func() { _ = a.app.Shutdown() })
	for _, sent := range []string{"", "POST /api/v1/reservations HTTP/1.1\r\nHo"} {
		t.Run(sent, func(t *testing.T) {
			t.Parallel()
			c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(60 * time.Second))
			if _, err := io.WriteString(c, sent); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(c); err != nil || len(got) > 0 {
				t.Errorf("answered %q, %v", got, err)
			}
		})
	}
}

// TestStopBesideUnusedConnections: a connection that a browser has dialled ahead is no request under way that a stop
// waits for.
func TestStopBesideUnusedConnections(t *testing.T) {
	t.Parallel()
	a := New(Config{Timeout: time.Second, MaxRequests: 8, Clock: time.Now, Log: slog.New(slog.DiscardHandler)})
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- a.Serve(l) }()
	dial := func() net.Conn {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	dial()
	used := dial() // after it: once this one is answered, the other is accepted
	if _, err := io.WriteString(used, "GET /healthz HTTP/1.1\r\nHost: shop\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := used.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := a.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 10*time.Second { // it was the 15 s in which a request has to come
		t.Errorf("stopped after %s", took)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// drawn turns away the upper half of the lots, and has those with the last quarter told so again.
type drawn struct {
	undecided
	lots *[]int
}

func (d drawn) Come(lot int) engine.Turned {
	*d.lots = append(*d.lots, lot)
	return engine.Turned{Away: lot >= engine.Lots/2, Again: lot >= engine.Lots*3/4, Turns: 10}
}

// TestDoor: whoever there is no room for is told so before he is asked who he is, in words that are not for him alone.
func TestDoor(t *testing.T) {
	t.Parallel()
	var drew, observed []int
	a := New(Config{
		Observe: func(_, _ string, status int, _ time.Duration) { observed = append(observed, status) },
		Timeout: time.Second, MaxRequests: 8, ShopperRate: 10, Clock: time.Now, Log: slog.New(slog.DiscardHandler),
		Verify: func(string) (id.ID, account.Role, error) { return id.Derive("user"), account.Shopper, nil },
	})
	a.MountReservations(drawn{lots: &drew})
	for _, c := range []struct {
		lot    string
		number int
		status int
		again  string
	}{
		{"", -1, 401, ""},
		{"zz", -1, 401, ""},
		{"100", -1, 401, ""},
		{"00", 0, 401, ""},
		{"7c", 31, 401, ""},
		{"80", 32, 503, ""},
		{"bc", 47, 503, ""},
		{"c0", 48, 550, "1"},
		{"fc", 63, 550, "1"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/api/v1/reservations", strings.NewReader("{}"))
		r.Header.Set("X-Crowd-Lot", c.lot)
		if c.status >= 503 {
			r.Header.Set("Authorization", "Bearer somebody")
		}
		res, err := a.app.Test(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if c.status == 550 { // and the seconds: nginx says the rest
			if wait := res.StatusCode - 550; wait < 5 || wait > 15 || res.ContentLength != 0 {
				t.Errorf("ten come for each who is let in, and nginx is told %d, in %d bytes", res.StatusCode, res.ContentLength)
			}
			res.StatusCode = c.status
		}
		if saw := observed[len(observed)-1]; saw != min(c.status, 503) {
			t.Errorf("counted as %d, want %d", saw, min(c.status, 503))
		}
		if res.Header.Get("X-Accel-Expires") != c.again || res.Header.Get("Ratelimit") != "" {
			t.Errorf("with the lot %q: status %d, %v", c.lot, res.StatusCode, res.Header)
		}
		if secs, err := strconv.Atoi(res.Header.Get("Retry-After")); c.status == 503 && (err != nil || secs < 5 || secs > 15) {
			t.Errorf("ten come for each who is let in, and one is told to come again after %q", res.Header.Get("Retry-After"))
		}
		if last := drew[len(drew)-1]; last != c.number {
			t.Errorf("the lot %q is %d, want %d", c.lot, last, c.number)
		}
	}
}

// undecided accepts every request, and decides none.
type undecided struct{}

func (undecided) Reserve(_ context.Context, r reservation.Request, _ string) (engine.Outcome, error) {
	return engine.Outcome{Reservation: reservation.Reservation{ID: r.ID(), User: r.User, State: reservation.Requested}}, nil
}

func (undecided) Come(int) engine.Turned { return engine.Turned{} }

func (undecided) Cancel(context.Context, id.ID, id.ID, string) (engine.Outcome, error) {
	return engine.Outcome{}, reservation.ErrNotFound
}

func (undecided) Status(_ context.Context, user, v id.ID) (reservation.Reservation, error) {
	return reservation.Reservation{ID: v, User: user, State: reservation.Requested}, nil
}

func (u undecided) Await(ctx context.Context, user, v id.ID) (reservation.Reservation, error) {
	<-ctx.Done()
	return u.Status(ctx, user, v)
}

// TestStopBesideWaiting: who waits for a decision is answered 202 when the process stops: it is made all the same.
func TestStopBesideWaiting(t *testing.T) {
	t.Parallel()
	a := New(Config{
		Verify:  func(string) (id.ID, account.Role, error) { return id.Derive("ann"), account.Shopper, nil },
		Timeout: 30 * time.Second, MaxRequests: 8, Clock: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	a.MountReservations(undecided{})
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = a.Serve(l) }()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	body := `{"sale_id":"` + id.Derive("sale").String() + `","sku":"A","quantity":1}`
	_, err = io.WriteString(c, "POST /api/v1/reservations HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer x\r\nIdempotency-Key: k\r\nPrefer: wait=25\r\nContent-Type: application/json\r\nContent-Length: "+
		strconv.Itoa(len(body))+"\r\n\r\n"+body)
	if err != nil {
		t.Fatal(err)
	}
	for giveUp := time.Now().Add(20 * time.Second); a.Busy() == 0; {
		if time.Sleep(time.Millisecond); time.Now().After(giveUp) { // polls: the request has to be under way
			t.Fatal("the request has not come")
		}
	}
	began := time.Now()
	if err := a.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("stopped after %s", took)
	}
	answer, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 202 ") {
		t.Errorf("answered %q, %v", answer, err)
	}
}
