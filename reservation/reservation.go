// Package reservation is the heart's vocabulary: the request, the decision, the state machine of a
// hold, and the errors. It uses the standard library and the id and money types only.
package reservation

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flashsale/id"
	"flashsale/money"
	"fmt"
	"time"
)

// State is where a reservation stands.
type State string

// The states. Requested has no row in the ledger: acknowledged, not yet decided.
const (
	Requested State = "requested"
	Held      State = "held"
	Paying    State = "paying"
	Paid      State = "paid"
	Cancelled State = "cancelled"
	Expired   State = "expired"
	Declined  State = "declined"
	Refunded  State = "refunded"
	Refused   State = "refused"
)

// Active reports whether the state binds stock: held, paying or paid.
func (s State) Active() bool { return s == Held || s == Paying || s == Paid }

// Terminal reports whether no move leads out of the state (a paid reservation can be refunded).
func (s State) Terminal() bool {
	return s == Cancelled || s == Expired || s == Declined || s == Refunded || s == Refused
}

// MoveKind names a move of the state machine.
type MoveKind string

// The moves. docs/states.md draws them.
const (
	MovePay     MoveKind = "pay"     // held → paying, only before the hold expires
	MoveCapture MoveKind = "capture" // paying → paid, by the payment that is under way
	MoveDecline MoveKind = "decline" // paying → declined, by the payment that is under way
	MoveCancel  MoveKind = "cancel"  // held → cancelled
	MoveExpire  MoveKind = "expire"  // held → expired, only after the hold expired
	MoveRefund  MoveKind = "refund"  // paid → refunded
)

// Edge returns the states a move leads from and to. ok is false for a kind that does not exist.
func (k MoveKind) Edge() (from, to State, ok bool) {
	switch k {
	case MovePay:
		return Held, Paying, true
	case MoveCapture:
		return Paying, Paid, true
	case MoveDecline:
		return Paying, Declined, true
	case MoveCancel:
		return Held, Cancelled, true
	case MoveExpire:
		return Held, Expired, true
	case MoveRefund:
		return Paid, Refunded, true
	}
	return "", "", false
}

// Moves lists every move, for tests and documents.
func Moves() []MoveKind {
	return []MoveKind{MovePay, MoveCapture, MoveDecline, MoveCancel, MoveExpire, MoveRefund}
}

// Request is what a shopper asks for.
type Request struct {
	User     id.ID
	Key      string // the Idempotency-Key
	Sale     id.ID
	SKU      string
	Quantity int
	Cart     id.ID // the cart it comes from, or none
	// Seen is the price of a unit that the shopper saw, or zero: another one is refused.
	Seen money.Money
}

// MaxQuantity bounds the units of one reservation, whatever a sale allows.
const MaxQuantity = 1000

// ID returns the reservation's id: derived from user and key, so that a repeated request is the
// same reservation.
func (r Request) ID() id.ID { return id.DeriveFor(r.User, "reservation", r.Key) }

// Fingerprint is a hash of what was asked; the same key with another fingerprint is a mistake of
// the client's.
func (r Request) Fingerprint() [32]byte {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(int64(r.Quantity)))
	b := make([]byte, 0, 16+8+16+8+4+len(r.SKU))
	b = append(b, r.Sale[:]...)
	b = append(b, n[:]...)
	b = append(b, r.Cart[:]...)
	if r.Seen != (money.Money{}) { // a currency is three letters, a SKU comes last
		b = binary.BigEndian.AppendUint64(b, uint64(r.Seen.Amount))
		b = append(b, r.Seen.Currency...)
		b = append(b, 0)
	}
	b = append(b, r.SKU...)
	return sha256.Sum256(b)
}

// Reservation is a row of the ledger: units bound for a shopper.
type Reservation struct {
	ID          id.ID
	User        id.ID
	Sale        id.ID
	SKU         string
	Quantity    int
	UnitPrice   money.Money
	State       State
	Reason      string // why it was refused or released, empty otherwise
	Payment     id.ID  // the payment that is or was under way
	Cart        id.ID
	Fingerprint [32]byte
	CreatedAt   time.Time // UTC, the ledger's clock
	ExpiresAt   time.Time // UTC; the hold ends here unless it is being paid
}

