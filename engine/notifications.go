package engine

import (
	"context"
	"encoding/json"
	"errors"
	"flashsale/account"
	"flashsale/id"
	"flashsale/notification"
	"flashsale/order"
	"flashsale/transport"
	"fmt"
	"log/slog"
	"time"
)

// ContactReader finds a shopper's e-mail address. It returns account.ErrNotFound.
type ContactReader interface {
	Contact(ctx context.Context, user id.ID) (email string, err error)
}

// Notifications are the notification service's part of the flow: an order's event becomes a stored
// message. Sending is the worker's, so that a slow mail server slows no purchase.
type Notifications struct {
	store    notification.Store
	contacts ContactReader
	clock    func() time.Time
	log      *slog.Logger
}

// NewNotifications returns the service's part.
func NewNotifications(store notification.Store, contacts ContactReader, clock func() time.Time, log *slog.Logger) *Notifications {
	return &Notifications{store: store, contacts: contacts, clock: clock, log: log}
}

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
	to, err := s.contacts.Contact(ctx, d.User)
	if errors.Is(err, account.ErrNotFound) {
		return nil, transport.Permanent(fmt.Errorf("engine: %s for the shopper %s: %w", e.Type, d.User, err))
	}
	if err != nil {
		return nil, err
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

const askContact = "account.contact"

// Contacts reads addresses from the account store of this process.
type Contacts struct{ Accounts account.Store }

// Contact implements ContactReader.
func (c Contacts) Contact(ctx context.Context, user id.ID) (string, error) {
	u, err := c.Accounts.ByID(ctx, user)
	return u.Email, err
}

// Answer is the transport.Answerer of the account service.
func (c Contacts) Answer(ctx context.Context, q transport.Question) (json.RawMessage, error) {
	if q.Name != askContact {
		return nil, transport.Permanent(fmt.Errorf("engine: account has no answer to %q", q.Name))
	}
	return answer(ctx, q, func(ctx context.Context, a byID) (string, error) {
		email, err := c.Contact(ctx, a.ID)
		if errors.Is(err, account.ErrNotFound) {
			return "", nil
		}
		return email, err
	})
}

// RemoteContacts asks the account service.
type RemoteContacts struct{ To transport.Asker }

// Contact implements ContactReader.
func (r RemoteContacts) Contact(ctx context.Context, user id.ID) (string, error) {
	email, err := ask[string](ctx, r.To, transport.Account, askContact, byID{user})
	if err == nil && email == "" {
		err = account.ErrNotFound
	}
	return email, err
}
