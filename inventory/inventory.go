// Package inventory defines the stock: the ledger, which is the truth about every unit, and the
// gate, a disposable counter in front of it. Its sub-packages implement the contracts.
package inventory

import (
	"errors"
	"flashsale/id"
	"flashsale/money"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"
)

// ItemID names a sale item: one SKU in one sale.
type ItemID struct {
	Sale id.ID
	SKU  string
}

// BucketID names a bucket: the part of a sale item's stock that one shard of the gate counts.
type BucketID struct {
	Item  ItemID
	Shard int
}

// String returns a readable name, for logs.
func (b BucketID) String() string { return fmt.Sprintf("%s/%s/%d", b.Item.Sale, b.Item.SKU, b.Shard) }

// Compare orders items: by sale, SKU.
func (i ItemID) Compare(o ItemID) int {
	if d := slices.Compare(i.Sale[:], o.Sale[:]); d != 0 {
		return d
	}
	return strings.Compare(i.SKU, o.SKU)
}

// Compare orders buckets: by sale, SKU, shard. Every ledger locks in this order.
func (b BucketID) Compare(o BucketID) int {
	if d := b.Item.Compare(o.Item); d != 0 {
		return d
	}
	return b.Shard - o.Shard
}

// HomeShard returns the shard of a shopper among n: where a take starts.
func HomeShard(user id.ID, n int) int {
	h := fnv.New64a()
	_, _ = h.Write(user[:])
	return int(h.Sum64() % uint64(n))
}

// Split divides total units over n shards, the first ones getting the odd units.
func Split(total int64, n int) []int64 {
	parts := make([]int64, n)
	for i := range parts {
		parts[i] = total / int64(n)
		if int64(i) < total%int64(n) {
			parts[i]++
		}
	}
	return parts
}

// SaleStatus is what the operators have set; the times apply within Open.
type SaleStatus string

// The statuses of a sale.
const (
	Scheduled SaleStatus = "scheduled"
	Open      SaleStatus = "open"
	Paused    SaleStatus = "paused"
	Ended     SaleStatus = "ended"
)

// Sale is what the ledger knows of a sale: when it sells and on which terms.
type Sale struct {
	ID       id.ID
	Status   SaleStatus
	OpensAt  time.Time
	EndsAt   time.Time
	Limit    int           // units per shopper and item; 0 means no limit
	HoldFor  time.Duration // how long a hold lasts
	Revision int64         // of the status: a change of an older or equal revision is ignored
	Items    []Item        // sorted by SKU
}

// OpenAt reports whether units can be reserved at this time.
func (s Sale) OpenAt(t time.Time) bool {
	return s.Status == Open && !t.Before(s.OpensAt) && t.Before(s.EndsAt)
}

// MayOpenAt reports whether an operator could make the sale sell at this time: it is in its hours,
// and has not been ended.
func (s Sale) MayOpenAt(now time.Time) bool {
	return s.Status != Ended && !now.Before(s.OpensAt) && now.Before(s.EndsAt)
}

// Item is a sale item with the state of its stock.
type Item struct {
	SKU       string
	UnitPrice money.Money
	Total     int64    // every unit ever put on sale
	Buckets   []Bucket // sorted by shard
}

// Sum returns the units held (being paid for included) and sold, over the buckets.
func (i Item) Sum() (held, sold int64) {
	for _, b := range i.Buckets {
		held += b.Held
		sold += b.Sold
	}
	return held, sold
}

// Bucket is a row of the ledger. Always: Held >= 0, Sold >= 0, Held+Sold <= Granted.
type Bucket struct {
	ID        BucketID
	Epoch     int64 // a take under another epoch is fenced
	Granted   int64 // units this bucket may hand out
	Held      int64 // held or being paid for
	Sold      int64
	CreditSeq int64 // number of the last credit, dense from 1
}

// Available returns the units that may still be taken.
func (b Bucket) Available() int64 { return b.Granted - b.Held - b.Sold }

