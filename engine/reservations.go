package engine

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"flashsale/transport"
	"log/slog"
	"time"
)

// ReservationReader reads a reservation from the ledger: directly, or by asking the inventory
// service. It returns reservation.ErrNotFound when there is none.
type ReservationReader interface {
	Find(ctx context.Context, reservation id.ID) (reservation.Reservation, error)
	// Bound returns how many units of an item a shopper has in the ledger.
	Bound(ctx context.Context, item inventory.ItemID, user id.ID) (int, error)
}

// LedgerReader also reads many at once.
type LedgerReader interface {
	ReservationReader
	// Rows returns those of the reservations that are there, in any order. They may be without their fingerprints.
	Rows(ctx context.Context, reservations []id.ID) ([]reservation.Reservation, error)
}

// Reservations are the reservation service's use cases: reserve, cancel, status.
type Reservations struct {
	admission *Admission
	flow      *Flow
	read      LedgerReader
	waiting   waiters
	throttle  *Throttle
	promise   bool
	clock     func() time.Time
	log       *slog.Logger
}

// NewReservations returns the use cases. promise says that the flow answers "accepted": a refusal
// after that must be recorded as a decision. Close it when done.
func NewReservations(admission *Admission, flow *Flow, read LedgerReader, throttle *Throttle, promise bool, clock func() time.Time, log *slog.Logger) *Reservations {
	return &Reservations{
		admission: admission, flow: flow, read: read, throttle: throttle, promise: promise, clock: clock, log: log,
		waiting: waiters{rows: read.Rows, log: log, of: map[id.ID][]chan reservation.Reservation{}},
	}
}

// Close ends the look under way.
func (r *Reservations) Close() { r.waiting.close() }

// Outcome is what became of a request. Not Decided means accepted: stored durably, it will be
// decided, and Reservation has its id and the state requested.
type Outcome struct {
	Reservation reservation.Reservation
	Decided     bool
	Replayed    bool // the same request had been answered before
}

// Come says whether one who comes to reserve is turned away, whoever he is: see Throttle.Come. It is asked before Reserve.
func (r *Reservations) Come(lot int) Turned { return r.throttle.Come(lot) }

// Reserve binds units for a shopper: take at the gate, commit in the ledger, and only then
// "reserved". A refusal is one of the reservation errors. ErrOverloaded means that nothing was reserved; ErrUncertain that nobody knows yet, and
// that repeating the request with its key finds out.
func (r *Reservations) Reserve(ctx context.Context, req reservation.Request, trace string) (Outcome, error) {
	if !r.throttle.Enter() {
		return Outcome{}, reservation.ErrOverloaded
	}
	claim, astray, err := r.admission.Admit(ctx, req, trace, r.promise)
	if err != nil {
		return r.replay(ctx, req, err)
	}
	// The discriminator is the take: a repeated request brings new takes, and they must be heard of.
	e := transport.Repeatable(inventory.EventRequested, transport.Reservation, req.ID(), claim.Legs[0].Take.String(),
		r.clock(), trace, inventory.NewClaimData(claim, r.promise))
	receipt, err := r.flow.Dispatch(ctx, e)
	switch {
	case err != nil && transport.NothingHandled(err):
		if gone := r.admission.giveBack(ctx, claim.Legs); r.promise && (!gone || astray) { // the gate may still have the request
			return Outcome{}, reservation.ErrUncertain
		}
		return Outcome{}, reservation.ErrOverloaded
	case err != nil:
		r.log.WarnContext(ctx, "reservation uncertain", "reservation", req.ID(), "trace", trace, "error", err)
		return Outcome{}, reservation.ErrUncertain
	case !receipt.Decided:
		return Outcome{Reservation: reservation.Reservation{
			ID: req.ID(), User: req.User, Sale: req.Sale, SKU: req.SKU, Quantity: req.Quantity, Cart: req.Cart,
			State: reservation.Requested,
		}}, nil
	}
	return outcome(receipt, inventory.EventHeld, inventory.EventRefused)
}

// answerVersion is the newest schema of an answer that is read here: what an inventory service that is
// already newer has decided is looked up by asking again.
const answerVersion = 1

// outcome reads the decision out of a receipt.
func outcome(receipt transport.Receipt, yes, no string) (Outcome, error) {
	if e, ok := receipt.Find(yes); ok && e.Version <= answerVersion {
		d, err := transport.Decode[inventory.ReservationData](e)
		return Outcome{Reservation: d.Row(), Decided: true, Replayed: d.Replayed}, err
	}
	if e, ok := receipt.Find(no); ok && e.Version <= answerVersion {
		d, err := transport.Decode[inventory.ReservationData](e)
		if err != nil {
			return Outcome{}, err
		}
		return Outcome{Reservation: d.Row(), Decided: true}, reservation.Refusal(d.Reason)
	}
	return Outcome{}, reservation.ErrUncertain
}