// Total returns the price of all units.
func (r Reservation) Total() (money.Money, error) { return r.UnitPrice.Times(int64(r.Quantity)) }

// Refusals and other answers that are decisions, not faults. Each has one HTTP answer, in httpapi.
var (
	// ErrSoldOut is returned when every unit is paid for: final unless stock is added.
	ErrSoldOut = errors.New("reservation: sold out")
	// ErrHeldOut is returned when no unit is free now, but some are held and may come back.
	ErrHeldOut = errors.New("reservation: every unit is held by somebody; some may come back")
	// ErrLimitReached is returned when the shopper has as many units as the sale allows each.
	ErrLimitReached = errors.New("reservation: the limit per shopper is reached")
	// ErrTooManyUnpaid is returned when the shopper holds as many reservations without having paid for
	// them as one may at the same time, over all sales.
	ErrTooManyUnpaid = errors.New("reservation: the shopper has too many holds that are not paid for")
	// ErrSaleNotOpen is returned when the sale does not exist, is not open, or is over.
	ErrSaleNotOpen = errors.New("reservation: the sale is not open")
	// ErrUnknownItem is returned when the sale has no such item.
	ErrUnknownItem = errors.New("reservation: the sale has no such item")
	// ErrQuantity is returned when the quantity is not between 1 and the limit per shopper.
	ErrQuantity = errors.New("reservation: the quantity is outside what the sale allows")
	// ErrPrice is returned when the price the shopper saw is not the price of the sale.
	ErrPrice = errors.New("reservation: the price has changed; read the sale again")
	// ErrKeyReused is returned when an idempotency key comes again with another request.
	ErrKeyReused = errors.New("reservation: this Idempotency-Key was used for another request; use a new key")
	// ErrInFlight is returned when the same key is being handled right now.
	ErrInFlight = errors.New("reservation: the same request is being handled right now; ask again shortly")
	// ErrNotFound is returned when there is no such reservation, or it is somebody else's.
	ErrNotFound = errors.New("reservation: no such reservation")
	// ErrIllegalMove is returned when the reservation is in a state that the move does not start from.
	ErrIllegalMove = errors.New("reservation: not possible in its present state")
	// ErrExpired is returned when the hold's time is over.
	ErrExpired = errors.New("reservation: the hold has expired; reserve again")
	// ErrUncertain is returned when it is not known whether the reservation was made: ask again with
	// the same key.
	ErrUncertain = errors.New("reservation: not known whether it was made; repeat the request with the same Idempotency-Key")
	// ErrOverloaded is returned when the engine sheds load: nothing was reserved.
	ErrOverloaded = errors.New("reservation: overloaded, nothing was reserved; try again shortly")
)

// reasons names each refusal on the wire and in the ledger. It is the only such table.
func reasons() map[string]error {
	return map[string]error{
		"sold_out": ErrSoldOut, "held_out": ErrHeldOut, "limit_reached": ErrLimitReached, "too_many_unpaid": ErrTooManyUnpaid,
		"sale_not_open": ErrSaleNotOpen, "unknown_item": ErrUnknownItem, "quantity": ErrQuantity,
		"price": ErrPrice, "key_reused": ErrKeyReused, "not_found": ErrNotFound,
		"illegal_move": ErrIllegalMove, "expired": ErrExpired,
	}
}

// Reason returns the name of a refusal for the wire and the ledger, or "" when err is none.
func Reason(err error) string {
	for name, e := range reasons() {
		if errors.Is(err, e) {
			return name
		}
	}
	return ""
}

// Refusal returns the refusal of this name. It never returns nil: an unknown name is an error too.
func Refusal(name string) error {
	if err, ok := reasons()[name]; ok {
		return err
	}
	return fmt.Errorf("reservation: refused for an unknown reason %q", name)
}