// Credit is a return of units to a bucket, for the gate to apply in order: Seq is dense per bucket.
type Credit struct {
	Bucket BucketID
	Seq    int64
	Qty    int64
	User   id.ID // whose limit it relieves; none when stock was added
}

// Leg is the part of a reservation that one take drew from one bucket.
type Leg struct {
	Take   id.ID // a fresh id for every take; a network retry repeats it
	Bucket BucketID
	Epoch  int64
	Qty    int
}

// Claim asks the ledger to hold units that the gate has handed out.
type Claim struct {
	Request     reservation.Request
	Legs        []Leg // sorted by bucket; their quantities add up to the request's
	TraceParent string
}

// LegOutcome is what the ledger has recorded for a take, for ever.
type LegOutcome string

// The outcomes of a take. A take with neither is not known to the ledger.
const (
	Committed LegOutcome = "committed"
	Aborted   LegOutcome = "aborted" // a tombstone: never to be committed, the units go back
)

// Decision answers a claim.
//
// With Err nil the reservation is in the ledger. Replayed says that it was there before, from the
// same request: this claim's takes are aborted, unless it was this very claim (see Outcomes). Err
// is one of ErrFenced, ErrTakeAborted, ErrNoUnits, or reservation.ErrLimitReached, ErrTooManyUnpaid, ErrSaleNotOpen,
// ErrUnknownItem, ErrKeyReused.
type Decision struct {
	Reservation reservation.Reservation
	Replayed    bool
	Err         error
	Outcomes    []LegOutcome // one per leg of the claim, always set: settle or abort accordingly
	// Event is what follows, in the outbox when this call wrote it: reservation.held.
	Event transport.Envelope
}

// Move asks the ledger to move a reservation along its state machine.
type Move struct {
	Kind        reservation.MoveKind
	Reservation id.ID
	User        id.ID  // when set, the reservation must be this shopper's
	Payment     id.ID  // of pay, capture, decline and refund: the payment that moves it
	Reason      string // recorded for a release
	TraceParent string
}

// Moved answers a move.
//
// Applied says that this call made it. With Applied false and Err nil it had been made before, by
// the same cause. Err is reservation.ErrNotFound, ErrExpired (a pay after the hold's end, or a
// cancel of what has expired) or ErrIllegalMove; Reservation then shows the present state, unless it was not found.
type Moved struct {
	Reservation reservation.Reservation
	Applied     bool
	Err         error
	Credited    []BucketID // buckets that got a credit by this call
	// Event is what follows, in the outbox when this call wrote it; a zero Type means none. A
	// refused move can have one too: see FollowMove.
	Event transport.Envelope
}

// Errors of the gate and of the ledger.
var (
	// ErrShort is returned by a gate's Take when the bucket has fewer units than asked for.
	ErrShort = errors.New("inventory: not enough units in this bucket")
	// ErrFenced is returned when the caller's epoch is not the bucket's: read the sale again.
	ErrFenced = errors.New("inventory: the bucket has a new epoch")
	// ErrClosed is returned by a gate whose bucket is not installed: never zero, but closed.
	ErrClosed = errors.New("inventory: the bucket is not installed at the gate yet")
	// ErrUnavailable is returned by a gate that certainly took nothing because it cannot be reached.
	ErrUnavailable = errors.New("inventory: the gate cannot be reached")
	// ErrUncertain is returned when the answer was lost: the call may or may not have had its effect.
	// The pending record's deadline, or a look-up, decides.
	ErrUncertain = errors.New("inventory: not known whether it happened")
	// ErrTakeAborted is returned when a take of the claim has a tombstone.
	ErrTakeAborted = errors.New("inventory: the take was given back before it was committed")
	// ErrNoUnits is returned when the bucket's row has not enough units: the gate had promised too
	// many. It never happens while gate and protocol are right.
	ErrNoUnits = errors.New("inventory: the ledger has not enough units in this bucket")
	// ErrUnknownSale is returned when the ledger has no such sale.
	ErrUnknownSale = errors.New("inventory: no such sale")
)
