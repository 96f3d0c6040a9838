// Package payment defines payments: charges, refunds, and the port to the provider that makes
// them. Its sub-packages implement the contracts.
package payment

import (
	"context"
	"errors"
	"flashsale/audit"
	"flashsale/id"
	"flashsale/money"
	"flashsale/transport"
	"time"
)

// State is where a payment stands.
type State string

// The states. docs/states.md draws the moves.
const (
	Requested State = "requested" // recorded; the hold is not yet moved to paying
	Charging  State = "charging"  // the provider is being asked
	Unknown   State = "unknown"   // the provider did not answer: captured or not, the prober finds out
	Captured  State = "captured"
	Declined  State = "declined" // by the provider, or voided because it never answered
	Refused   State = "refused"  // the hold was not there to be paid; nothing was charged
	Refunding State = "refunding"
	Refunded  State = "refunded"
)

// Payment is one attempt to pay an order.
type Payment struct {
	ID          id.ID // derived from shopper, order and Idempotency-Key; the provider's key too
	Order       id.ID // the order's and the reservation's id
	User        id.ID
	Amount      money.Money
	Method      string // the provider's token for the shopper's means of payment
	Fingerprint [32]byte
	State       State
	Reason      string // why it was declined or refused
	ProviderRef string // the provider's own reference, once captured
	CreatedAt   time.Time
	UpdatedAt   time.Time
	TraceParent string
}

// NewID returns the id of a payment: the same shopper, order and key are the same payment.
func NewID(user, order id.ID, key string) id.ID {
	return id.DeriveFor(user, "payment", order.String(), key)
}

// Step is a move of a payment by compare-and-set.
type Step struct {
	Payment     id.ID
	From        []State // the payment must be in one of these
	To          State
	Reason      string
	ProviderRef string // kept when empty
}

// Traffic is how busy payments are, in all processes.
type Traffic struct {
	UnderWay int // requested or charging
	Late     int // of them: requested for longer than age, and nobody has come to them; those sixty times as old are stuck
	Done     int // captured, declined or refunded within age
}

// Store keeps payments. Every call is one transaction: all of it happened, or none.
type Store interface {
	// Begin records a payment in state requested, with its event in the outbox. A payment that is
	// there already is returned as it is with created false, or ErrKeyReused when its fingerprint
	// is another.
	Begin(ctx context.Context, p Payment) (now Payment, created bool, err error)
	// Advance makes a step, with the event that Follow names in the outbox, and returns the payment
	// as it then is. ErrNotFound, or ErrIllegalMove with the payment as it is when it is in none of
	// the states the step starts from.
	Advance(ctx context.Context, s Step) (Payment, error)
	// Find returns a payment, or ErrNotFound.
	Find(ctx context.Context, payment id.ID) (Payment, error)
	// ForOrder returns the payments of an order, the oldest first.
	ForOrder(ctx context.Context, order id.ID) ([]Payment, error)
	// Stuck returns up to limit payments that have been in one of the states for longer than age,
	// the oldest first. A limit below 1 returns none.
	Stuck(ctx context.Context, states []State, age time.Duration, limit int) ([]Payment, error)
	// Traffic counts what is under way and what got done within age.
	Traffic(ctx context.Context, age time.Duration) (Traffic, error)
	// Decided returns up to limit payments that are captured, declined or refunded, and have been since
	// after a time but for longer than age, in the order in which they got there. A time that is younger than
	// age was noted before the store's clock was set back: twice the age is taken for it.
	Decided(ctx context.Context, after time.Time, age time.Duration, limit int) ([]Payment, error)
}

// Line is one payment in the statement, for the audit across services.
type Line struct {
	Payment id.ID
	Order   id.ID
	State   State
	Amount  money.Money
}

// Auditor is the payment store as the audit sees it.
type Auditor interface {
	// Audit checks the store's own equations in one consistent read.
	Audit(ctx context.Context) ([]audit.Check, error)
	// Statement calls line for every payment, sorted by order and payment id, until it returns an error.
	Statement(ctx context.Context, line func(Line) error) error
}

// Charge is what the provider knows of a charge.
type Charge struct {
	Key      id.ID // the payment's id
	Ref      string
	Amount   money.Money
	Captured bool // false: declined or voided
	Refunded bool
	Reason   string // why it was declined
}

// Provider moves money. Every call is idempotent by key: repeating it gives the same outcome and
// moves money once.
type Provider interface {
	// Charge captures the amount. ErrDeclined (with the charge's reason), or ErrUnknown when the
	// answer did not come: it may have been captured.
	Charge(ctx context.Context, key id.ID, amount money.Money, method string) (Charge, error)
	// Lookup returns the charge of a key. ErrNoCharge when the provider has none, ErrUnknown.
	Lookup(ctx context.Context, key id.ID) (Charge, error)
	// Void makes sure that the key is not and never will be captured. ErrCaptured when it was, with
	// the charge; ErrUnknown.
	Void(ctx context.Context, key id.ID) (Charge, error)
	// Refund gives a captured charge back in full. ErrNoCharge, ErrUnknown.
	Refund(ctx context.Context, key id.ID) (Charge, error)
	// Statement calls charge for every charge of the account, in any order, until it returns an error.
	Statement(ctx context.Context, charge func(Charge) error) error
}

// Errors of the stores and of providers.
var (
	ErrNotFound    = errors.New("payment: no such payment")
	ErrIllegalMove = errors.New("payment: not possible in its present state")
	ErrKeyReused   = errors.New("payment: this Idempotency-Key was used for another payment; use a new key")
	ErrDeclined    = errors.New("payment: declined by the provider; try another means of payment")
	ErrUnknown     = errors.New("payment: the provider has not answered; the outcome is not known yet")
	ErrNoCharge    = errors.New("payment: the provider has no such charge")
	ErrCaptured    = errors.New("payment: the charge was captured already")
)

// The events that payment says.
const (
	EventRequested = "payment.requested" // payment → inventory: move the hold to paying
	EventCaptured  = "payment.captured"  // payment → inventory
	EventDeclined  = "payment.declined"  // payment → inventory: release the hold
	EventRefunded  = "payment.refunded"  // payment → inventory: give the units back
)

// Data is the payload of the events about a payment. It holds no means of payment.
type Data struct {
	Payment id.ID       `json:"payment"`
	Order   id.ID       `json:"order"`
	User    id.ID       `json:"user"`
	Amount  money.Money `json:"amount"`
	State   State       `json:"state"`
	Reason  string      `json:"reason,omitempty"`
}

// Follow returns the event that follows from a payment having reached a state, or ok false. Every
// store puts it in the outbox in the transaction of the step.
func Follow(p Payment) (e transport.Envelope, ok bool) {
	kind := map[State]string{
		Requested: EventRequested, Captured: EventCaptured, Declined: EventDeclined, Refunded: EventRefunded,
	}[p.State]
	if kind == "" {
		return e, false
	}
	return transport.New(kind, transport.Payment, p.ID, p.UpdatedAt, p.TraceParent, Data{
		Payment: p.ID, Order: p.Order, User: p.User, Amount: p.Amount, State: p.State, Reason: p.Reason,
	}), true
}
