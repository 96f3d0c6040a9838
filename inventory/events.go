package inventory

import (
	"errors"
	"flashsale/id"
	"flashsale/money"
	"flashsale/reservation"
	"flashsale/transport"
	"time"
)

// The events that inventory says, and the commands it takes.
const (
	EventRequested      = "reservation.requested"        // reservation → inventory: a claim
	EventCancelRequest  = "reservation.cancel_requested" // reservation → inventory
	EventHeld           = "reservation.held"             // inventory → order
	EventRefused        = "reservation.refused"          // the decision against a request
	EventReleased       = "reservation.released"         // inventory → order: cancelled, expired, declined, refunded
	EventPaying         = "reservation.paying"           // inventory → payment: charge now
	EventPaymentRefused = "reservation.payment_refused"  // inventory → order: the hold is not there to be paid
	EventPaid           = "reservation.paid"             // inventory → order
	EventLatePayment    = "reservation.late_payment"     // inventory → payment: captured too late, refund it
	EventCancelRefused  = "reservation.cancel_refused"   // the decision against a cancellation
)

// ClaimData is the payload of reservation.requested.
type ClaimData struct {
	User     id.ID  `json:"user"`
	Key      string `json:"key"`
	Sale     id.ID  `json:"sale"`
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
	Cart     id.ID  `json:"cart,omitzero"`
	// Seen is the price that the shopper saw; it belongs to the request's fingerprint.
	Seen money.Money `json:"seen,omitzero"`
	Legs []LegData   `json:"legs"`
	// Promised says that the shopper was told "accepted": a refusal must then be recorded.
	Promised bool `json:"promised"`
}

// LegData is a leg on the wire.
type LegData struct {
	Take  id.ID `json:"take"`
	Shard int   `json:"shard"`
	Epoch int64 `json:"epoch"`
	Qty   int   `json:"qty"`
}

// NewClaimData returns the payload for a claim.
func NewClaimData(c Claim, promised bool) ClaimData {
	d := ClaimData{
		User: c.Request.User, Key: c.Request.Key, Sale: c.Request.Sale, SKU: c.Request.SKU,
		Quantity: c.Request.Quantity, Cart: c.Request.Cart, Seen: c.Request.Seen, Promised: promised,
	}
	for _, l := range c.Legs {
		d.Legs = append(d.Legs, LegData{Take: l.Take, Shard: l.Bucket.Shard, Epoch: l.Epoch, Qty: l.Qty})
	}
	return d
}

// Claim returns the claim of the payload.
func (d ClaimData) Claim(trace string) Claim {
	item := ItemID{Sale: d.Sale, SKU: d.SKU}
	c := Claim{
		Request: reservation.Request{
			User: d.User, Key: d.Key, Sale: d.Sale, SKU: d.SKU, Quantity: d.Quantity, Cart: d.Cart, Seen: d.Seen,
		},
		TraceParent: trace,
	}
	for _, l := range d.Legs {
		c.Legs = append(c.Legs, Leg{Take: l.Take, Bucket: BucketID{Item: item, Shard: l.Shard}, Epoch: l.Epoch, Qty: l.Qty})
	}
	return c
}

// ReservationData is the payload of the events about a reservation.
type ReservationData struct {
	Reservation id.ID             `json:"reservation"`
	User        id.ID             `json:"user"`
	Sale        id.ID             `json:"sale"`
	SKU         string            `json:"sku"`
	Quantity    int               `json:"quantity"`
	UnitPrice   money.Money       `json:"unit_price"`
	State       reservation.State `json:"state"`
	Reason      string            `json:"reason,omitempty"`
	Payment     id.ID             `json:"payment,omitzero"`
	Cart        id.ID             `json:"cart,omitzero"`
	CreatedAt   time.Time         `json:"created_at"`
	ExpiresAt   time.Time         `json:"expires_at"`
	// Replayed says that the reservation had been made before by the same request. It is said to
	// the sender only, never in the outbox.
	Replayed bool `json:"replayed,omitempty"`
	// Fingerprint is there only in the answer to who asks for a reservation.
	Fingerprint []byte `json:"fingerprint,omitempty"`
}

// CancelData is the payload of reservation.cancel_requested.
type CancelData struct {
	Reservation id.ID `json:"reservation"`
	User        id.ID `json:"user"`
}

// Data returns the payload for a reservation.
func Data(r reservation.Reservation) ReservationData {
	return ReservationData{
		Reservation: r.ID, User: r.User, Sale: r.Sale, SKU: r.SKU, Quantity: r.Quantity, UnitPrice: r.UnitPrice,
		State: r.State, Reason: r.Reason, Payment: r.Payment, Cart: r.Cart, CreatedAt: r.CreatedAt, ExpiresAt: r.ExpiresAt,
	}
}

// Row returns the reservation of the payload, with its fingerprint if that is there.
func (d ReservationData) Row() reservation.Reservation {
	r := reservation.Reservation{
		ID: d.Reservation, User: d.User, Sale: d.Sale, SKU: d.SKU, Quantity: d.Quantity, UnitPrice: d.UnitPrice,
		State: d.State, Reason: d.Reason, Payment: d.Payment, Cart: d.Cart, CreatedAt: d.CreatedAt, ExpiresAt: d.ExpiresAt,
	}
	copy(r.Fingerprint[:], d.Fingerprint)
	return r
}

// Held returns the event that a reservation was made.
func Held(r reservation.Reservation, trace string) transport.Envelope {
	return transport.New(EventHeld, transport.Inventory, r.ID, r.CreatedAt, trace, Data(r))
}

// RefusedEvent returns the decision against a request; the answer to its sender, not for the outbox.
func RefusedEvent(r reservation.Reservation, at time.Time, trace string) transport.Envelope {
	return transport.New(EventRefused, transport.Inventory, r.ID, at, trace, Data(r))
}

// FollowMove returns the event that follows an answered move, or ok false when nothing does. Every
// ledger puts it in the outbox in the transaction of the move. It is the same event for a move
// that was made before, so that repeating a step repeats what followed, under the same event ids.
func FollowMove(m Move, a Moved, at time.Time) (e transport.Envelope, ok bool) {
	kind, data := "", Data(a.Reservation)
	once := "" // tells apart events of one kind about one reservation
	switch {
	case errors.Is(a.Err, reservation.ErrNotFound):
		return e, false
	case a.Err == nil:
		switch m.Kind {
		case reservation.MovePay:
			kind = EventPaying
		case reservation.MoveCapture:
			kind = EventPaid
		case reservation.MoveDecline, reservation.MoveCancel, reservation.MoveExpire, reservation.MoveRefund:
			kind = EventReleased
		}
	case m.Kind == reservation.MovePay:
		kind, once = EventPaymentRefused, m.Payment.String()
		data.Payment, data.Reason = m.Payment, reservation.Reason(a.Err)
	case m.Kind == reservation.MoveCapture:
		// Money was taken for a hold that is gone: never silently sold, the payment gives it back.
		kind, once = EventLatePayment, m.Payment.String()
		data.Payment = m.Payment
	case m.Kind == reservation.MoveCancel:
		return e, false // the caller is told by the answer; nobody else has to know
	}
	if kind == "" {
		return e, false
	}
	return transport.Repeatable(kind, transport.Inventory, a.Reservation.ID, once, at, m.TraceParent, data), true
}
