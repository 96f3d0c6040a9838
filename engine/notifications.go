package engine

import (
	"context"
	"encoding/json"
	"flashsale/account"
	"flashsale/groupcommit"
	"flashsale/id"
	"flashsale/notification"
	"flashsale/order"
	"flashsale/transport"
	"fmt"
	"log/slog"
	"time"
)

// ContactReader finds shoppers' e-mail addresses. Who is not there is left out.
type ContactReader interface {
	Contacts(ctx context.Context, users []id.ID) (emails map[id.ID]string, err error)
}

// Notifications are the notification service's part of the flow: an order's event becomes a stored
// message. Sending is the worker's, so that a slow mail server slows no purchase.
type Notifications struct {
	store    notification.Store
	contacts *groupcommit.Group[id.ID, string]
	clock    func() time.Time
	log      *slog.Logger
}

// NewNotifications returns the service's part. Close it when done.
func NewNotifications(store notification.Store, contacts ContactReader, clock func() time.Time, log *slog.Logger) *Notifications {
	// Who is asked for at the same time is asked for together: alone, each would be a call to another service and a query.
	find := func(ctx context.Context, users []id.ID) ([]string, error) {
		known, err := contacts.Contacts(ctx, users)
		out := make([]string, len(users))
		for i, u := range users {
			out[i] = known[u]
		}
		return out, err
	}
	return &Notifications{store: store, contacts: groupcommit.New(maxGroup, maxQueue, 2, find), clock: clock, log: log}
}

// Close finishes what is under way.
func (s *Notifications) Close() { s.contacts.Close() }

// Handle is the transport.Handler of the service.
func (s *Notifications) Handle(ctx context.Context, e transport.Envelope) ([]transport.Envelope, error) {
	switch e.Type {
	case order.EventConfirmed, order.EventCancelled, order.EventRefunded:
	default:
		return nil, transport.Permanent(fmt.Errorf("engine: notification does not handle %q", e.Type))
	}
	d, err := transport.Decode[order.Data](e)
	if err != nil {
		return nil, err
	}
	to, err := s.contacts.Do(ctx, d.User)
	if err != nil {
		return nil, shed(err)
	}
	if to == "" {
		return nil, transport.Permanent(fmt.Errorf("engine: %s for the shopper %s: %w", e.Type, d.User, account.ErrNotFound))
	}
	m, ok := notification.Compose(e.ID, d, to, s.clock().UTC())
	if !ok {
		return nil, nil
	}
	return nil, s.store.Add(ctx, m)
}

// Sender sends what is stored, until ctx ends.
func (s *Notifications) Sender(ctx context.Context, worker *notification.Worker, interval time.Duration) error {
	return every(ctx, s.log, interval, "notifications", func(ctx context.Context) error {
		for {
			n, err := worker.RunOnce(ctx)
			if err != nil || n == 0 || ctx.Err() != nil {
				return err
			}
		}
	})
}

const askContacts = "account.contacts"

// Contacts reads addresses from the account store of this process.
type Contacts struct{ Accounts account.Store }

// Answer is the transport.Answerer of the account service.
func (c Contacts) Answer(ctx context.Context, q transport.Question) (json.RawMessage, error) {
	if q.Name != askContacts {
		return nil, transport.Permanent(fmt.Errorf("engine: account has no answer to %q", q.Name))
	}
	return answer(ctx, q, c.Accounts.Emails)
}

// RemoteContacts asks the account service.
type RemoteContacts struct{ To transport.Asker }

// Contacts implements ContactReader.
func (r RemoteContacts) Contacts(ctx context.Context, users []id.ID) (map[id.ID]string, error) {
	return ask[map[id.ID]string](ctx, r.To, transport.Account, askContacts, users)
}
