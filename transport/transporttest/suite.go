// Package transporttest holds the suite that every transport passes.
package transporttest

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/transport"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Features are the differences between transports, as data.
type Features struct {
	// Decides: Send waits for the handler and its receipt is decided. Otherwise it is accepted.
	Decides bool
	// Redelivers: a handler that fails is called again by the transport.
	Redelivers bool
}

// Open returns two ends of a transport that is not started: what is sent into the first is handled
// by the handlers of the second. They may be the same.
type Open func(t *testing.T) (sender, receiver transport.Transport)

// patience bounds every wait of the suite.
const patience = 20 * time.Second

// Exercise runs the suite.
func Exercise(t *testing.T, f Features, open Open) {
	t.Helper()
	s := suite{f, open}
	t.Run("delivers and says what became of it", s.delivers)
	t.Run("a crowd", s.crowd)
	t.Run("a failing handler", s.failing)
	t.Run("a permanent failure is not tried again", s.permanent)
	t.Run("a newer schema, and a type that is not known", s.unknown)
	t.Run("a service that nobody runs", s.nobody)
	t.Run("stop waits for a running handler", s.stop)
	t.Run("a large envelope", s.large)
}

type suite struct {
	Features
	open Open
}

func envelope(n int) transport.Envelope {
	return transport.New("thing.happened", transport.Order, id.Derive("subject", fmt.Sprint(n)), time.Date(2026, 11, 21, 10, 0, 0, 123000, time.UTC),
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", map[string]int{"n": n})
}

func (s suite) start(t *testing.T, h transport.Handler) (sender, receiver transport.Transport) {
	t.Helper()
	sender, receiver = s.open(t)
	receiver.Handle(transport.Inventory, h)
	for _, tr := range ends(receiver, sender) {
		if err := tr.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, tr := range ends(sender, receiver) {
			stopNow(t, tr)
		}
	})
	return sender, receiver
}

func ends(a, b transport.Transport) []transport.Transport {
	if a == b {
		return []transport.Transport{a}
	}
	return []transport.Transport{a, b}
}

func stopNow(t *testing.T, tr transport.Transport) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := tr.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func same(a, b transport.Envelope) bool {
	return a.ID == b.ID && a.Type == b.Type && a.Source == b.Source && a.Subject == b.Subject && a.Time.Equal(b.Time) &&
		a.TraceParent == b.TraceParent && string(a.Body()) == string(b.Body())
}

func receive[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s after %s", what, patience)
		panic("unreachable")
	}
}

func (s suite) delivers(t *testing.T) {
	t.Parallel()
	got := make(chan transport.Envelope, 10)
	follows := []transport.Envelope{envelope(2), envelope(3)}
	sender, _ := s.start(t, func(_ context.Context, e transport.Envelope) ([]transport.Envelope, error) {
		got <- e
		return follows, nil
	})
	r, err := sender.Send(t.Context(), transport.Inventory, envelope(1))
	if err != nil {
		t.Fatal(err)
	}
	if e := receive(t, got, "delivery"); !same(e, envelope(1)) {
		t.Fatalf("delivered %+v, sent %+v", e, envelope(1))
	}
	if r.Decided != s.Decides {
		t.Fatalf("decided %v, want %v", r.Decided, s.Decides)
	}
	if !s.Decides {
		if len(r.Events) != 0 {
			t.Fatalf("accepted, but with events %v", r.Events)
		}
		return
	}
	if len(r.Events) != 2 || !same(r.Events[0], follows[0]) || !same(r.Events[1], follows[1]) {
		t.Fatalf("events %+v", r.Events)
	}
}

