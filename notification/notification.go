// Package notification tells shoppers what became of their orders: by mail, to a webhook, or in the
// log. A message is stored in the step that causes it and sent afterwards, at least once.
package notification

import (
	"context"
	"errors"
	"flashsale/audit"
	"flashsale/id"
	"flashsale/order"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode"
)

// State is where a message stands.
type State string

// The states.
const (
	Pending State = "pending"
	Sent    State = "sent"
	Failed  State = "failed" // given up
)

// The kinds of messages.
const (
	OrderConfirmed = "order_confirmed"
	PaymentFailed  = "payment_failed"
	OrderCancelled = "order_cancelled"
	HoldExpired    = "hold_expired"
	OrderRefunded  = "order_refunded"
)

// Message is something to tell one shopper.
type Message struct {
	ID        id.ID // the event's id: an event that comes twice is told once
	User      id.ID
	To        string // e-mail address
	Kind      string
	Subject   string
	Text      string
	State     State
	Attempts  int
	LastError string
	CreatedAt time.Time // UTC
	NextAt    time.Time // UTC; not sent before
}

// Store keeps messages. Every call is one transaction.
type Store interface {
	// Add stores a message as pending; one that is there stays as it is.
	Add(ctx context.Context, m Message) error
	// Missing returns those of the events that no message was made of.
	Missing(ctx context.Context, events []id.ID) ([]id.ID, error)
	// Lease takes up to limit pending messages that are due, for so long: another caller gets them
	// only after that. The longest due come first.
	Lease(ctx context.Context, limit int, lease time.Duration) ([]Message, error)
	// Record writes the state, attempts, last error and next time of messages. One that is not there stays so.
	Record(ctx context.Context, ms []Message) error
	// Of returns a shopper's messages, the newest first, at most limit.
	Of(ctx context.Context, user id.ID, limit int) ([]Message, error)
	// Audit checks that nothing has been pending for long.
	Audit(ctx context.Context) ([]audit.Check, error)
}

// Channel sends a message. An error marked by Undeliverable is not tried again.
type Channel interface {
	Send(ctx context.Context, m Message) error
}

// ErrUndeliverable marks an error that sending again cannot mend.
var ErrUndeliverable = errors.New("notification: undeliverable")

// Undeliverable marks err as one that sending again cannot mend.
func Undeliverable(err error) error { return fmt.Errorf("%w: %w", ErrUndeliverable, err) }

// Compose writes the message of an order's event. ok is false for an order that nobody is told about.
func Compose(event id.ID, o order.Data, to string, now time.Time) (m Message, ok bool) {
	m = Message{ID: event, User: o.User, To: to, State: Pending, CreatedAt: now, NextAt: now}
	what := fmt.Sprintf("%d × %s, %s", o.Quantity, o.SKU, o.Total)
	switch {
	case o.State == order.Confirmed:
		m.Kind, m.Subject = OrderConfirmed, "Your order is confirmed"
		m.Text = "Thank you. Your order " + o.Order.String() + " is confirmed: " + what + "."
	case o.State == order.Cancelled && o.Reason == "declined":
		m.Kind, m.Subject = PaymentFailed, "Your payment failed"
		m.Text = "The payment for your order " + o.Order.String() + " (" + what + ") failed, and the order is cancelled. Nothing is charged."
	case o.State == order.Cancelled && o.Reason == "expired":
		m.Kind, m.Subject = HoldExpired, "Your reservation has expired"
		m.Text = "Your reservation " + o.Order.String() + " (" + what + ") was not paid in time and is released."
	case o.State == order.Cancelled:
		m.Kind, m.Subject = OrderCancelled, "Your order is cancelled"
		m.Text = "Your order " + o.Order.String() + " (" + what + ") is cancelled."
	case o.State == order.Refunded:
		m.Kind, m.Subject = OrderRefunded, "Your order is refunded"
		m.Text = "Your order " + o.Order.String() + " (" + what + ") is refunded."
	default:
		return m, false
	}
	// A SKU is checked where it is made; a line break must not become a mail header all the same.
	m.Subject = strings.NewReplacer("\r", " ", "\n", " ").Replace(m.Subject)
	return m, true
}

