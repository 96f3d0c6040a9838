package engine_test

import (
	"context"
	"flashsale/engine"
	"flashsale/id"
	"flashsale/money"
	"flashsale/payment"
	"flashsale/payment/sqlitepayment"
	"flashsale/testenv/databases"
	"flashsale/transport"
	"flashsale/transport/inproc"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// watched tells of each look at an outbox what it has found.
type watched struct {
	transport.Outbox
	found  chan int
	marked *atomic.Int64 // times that something was removed
}

func (w watched) Unsent(ctx context.Context, age time.Duration, limit int) ([]transport.Envelope, error) {
	es, err := w.Outbox.Unsent(ctx, age, limit)
	select {
	case w.found <- len(es):
	case <-ctx.Done():
	}
	return es, err
}

func (w watched) MarkSent(ctx context.Context, ids []id.ID) error {
	w.marked.Add(1)
	return w.Outbox.MarkSent(ctx, ids)
}

// TestNotSentTwice: the relay leaves alone what its process is sending, however long that takes, and sends it when that has
// failed.
func TestNotSentTwice(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		fails error
		calls int64
	}{{"it arrives", nil, 1}, {"it does not", transport.ErrUnavailable, 2}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var ahead atomic.Int64
			store, e := begun(t, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
			bus, calls, under, answer := inproc.New(), atomic.Int64{}, make(chan struct{}), make(chan error)
			bus.Handle(transport.Inventory, func(context.Context, transport.Envelope) ([]transport.Envelope, error) {
				if calls.Add(1) > 1 {
					return nil, nil
				}
				close(under)
				return nil, <-answer
			})
			must(t, bus.Start(t.Context()))
			flow := engine.NewFlow(bus, time.Minute, slog.New(slog.DiscardHandler))
			box := watched{store, make(chan int), &atomic.Int64{}}
			flow.Keep(transport.Payment, box)
			ctx, cancel := context.WithCancel(t.Context())
			ended, sent := make(chan error), make(chan struct{})
			go func() { ended <- flow.Run(ctx) }()
			go func() {
				defer close(sent)
				flow.Follow(ctx, transport.Payment, []transport.Envelope{e})
			}()
			<-under
			ahead.Add(int64(time.Minute)) // longer than a direct send should take, or a lease holds
			for <-box.found == 0 {        // until the relay has it
			}
			if <-box.found; calls.Load() != 1 {
				t.Errorf("it is sent %d times at the same time", calls.Load())
			}
			answer <- c.fails
			<-sent
			for left := 1; left > 0; {
				<-box.found
				n, _, err := store.Backlog(t.Context())
				must(t, err)
				left = n
			}
			if <-box.found; calls.Load() != c.calls || box.marked.Load() != 1 {
				t.Errorf("it was sent %d times, want %d, and removed %d times", calls.Load(), c.calls, box.marked.Load())
			}
			cancel()
			must(t, <-ended)
		})
	}
}

// overtaken is an outbox whose first removal waits until the relay has leased what is removed.
type overtaken struct {
	watched
	first  sync.Once
	begun  chan struct{}
	leased chan struct{}
	gone   chan []id.ID
}

func (o *overtaken) MarkSent(ctx context.Context, ids []id.ID) error {
	o.first.Do(func() {
		close(o.begun)
		<-o.leased
	})
	err := o.Outbox.MarkSent(ctx, ids)
	o.gone <- ids
	return err
}

// TestRemovedWhileLeased: what the relay leases while it is being removed is removed once more, for an outbox may remember what
// is leased until it is told that it was sent; nobody sends it again.
func TestRemovedWhileLeased(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	store, e := begun(t, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	bus, calls := inproc.New(), atomic.Int64{}
	bus.Handle(transport.Inventory, func(context.Context, transport.Envelope) ([]transport.Envelope, error) {
		calls.Add(1)
		return nil, nil
	})
	must(t, bus.Start(t.Context()))
	flow := engine.NewFlow(bus, time.Minute, slog.New(slog.DiscardHandler))
	box := &overtaken{watched: watched{store, make(chan int), nil}, begun: make(chan struct{}), leased: make(chan struct{}), gone: make(chan []id.ID, 16)}
	flow.Keep(transport.Payment, box)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- flow.Run(ctx) }()
	flow.Follow(ctx, transport.Payment, []transport.Envelope{e})
	<-box.begun
	ahead.Add(int64(time.Minute)) // longer than a direct send should take
	for <-box.found == 0 {        // until the relay has it
	}
	<-box.found // and has put it aside
	close(box.leased)
	patience := time.After(10 * time.Second)
	for range 2 {
		for told := false; !told; {
			select {
			case ids := <-box.gone:
				if told = true; !slices.Equal(ids, []id.ID{e.ID}) {
					t.Errorf("removed: %v, want %v", ids, e.ID)
				}
			case <-box.found:
			case <-patience:
				t.Fatal("it was removed once, and leased since")
			}
		}
	}
	cancel()
	must(t, <-ended)
	if calls.Load() != 1 {
		t.Errorf("it was sent %d times", calls.Load())
	}
}

// begun is an outbox with one event.
func begun(t *testing.T, clock func() time.Time) (transport.Outbox, transport.Envelope) {
	t.Helper()
	store := sqlitepayment.New(databases.SQLite(t, sqlitepayment.Migrations), clock)
	p, _, err := store.Begin(t.Context(), payment.Payment{
		ID: id.Derive("payment"), Order: id.Derive("order"), User: id.Derive("user"),
		Amount: money.Money{Amount: 1, Currency: "EUR"}, State: payment.Requested,
	})
	must(t, err)
	e, _ := payment.Follow(p)
	return store, e
}
