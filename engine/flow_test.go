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
	"sync/atomic"
	"testing"
	"time"
)

// watched tells of each look at an outbox what it has found.
type watched struct {
	transport.Outbox
	found chan int
}

func (w watched) Unsent(ctx context.Context, age time.Duration, limit int) ([]transport.Envelope, error) {
	es, err := w.Outbox.Unsent(ctx, age, limit)
	select {
	case w.found <- len(es):
	case <-ctx.Done():
	}
	return es, err
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
			clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			store := sqlitepayment.New(databases.SQLite(t, sqlitepayment.Migrations), clock)
			p, _, err := store.Begin(t.Context(), payment.Payment{
				ID: id.Derive("payment"), Order: id.Derive("order"), User: id.Derive("user"),
				Amount: money.Money{Amount: 1, Currency: "EUR"}, State: payment.Requested,
			})
			must(t, err)
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
			box := watched{store, make(chan int)}
			flow.Keep(transport.Payment, box)
			ctx, cancel := context.WithCancel(t.Context())
			ended, sent := make(chan error), make(chan struct{})
			go func() { ended <- flow.Run(ctx) }()
			go func() {
				defer close(sent)
				e, _ := payment.Follow(p)
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
				left, _, err = store.Backlog(t.Context())
				must(t, err)
			}
			if calls.Load() != c.calls {
				t.Errorf("it was sent %d times, want %d", calls.Load(), c.calls)
			}
			cancel()
			must(t, <-ended)
		})
	}
}
