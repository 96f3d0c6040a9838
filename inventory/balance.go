package inventory

import "context"

// Transfer moves units between two buckets of an item. Leg is a take that has drawn them from the
// donor at the gate.
type Transfer struct {
	Leg Leg
	To  int // the receiver's shard
}

// Balance is the ledger as the rebalancing sees it: units move between the buckets of an item, and
// their sum stays. Every call is one transaction and safe to repeat.
type Balance interface {
	// Transfer moves the leg's units from the donor's row to the receiver's, with a credit for the
	// receiver, and records the take as committed. It returns what is recorded for the take: Aborted
	// when the donor has another epoch or too few units, or when there is no such receiver; then
	// nothing moved and the take has a tombstone. A take that is known moves nothing again.
	Transfer(ctx context.Context, t Transfer) (LegOutcome, error)
	// Evacuate fences a bucket whose shard is gone and moves what it has available to the buckets of
	// the same item on the shards named, evenly, with a credit each. It returns the buckets credited.
	// Units that are held stay where they are; once released, they can be evacuated too.
	// ErrUnknownSale.
	Evacuate(ctx context.Context, from BucketID, to []int) ([]BucketID, error)
	// Spread gives every item that has fewer than this many buckets the others, empty.
	Spread(ctx context.Context, shards int) error
}

// Shift is a step of a plan: units to move from one bucket of an item to another, by index.
type Shift struct {
	From, To int
	Qty      int64
}

// The shape of a plan. Below tailUnits a bucket a shopper searches more buckets than the units are
// worth, so the tail is drained to one.
const (
	tailUnits = 8
	maxShift  = 1_000_000
)

// Plan says which units of an item to move, given what each of its open buckets has available: the
// tail of the stock to one bucket, tail; before that, units to buckets that have run dry. A plan
// that was carried out is followed by an empty one.
func Plan(available []int64, tail int) []Shift {
	n := int64(len(available))
	var total int64
	for _, a := range available {
		total += a
	}
	if n < 2 || total == 0 {
		return nil
	}
	var plan []Shift
	if total < tailUnits*n {
		for i, a := range available {
			if i != tail && a > 0 {
				plan = append(plan, Shift{From: i, To: tail, Qty: a})
			}
		}
		return plan
	}
	mean := total / n
	left := append([]int64(nil), available...)
	for dry := range left {
		if left[dry] >= mean/4 {
			continue
		}
		for rich := range left {
			qty := min(left[rich]-mean, mean-left[dry], maxShift)
			if qty <= 0 {
				continue
			}
			left[rich] -= qty
			left[dry] += qty
			plan = append(plan, Shift{From: rich, To: dry, Qty: qty})
		}
	}
	return plan
}
