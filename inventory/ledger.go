package inventory

import (
	"context"
	"flashsale/audit"
	"flashsale/id"
	"flashsale/money"
	"flashsale/reservation"
)

// Ledger is the truth about every unit, as the handlers see it. Every call is one transaction
// (or one a group): all of it happened, or none. An error that is not listed means unknown: the
// caller looks up or repeats; every call is safe to repeat.
type Ledger interface {
	// Commit decides a group of claims and returns a decision for each, in order. It locks the
	// buckets in order, requires their epochs, and admits each claim that fits after those before
	// it; one bad claim never fails the group. Legs of claims that were not admitted become
	// tombstones. The limit per shopper is enforced here, whatever the gate forgot, and so
	// is the bound on what a shopper holds unpaid, which the gate does not know.
	Commit(ctx context.Context, claims []Claim) ([]Decision, error)
	// Move makes a group of moves by compare-and-set with the ledger's clock and returns an answer
	// for each, in order. A release returns the units: bucket row and credit in one transaction.
	Move(ctx context.Context, moves []Move) ([]Moved, error)
	// Refuse records that a request which was acknowledged is refused, so that the shopper sees the
	// decision. A reservation that exists stays as it is. It returns the reservations as they are.
	Refuse(ctx context.Context, refusals []Refusal) ([]reservation.Reservation, error)
	// Find returns a reservation, or reservation.ErrNotFound.
	Find(ctx context.Context, reservation id.ID) (reservation.Reservation, error)
	// Bound returns how many units of an item a shopper has in reservations that are held, paying or
	// paid: what the limit counts.
	Bound(ctx context.Context, item ItemID, user id.ID) (int, error)
	// Due returns up to limit held reservations whose hold is over by the ledger's clock, the
	// oldest first.
	Due(ctx context.Context, limit int) ([]id.ID, error)
}

// Refusal is a decision against a request that was acknowledged with "accepted".
type Refusal struct {
	Request     reservation.Request
	Reason      string // as reservation.Reason names it
	TraceParent string
}

// Provision asks the ledger to open its books for a sale.
type Provision struct {
	Sale   Sale // Items with SKU, UnitPrice and Total; Buckets are made by the ledger
	Shards int  // how many buckets an item is split over
}

// Addition adds stock to a sale item, once per id.
type Addition struct {
	ID   id.ID
	Item ItemID
	Qty  int64
}

// Sales is the ledger as the sale's operators and the reserve path see it.
type Sales interface {
	// Provision opens the books of a sale; a sale that exists stays as it is.
	Provision(ctx context.Context, p Provision) error
	// SetStatus changes status, opening and ending of a sale, unless it has seen this revision or a
	// later one. ErrUnknownSale.
	SetStatus(ctx context.Context, s Sale) error
	// AddStock grants units to the buckets of an item, evenly, with a credit each; an addition whose
	// id is known is ignored. It returns the buckets credited. ErrUnknownSale.
	AddStock(ctx context.Context, a Addition) ([]BucketID, error)
	// Sale returns a sale with its items and buckets, in one consistent read. ErrUnknownSale.
	Sale(ctx context.Context, sale id.ID) (Sale, error)
}

// Books is the ledger as the recovery, the credit relay and the reaper see it.
type Books interface {
	// Buckets returns the buckets of these items, or with nil of all sales that have not ended more
	// than a day ago, in order.
	Buckets(ctx context.Context, of []ItemID) ([]Bucket, error)
	// Reopen raises the epoch of a bucket from the one that it was seen with, and returns the row as it then is, with
	// the units that each shopper has in it; takes under older epochs are fenced from here on. ErrFenced: it has another
	// epoch, so somebody else has opened or evacuated it, or it is not there.
	Reopen(ctx context.Context, b BucketID, from int64) (Bucket, map[id.ID]int, error)
	// Credits returns up to limit credits of a bucket numbered above after, in order.
	Credits(ctx context.Context, b BucketID, after int64, limit int) ([]Credit, error)
	// Tombstone records every take as aborted that the ledger does not know, and returns the
	// outcome of each, in order: from then on it is final.
	Tombstone(ctx context.Context, takes []Pending) ([]LegOutcome, error)
}

// Line is one reservation in the ledger's statement, for the audit across services.
type Line struct {
	Reservation id.ID
	User        id.ID
	State       reservation.State
	Quantity    int
	Total       money.Money
	Payment     id.ID
}

// Auditor is the ledger as the audit sees it.
type Auditor interface {
	// Audit checks the ledger's own equations (1 to 5 and its part of 7) in one consistent read.
	Audit(ctx context.Context) ([]audit.Check, error)
	// Statement calls line for every reservation, sorted by id, until it returns an error.
	Statement(ctx context.Context, line func(Line) error) error
}