// doubt looks again at a refusal by the gate when the gate remembers the shopper with units, or could not be asked about all
// of them: they may be those of this very request, sent before. It returns the request's row if there is one, or
// whether units of the shopper are on their way to the ledger. Losers have none, so while every shard answers they never
// reach the ledger.
func doubt(ctx context.Context, read ReservationReader, req reservation.Request, refusal error) (row *reservation.Reservation, undecided bool, err error) {
	var known refused
	if !errors.As(refusal, &known) || known.had == 0 && !known.late && !known.blind {
		return nil, false, nil
	}
	// In this order: what is committed between the two reads is seen by the second.
	bound := 0
	if known.had > 0 {
		bound, err = read.Bound(ctx, inventory.ItemID{Sale: req.Sale, SKU: req.SKU}, req.User)
		if err != nil {
			return nil, false, err
		}
	}
	r, err := read.Find(ctx, req.ID())
	switch {
	case errors.Is(err, reservation.ErrNotFound):
		return nil, known.had > bound, nil
	case err != nil:
		return nil, false, err
	}
	return &r, false, nil
}

// replay answers a refused shopper who may be repeating a request that won, or that is not decided.
func (r *Reservations) replay(ctx context.Context, req reservation.Request, refusal error) (Outcome, error) {
	row, undecided, err := doubt(ctx, r.read, req, refusal)
	switch {
	case err != nil:
		r.log.WarnContext(ctx, "a repeated request cannot be looked up", "reservation", req.ID(), "error", err)
		return Outcome{}, reservation.ErrUncertain
	case undecided && errors.Is(refusal, reservation.ErrUncertain): // by a take of its own
		return Outcome{}, reservation.ErrUncertain
	case undecided:
		return Outcome{}, reservation.ErrInFlight
	case row == nil && shaded(refusal): // an earlier request that is not decided may have units where nobody could look
		return Outcome{}, reservation.ErrUncertain
	case row == nil:
		return Outcome{}, plain(refusal)
	case row.Fingerprint != req.Fingerprint():
		return Outcome{}, reservation.ErrKeyReused
	case row.State == reservation.Refused:
		return Outcome{}, reservation.Refusal(row.Reason)
	}
	return Outcome{Reservation: *row, Decided: true, Replayed: true}, nil
}

// shaded reports whether a refusal says no more than that a bucket which has units could not be asked.
func shaded(err error) bool {
	var known refused
	return errors.As(err, &known) && known.blind && errors.Is(err, reservation.ErrOverloaded)
}

// plain takes the refusal out of its wrapping.
func plain(err error) error {
	var known refused
	if errors.As(err, &known) {
		return known.error
	}
	return err
}

// Cancel gives a held reservation back. ErrNotFound when it is not this shopper's, ErrExpired,
// ErrIllegalMove, ErrUncertain, ErrOverloaded.
func (r *Reservations) Cancel(ctx context.Context, user, v id.ID, trace string) (Outcome, error) {
	row, err := r.Status(ctx, user, v)
	switch {
	case err != nil:
		return Outcome{}, err
	case row.State == reservation.Cancelled:
		return Outcome{Reservation: row, Decided: true, Replayed: true}, nil
	case row.State == reservation.Expired:
		return Outcome{Reservation: row, Decided: true}, reservation.ErrExpired
	case row.State != reservation.Held:
		return Outcome{Reservation: row, Decided: true}, reservation.ErrIllegalMove
	}
	e := transport.New(inventory.EventCancelRequest, transport.Reservation, v, r.clock(), trace, inventory.CancelData{Reservation: v, User: user})
	receipt, err := r.flow.Dispatch(ctx, e)
	switch {
	case err != nil && transport.NothingHandled(err):
		return Outcome{}, reservation.ErrOverloaded
	case err != nil:
		return Outcome{}, reservation.ErrUncertain
	case !receipt.Decided:
		return Outcome{Reservation: row}, nil
	}
	return outcome(receipt, inventory.EventReleased, inventory.EventCancelRefused)
}

// Status returns a shopper's reservation. One that is not in the ledger but has an id of this
// shopper's is in state requested: an accepted request that is not decided yet. ErrNotFound.
func (r *Reservations) Status(ctx context.Context, user, v id.ID) (reservation.Reservation, error) {
	if !v.OwnedBy(user) {
		return reservation.Reservation{}, reservation.ErrNotFound
	}
	row, err := r.read.Find(ctx, v)
	switch {
	case errors.Is(err, reservation.ErrNotFound):
		return reservation.Reservation{ID: v, User: user, State: reservation.Requested}, nil
	case err != nil:
		r.log.WarnContext(ctx, "reservation cannot be read", "reservation", v, "error", err)
		return row, reservation.ErrOverloaded
	case row.User != user:
		return reservation.Reservation{}, reservation.ErrNotFound
	}
	return row, nil
}
