package enginesim

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/transport"
	"slices"
	"sync"
	"time"
)

// outbox is the model of a service's outbox table. Its store's lock is its own.
type outbox struct {
	mu    *sync.Mutex
	clock func() time.Time
	rows  []boxed
	away  bool // the table cannot be written
}

type boxed struct {
	envelope transport.Envelope
	written  time.Time
	leased   time.Time
}

var errNoOutbox = errors.New("model: the outbox cannot be written")

const lease = 10 * time.Second

// micros is a time as every store keeps it.
func micros(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

func (o *outbox) enqueue(e transport.Envelope) {
	for _, r := range o.rows {
		if r.envelope.ID == e.ID {
			return
		}
	}
	e.Time = micros(e.Time)
	o.rows = append(o.rows, boxed{envelope: e, written: micros(o.clock())})
}

// Unsent implements transport.Outbox.
func (o *outbox) Unsent(_ context.Context, age time.Duration, limit int) ([]transport.Envelope, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := micros(o.clock())
	var es []transport.Envelope
	for i := range o.rows {
		r := &o.rows[i]
		if len(es) < limit && !r.written.After(now.Add(-age)) && r.leased.Before(now) {
			r.leased = now.Add(lease)
			es = append(es, r.envelope)
		}
	}
	return es, nil
}

// idle reports whether Unsent would return nothing.
func (o *outbox) idle(age time.Duration) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := micros(o.clock())
	return !slices.ContainsFunc(o.rows, func(r boxed) bool { return !r.written.After(now.Add(-age)) && r.leased.Before(now) })
}

// MarkSent implements transport.Outbox.
func (o *outbox) MarkSent(_ context.Context, ids []id.ID) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rows = slices.DeleteFunc(o.rows, func(r boxed) bool { return slices.Contains(ids, r.envelope.ID) })
	return nil
}

// Backlog implements transport.Outbox.
func (o *outbox) Backlog(context.Context) (int, time.Duration, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.rows) == 0 {
		return 0, 0, nil
	}
	return len(o.rows), o.clock().Sub(o.rows[0].written), nil
}