func (s suite) crowd(t *testing.T) {
	t.Parallel()
	const n = 500
	var mu sync.Mutex
	seen := map[id.ID]int{}
	all := make(chan struct{})
	sender, _ := s.start(t, func(_ context.Context, e transport.Envelope) ([]transport.Envelope, error) {
		mu.Lock()
		defer mu.Unlock()
		seen[e.ID]++
		if len(seen) == n && seen[e.ID] == 1 {
			close(all)
		}
		return nil, nil
	})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := sender.Send(t.Context(), transport.Inventory, envelope(i)); err != nil {
				t.Errorf("send %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	receive(t, all, "full house")
}

func (s suite) failing(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	handled := make(chan struct{}, 10)
	sender, _ := s.start(t, func(context.Context, transport.Envelope) ([]transport.Envelope, error) {
		if calls.Add(1) < 3 {
			return nil, errors.New("the database is away")
		}
		handled <- struct{}{}
		return nil, nil
	})
	_, err := sender.Send(t.Context(), transport.Inventory, envelope(1))
	if s.Redelivers {
		if err != nil {
			t.Fatal(err)
		}
		receive(t, handled, "third attempt")
		return
	}
	// Nobody tries again: the sender is told, and that it is not known what was done.
	if err == nil || transport.NothingHandled(err) || transport.IsPermanent(err) {
		t.Fatalf("error %v; want one that says unknown", err)
	}
}

func (s suite) permanent(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	called := make(chan struct{}, 100)
	next := make(chan struct{}, 1)
	sender, _ := s.start(t, func(_ context.Context, e transport.Envelope) ([]transport.Envelope, error) {
		if e.ID == envelope(2).ID {
			next <- struct{}{}
			return nil, nil
		}
		calls.Add(1)
		called <- struct{}{}
		return nil, transport.Permanent(errors.New("never"))
	})
	_, err := sender.Send(t.Context(), transport.Inventory, envelope(1))
	receive(t, called, "call")
	if s.Decides && !transport.IsPermanent(err) {
		t.Fatalf("error %v; want a permanent one", err)
	}
	if !s.Decides && err != nil {
		t.Fatal(err)
	}
	// Those behind it are handled, and it is in the dead letters, where there are any.
	if _, err := sender.Send(t.Context(), transport.Inventory, envelope(2)); err != nil {
		t.Fatal(err)
	}
	receive(t, next, "the envelope behind it")
	type depths interface {
		Depths(ctx context.Context) (waiting, dead int, err error)
	}
	if d, ok := sender.(depths); ok {
		for deadline := time.Now().Add(patience); ; {
			_, dead, err := d.Depths(t.Context())
			if err == nil && dead == 1 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("dead letters %d, %v; want 1", dead, err)
			}
			time.Sleep(20 * time.Millisecond) // polls a condition; there is no event to wait for
		}
	}
	if n := calls.Load(); n != 1 {
		t.Fatalf("handled %d times, want once", n)
	}
}

// unknown: what a handler cannot read never reaches it, and the reason is the same over every transport.
func (s suite) unknown(t *testing.T) {
	t.Parallel()
	seen := make(chan transport.Envelope, 10)
	sender, _ := s.start(t, transport.Only(map[string]int{"thing.happened": 2}, func(_ context.Context, e transport.Envelope) ([]transport.Envelope, error) {
		seen <- e
		return nil, nil
	}))
	newest, newer, other := envelope(1), envelope(2), envelope(3)
	newest.Version, newer.Version, other.Type = 2, 3, "thing.invented"
	want := map[id.ID]transport.Reason{newer.ID: transport.ReasonUnknownVersion, other.ID: transport.ReasonUnknownType}
	for _, e := range []transport.Envelope{newer, other, newest} {
		_, err := sender.Send(t.Context(), transport.Inventory, e)
		switch why := want[e.ID]; {
		case s.Decides && why != "":
			if !transport.IsPermanent(err) || transport.ReasonOf(err) != why {
				t.Errorf("version %d of %s: %v; want a permanent error for %s", e.Version, e.Type, err, why)
			}
		case err != nil:
			t.Errorf("version %d of %s: %v", e.Version, e.Type, err)
		}
	}
	if e := receive(t, seen, "delivery"); !same(e, newest) || e.Version != 2 {
		t.Errorf("delivered %+v", e)
	}
	if letters, ok := sender.(transport.DeadLetters); ok {
		for deadline := time.Now().Add(patience); ; {
			page, err := letters.List(t.Context(), transport.Filter{})
			if err == nil && len(page.Letters) == len(want) {
				for _, l := range page.Letters {
					if l.Reason != want[l.ID] || l.Attempts != 1 {
						t.Errorf("dead letter %+v, want %s", l, want[l.ID])
					}
				}
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("dead letters %+v, %v; want %d", page, err, len(want))
			}
			time.Sleep(20 * time.Millisecond) // polls a condition; there is no event to wait for
		}
	}
	select {
	case e := <-seen:
		t.Errorf("delivered %+v", e)
	default:
	}
}

func (s suite) nobody(t *testing.T) {
	t.Parallel()
	sender, _ := s.start(t, func(context.Context, transport.Envelope) ([]transport.Envelope, error) { return nil, nil })
	if _, err := sender.Send(t.Context(), "nobody", envelope(1)); !errors.Is(err, transport.ErrUnavailable) {
		t.Fatalf("error %v, want %v", err, transport.ErrUnavailable)
	}
}

func (s suite) stop(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	var finished atomic.Bool
	var once sync.Once
	sender, receiver := s.start(t, func(context.Context, transport.Envelope) ([]transport.Envelope, error) {
		once.Do(func() { close(entered) })
		<-leave
		finished.Store(true)
		return nil, nil
	})
	sent := make(chan error, 1)
	go func() {
		_, err := sender.Send(context.Background(), transport.Inventory, envelope(1))
		sent <- err
	}()
	receive(t, entered, "delivery")
	stopped := make(chan struct{})
	go func() {
		stopNow(t, receiver)
		close(stopped)
	}()
	select {
	case <-stopped:
		t.Fatal("stopped while a handler was running")
	case <-time.After(50 * time.Millisecond): // long enough for a stop that does not wait
	}
	close(leave)
	receive(t, stopped, "stop")
	if !finished.Load() {
		t.Fatal("stopped before the handler had finished")
	}
	if err := receive(t, sent, "answer"); err != nil {
		t.Fatalf("what was under way: %v", err)
	}
	stopNow(t, receiver) // twice
	stopNow(t, sender)
	if _, err := sender.Send(t.Context(), transport.Inventory, envelope(2)); !errors.Is(err, transport.ErrStopped) {
		t.Fatalf("send after stop: %v, want %v", err, transport.ErrStopped)
	}
}

func (s suite) large(t *testing.T) {
	t.Parallel()
	got := make(chan transport.Envelope, 2)
	sender, _ := s.start(t, func(_ context.Context, e transport.Envelope) ([]transport.Envelope, error) {
		got <- e
		return nil, nil
	})
	e := transport.New("thing.happened", transport.Order, id.Derive("large"), time.Now().Truncate(time.Microsecond), "", map[string]string{"text": strings.Repeat("ü", 50_000)})
	if _, err := sender.Send(t.Context(), transport.Inventory, e); err != nil {
		t.Fatal(err)
	}
	if g := receive(t, got, "delivery"); string(g.Body()) != string(e.Body()) {
		t.Fatalf("%d bytes arrived of %d", len(g.Body()), len(e.Body()))
	}
}
