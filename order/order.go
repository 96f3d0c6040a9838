// Package order defines carts and orders: what a shopper means to buy, and what they have bought.
// An order carries the id of its reservation, so there is one order per reservation by construction.
package order

import (
	"context"
	"errors"
	"flashsale/audit"
	"flashsale/id"
	"flashsale/money"
	"flashsale/transport"
	"time"
)

// State is where an order stands.
type State string

// The states. An order only ever moves to a state of a higher rank.
const (
	Open      State = "open"      // the hold is there, the payment is not
	Confirmed State = "confirmed" // paid
	Cancelled State = "cancelled" // the hold was released before it was paid
	Refunded  State = "refunded"  // paid, and given back
)

// Rank orders the states: a change to a state of an equal or lower rank changes nothing, so that
// events may come twice and in any order.
func (s State) Rank() int {
	switch s {
	case Confirmed, Cancelled:
		return 1
	case Refunded:
		return 2
	}
	return 0
}

// Order is one purchase.
type Order struct {
	ID        id.ID // the reservation's id
	User      id.ID
	Sale      id.ID
	SKU       string
	Quantity  int
	UnitPrice money.Money
	Total     money.Money
	State     State
	Reason    string // why it was cancelled: declined, expired, cancelled
	Payment   id.ID  // the payment that confirmed it
	Cart      id.ID
	CreatedAt time.Time // UTC
	UpdatedAt time.Time // UTC
	ExpiresAt time.Time // UTC; when the hold ends that it must be paid within
}

// Change is an order as an event describes it. It is applied only if it raises the rank.
type Change struct {
	Order       Order // State is where it should be; everything else is for an order not seen before
	TraceParent string
}

// Changed answers a change.
type Changed struct {
	Order   Order // as it is now
	Applied bool
	// Event is what follows, in the outbox when this call wrote it; a zero Type means none. A change
	// that had been made before is followed by the same event again.
	Event transport.Envelope
}

// Store keeps orders. Every call is one transaction: all of it happened, or none.
type Store interface {
	// Apply makes a group of changes, in order, and returns an answer for each. An order that is
	// not there is created in the state of the change. Carts named by new orders become checked out
	// when they are the same shopper's. Safe to repeat.
	Apply(ctx context.Context, changes []Change) ([]Changed, error)
	// Find returns an order, or ErrNotFound.
	Find(ctx context.Context, order id.ID) (Order, error)
	// States returns the states of those of the orders that are there.
	States(ctx context.Context, orders []id.ID) (map[id.ID]State, error)
	// List returns a shopper's orders, the newest first (by creation, then id), after the cursor;
	// a zero cursor starts from the newest, a limit below 1 returns none.
	List(ctx context.Context, user id.ID, after Cursor, limit int) ([]Order, error)
}

// Cursor is a place in a list of orders.
type Cursor struct {
	CreatedAt time.Time
	ID        id.ID
}

// Cart is what a shopper means to buy. It binds nothing.
type Cart struct {
	ID         id.ID
	User       id.ID
	CheckedOut bool
	Items      []CartItem // in the order they were added
	CreatedAt  time.Time  // UTC
}

// CartItem is one line of a cart.
type CartItem struct {
	Sale      id.ID
	SKU       string
	Quantity  int
	UnitPrice money.Money // as the sale said when the item was added
}

// MaxCartItems bounds the lines of a cart.
const MaxCartItems = 50

// Carts keeps carts.
type Carts interface {
	// Create stores a new, empty cart.
	Create(ctx context.Context, c Cart) error
	// Add adds an item to a cart, or adds its quantity to the line of the same sale and SKU, whose
	// price becomes the new one. It returns the cart as it then is. ErrNotFound when there is no
	// such cart of this shopper, ErrCheckedOut, ErrCartFull, ErrQuantity.
	Add(ctx context.Context, cart, user id.ID, item CartItem) (Cart, error)
	// Cart returns a cart of this shopper, or ErrNotFound.
	Cart(ctx context.Context, cart, user id.ID) (Cart, error)
}

// Line is one order in the statement, for the audit across services.
type Line struct {
	Order   id.ID
	User    id.ID
	State   State
	Total   money.Money
	Payment id.ID
}

// Auditor is the order store as the audit sees it.
type Auditor interface {
	// Audit checks the store's own equations in one consistent read.
	Audit(ctx context.Context) ([]audit.Check, error)
	// Statement calls line for every order, sorted by id, until it returns an error.
	Statement(ctx context.Context, line func(Line) error) error
}

// Errors of the stores.
var (
	ErrNotFound   = errors.New("order: no such order or cart")
	ErrCheckedOut = errors.New("order: the cart is checked out; create a new one")
	ErrCartFull   = errors.New("order: the cart has as many lines as it may have")
	ErrQuantity   = errors.New("order: the quantity of a line is from 1 to 1000")
)

// The events that order says.
const (
	EventConfirmed = "order.confirmed" // order → notification
	EventCancelled = "order.cancelled" // order → notification
	EventRefunded  = "order.refunded"  // order → notification
)

// Data is the payload of the events about an order.
type Data struct {
	Order     id.ID       `json:"order"`
	User      id.ID       `json:"user"`
	Sale      id.ID       `json:"sale"`
	SKU       string      `json:"sku"`
	Quantity  int         `json:"quantity"`
	Total     money.Money `json:"total"`
	State     State       `json:"state"`
	Reason    string      `json:"reason,omitempty"`
	CreatedAt time.Time   `json:"created_at"`
}

// Follow returns the event that follows from an order having reached a state, or ok false. Every
// store puts it in the outbox in the transaction of the change.
func Follow(o Order, trace string) (e transport.Envelope, ok bool) {
	kind := map[State]string{Confirmed: EventConfirmed, Cancelled: EventCancelled, Refunded: EventRefunded}[o.State]
	if kind == "" {
		return e, false
	}
	return transport.New(kind, transport.Order, o.ID, o.UpdatedAt, trace, Data{
		Order: o.ID, User: o.User, Sale: o.Sale, SKU: o.SKU, Quantity: o.Quantity, Total: o.Total,
		State: o.State, Reason: o.Reason, CreatedAt: o.CreatedAt,
	}), true
}
