package inventory

import (
	"context"
	"flashsale/id"
	"time"
)

// Take asks the gate for units of one bucket.
type Take struct {
	ID       id.ID // fresh for every take
	Bucket   BucketID
	Epoch    int64
	User     id.ID
	Qty      int
	Limit    int       // units per shopper as far as this bucket knows; 0 means no limit
	Deadline time.Time // from here on the reaper may ask the ledger what became of the take
	// Note is kept with the pending take and comes back with Overdue; the gate does not look into it.
	// Some hundred bytes, or empty.
	Note string
}

// Taken answers a take.
type Taken struct {
	// UserHas is how many units the shopper had in this bucket before the take, as far as the gate
	// remembers. A refused shopper with none cannot be repeating a request that won.
	UserHas int
	// Available is what the bucket has left.
	Available int64
}

// TakeRef names a take for Settle, Abort and Withdraw.
type TakeRef struct {
	ID     id.ID
	Bucket BucketID
	Epoch  int64
}

// Gate hands out units before the ledger has said yes. It is disposable: whatever it forgets is
// rebuilt from the ledger under a new epoch.
//
// Every call is atomic per bucket and may be repeated with the same arguments. What a call itself had sent again does
// nothing when it arrives after the call was answered, however late. An empty, restarted or replaced shard is closed, never zero.
type Gate interface {
	// Take decrements the bucket and records the take as pending. A take whose id is pending already
	// is answered the same again. Refusals: ErrShort and reservation.ErrLimitReached (both with
	// Taken filled in), ErrFenced, ErrClosed. ErrUnavailable: nothing was taken. ErrUncertain: perhaps.
	Take(ctx context.Context, t Take) (Taken, error)
	// Settle forgets the pending records of takes that the ledger has committed. Unknown takes and
	// other epochs are ignored, and so it is with Abort.
	Settle(ctx context.Context, takes []TakeRef) error
	// Abort gives the units of pending takes back, for takes that the ledger will never commit: call
	// it only for takes with a tombstone.
	Abort(ctx context.Context, takes []TakeRef) error
	// Withdraw gives back the units of those takes that are pending and that Overdue has not returned to
	// anybody, and reports whether those are all of them: call it for takes that were handed to nobody else.
	// After false, for the others, and after an error, for each, the ledger may commit it all the same.
	Withdraw(ctx context.Context, takes []TakeRef) (bool, error)
}

// Level is what the gate knows of one bucket.
type Level struct {
	Epoch     int64 // 0: closed, or Away
	Available int64
	Seq       int64 // the last credit applied
	Pending   int64 // units of pending takes
	Away      bool  // the shard cannot be reached, or the gate has none of this number
}

// Pending is a take that was neither settled nor aborted.
type Pending struct {
	TakeRef
	User     id.ID
	Qty      int
	Deadline time.Time
	Note     string
}

// Keeper is the other side of a gate: what keeps it in step with the ledger. The same guarantees
// hold as for Gate, but Install is not to be repeated.
type Keeper interface {
	// Install opens a bucket under a higher epoch than it has, with the units and the shoppers'
	// counts of the ledger; pending takes of older epochs are forgotten. An epoch that is not higher, or below 1,
	// is ignored. After an error ask the ledger again, which raises the epoch: units may have been sold since.
	Install(ctx context.Context, b BucketID, l Level, users map[id.ID]int) error
	// Credit applies credits in order; each one only if its number is the next and the epoch is the
	// bucket's. It returns the number of the last credit applied. ErrFenced, ErrClosed.
	Credit(ctx context.Context, b BucketID, epoch int64, credits []Credit) (int64, error)
	// Levels returns the levels of buckets, in order; a closed bucket has the zero Level. A shard
	// that cannot be reached is no error: its buckets are Away.
	Levels(ctx context.Context, buckets []BucketID) ([]Level, error)
	// Overdue returns up to limit pending takes of a bucket whose deadline is not after now, those it has
	// returned before and the most overdue first. From then on they are the keepers' to conclude: whoever
	// took them cannot withdraw them, for a keeper may have the ledger commit them at any moment.
	Overdue(ctx context.Context, b BucketID, now time.Time, limit int) ([]Pending, error)
	// Shards returns how many shards the gate has. It does not change while the process runs.
	Shards() int
}