// Worker sends what is stored.
type Worker struct {
	store   Store
	channel Channel
	clock   func() time.Time
	jitter  func() float64 // from 0 to 1
	log     *slog.Logger
}

// NewWorker returns a Worker.
func NewWorker(store Store, channel Channel, clock func() time.Time, jitter func() float64, log *slog.Logger) *Worker {
	return &Worker{store: store, channel: channel, clock: clock, jitter: jitter, log: log}
}

const (
	batch       = 50
	lease       = 2 * time.Minute // longer than a batch may take
	sendBound   = 2 * time.Second
	recordBound = 5 * time.Second
	maxAttempts = 16 // a mail server may be away for an hour
	firstDelay  = time.Second
	maxDelay    = 10 * time.Minute
)

// recordEvery is for how long what was sent may wait to be recorded with what is sent after it: a transaction a message
// would cost more than the message. Dying in between sends it once more: a message is told at least once.
const recordEvery = 250 * time.Millisecond

// RunOnce sends a batch of what is due and returns how many messages it handled. The message under
// way when ctx ends is finished; the rest of the batch comes back when its lease ends.
func (w *Worker) RunOnce(ctx context.Context) (int, error) {
	due, err := w.store.Lease(ctx, batch, lease)
	if err != nil {
		return 0, err
	}
	last := context.WithoutCancel(ctx)
	recorded, since := 0, w.clock()
	for n := range due {
		if ctx.Err() != nil {
			due = due[:n]
			break
		}
		w.send(last, &due[n])
		if now := w.clock(); now.Sub(since) >= recordEvery {
			if err := w.record(last, due[recorded:n+1]); err != nil {
				return recorded, err
			}
			recorded, since = n+1, now
		}
	}
	if recorded == len(due) {
		return recorded, nil
	}
	if err := w.record(last, due[recorded:]); err != nil {
		return recorded, err
	}
	return len(due), nil
}

func (w *Worker) record(ctx context.Context, ms []Message) error {
	ctx, cancel := context.WithTimeout(ctx, recordBound)
	defer cancel()
	return w.store.Record(ctx, ms)
}

// send tells one shopper, and notes what came of it.
func (w *Worker) send(ctx context.Context, m *Message) {
	sending, cancel := context.WithTimeout(ctx, sendBound)
	err := w.channel.Send(sending, *m)
	cancel()
	m.Attempts++
	switch {
	case err == nil:
		m.State, m.LastError = Sent, ""
	case errors.Is(err, ErrUndeliverable) || m.Attempts >= maxAttempts:
		m.State, m.LastError = Failed, clip(err.Error())
		w.log.ErrorContext(ctx, "message given up", "message", m.ID, "kind", m.Kind, "attempts", m.Attempts, "error", err)
	default:
		delay := min(firstDelay<<(m.Attempts-1), maxDelay)
		m.NextAt = w.clock().UTC().Add(delay/2 + time.Duration(w.jitter()*float64(delay/2)))
		m.LastError = clip(err.Error())
	}
}

// clip makes a text that a stranger's server may have written one short line that every store takes:
// PostgreSQL refuses NUL, and a message that cannot be recorded would be sent for ever.
func clip(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), 300)], ""))
}

// PendingBound is how long a message may wait before the audit says so.
const PendingBound = 30 * time.Minute

// Checks returns the audit's check from its figures.
func Checks(pending, late int64) []audit.Check {
	return []audit.Check{{
		Equation: 7, Name: "no message unsent for long", Figures: fmt.Sprintf("pending %d, overdue %d", pending, late), OK: late == 0,
	}}
}
