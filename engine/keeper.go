package engine

import (
	"context"
	"flashsale/inventory"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// GateKeeper is a gate with its keeper's side.
type GateKeeper interface {
	inventory.Gate
	inventory.Keeper
}

// Keeper keeps the gate in step with the ledger: it installs buckets that are closed or of another
// epoch, applies credits, reaps orphaned takes, and settles what the ledger has decided. Everything
// it does in the background can be lost and is found again by the next pass.
type Keeper struct {
	gate  GateKeeper
	books inventory.Books
	clock func() time.Time
	log   *slog.Logger

	mu       sync.Mutex
	settle   []inventory.TakeRef
	abort    []inventory.TakeRef
	credited map[inventory.BucketID]struct{}
	wake     chan struct{}

	pass sync.Mutex // one pass at a time in this process
}

// maxConclusions bounds what waits to be settled; the rest is left to the reaper.
const maxConclusions = 100_000

// NewKeeper returns a Keeper.
func NewKeeper(gate GateKeeper, books inventory.Books, clock func() time.Time, log *slog.Logger) *Keeper {
	return &Keeper{
		gate: gate, books: books, clock: clock, log: log,
		credited: map[inventory.BucketID]struct{}{}, wake: make(chan struct{}, 1),
	}
}

// Conclude notes what the ledger has recorded for takes, for the gate to be told soon.
func (k *Keeper) Conclude(legs []inventory.Leg, outcomes []inventory.LegOutcome) {
	k.mu.Lock()
	for i, ref := range refs(legs) {
		if len(k.settle)+len(k.abort) >= maxConclusions {
			break
		}
		if outcomes[i] == inventory.Committed {
			k.settle = append(k.settle, ref)
		} else {
			k.abort = append(k.abort, ref)
		}
	}
	k.mu.Unlock()
	k.rouse()
}

// Nudge has the credits of buckets applied soon.
func (k *Keeper) Nudge(buckets []inventory.BucketID) {
	if len(buckets) == 0 {
		return
	}
	k.mu.Lock()
	for _, b := range buckets {
		k.credited[b] = struct{}{}
	}
	k.mu.Unlock()
	k.rouse()
}

func (k *Keeper) rouse() {
	select {
	case k.wake <- struct{}{}:
	default: // a wake-up is waiting already
	}
}

// Run keeps the gate until ctx ends; what was noted by then is still told.
func (k *Keeper) Run(ctx context.Context, interval time.Duration) error {
	return runAll(ctx, func(run func(func(context.Context) error)) {
		run(func(ctx context.Context) error { return every(ctx, k.log, interval, "keeper", k.RunOnce) })
		run(func(ctx context.Context) error {
			for {
				select {
				case <-k.wake:
					k.tell(ctx)
				case <-ctx.Done():
					last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
					defer cancel()
					k.tell(last)
					return nil
				}
			}
		})
	})
}

// tell settles, aborts and credits what was noted. What fails is found by the next pass.
func (k *Keeper) tell(ctx context.Context) {
	k.mu.Lock()
	settle, abort, credited := k.settle, k.abort, k.credited
	k.settle, k.abort, k.credited = nil, nil, map[inventory.BucketID]struct{}{}
	k.mu.Unlock()
	if err := k.gate.Settle(ctx, settle); err != nil {
		k.log.WarnContext(ctx, "takes are settled by the reaper", "takes", len(settle), "error", err)
	}
	if err := k.gate.Abort(ctx, abort); err != nil {
		k.log.WarnContext(ctx, "takes are given back by the reaper", "takes", len(abort), "error", err)
	}
	if len(credited) == 0 {
		return
	}
	ids := make([]inventory.BucketID, 0, len(credited))
	for b := range credited {
		ids = append(ids, b)
	}
	levels, err := k.gate.Levels(ctx, ids)
	if err != nil {
		k.log.WarnContext(ctx, "credits are applied by the next pass", "error", err)
		return
	}
	for i, b := range ids {
		if levels[i].Epoch == 0 {
			continue
		}
		if err := k.credit(ctx, b, levels[i]); err != nil {
			k.log.WarnContext(ctx, "credits are applied by the next pass", "bucket", b, "error", err)
		}
	}
}

// RunOnce makes one pass over all buckets: recovery, credits, orphans.
func (k *Keeper) RunOnce(ctx context.Context) error {
	k.pass.Lock()
	defer k.pass.Unlock()
	rows, levels, err := k.compare(ctx)
	if err != nil {
		return err
	}
	var failed error
	note := func(b inventory.BucketID, err error) {
		if err != nil {
			failed = fmt.Errorf("bucket %s: %w", b, err)
		}
	}
	for i, row := range rows {
		switch {
		case levels[i].Epoch != row.Epoch:
			note(row.ID, k.recover(ctx, row, levels[i]))
		case levels[i].Seq < row.CreditSeq:
			note(row.ID, k.credit(ctx, row.ID, levels[i]))
		}
		if levels[i].Pending > 0 {
			note(row.ID, k.reap(ctx, row.ID))
		}
	}
	return failed
}

// compare reads the ledger's rows and the gate's levels. Another process may raise an epoch between
// the two reads, so a difference is read again before it is believed.
func (k *Keeper) compare(ctx context.Context) ([]inventory.Bucket, []inventory.Level, error) {
	for again := false; ; again = true {
		rows, err := k.books.Buckets(ctx)
		if err != nil || len(rows) == 0 {
			return nil, nil, err
		}
		ids := make([]inventory.BucketID, len(rows))
		for i, r := range rows {
			ids[i] = r.ID
		}
		levels, err := k.gate.Levels(ctx, ids)
		if err != nil {
			return nil, nil, err
		}
		differ := false
		for i := range rows {
			differ = differ || rows[i].Epoch != levels[i].Epoch
		}
		if !differ || again {
			return rows, levels, nil
		}
	}
}

// recover opens a bucket that the gate has lost or holds under another epoch: first the ledger
// fences every take under the old epoch, then the gate gets what the ledger has left. Dying in
// between leaves the bucket closed, and the next pass begins again.
func (k *Keeper) recover(ctx context.Context, row inventory.Bucket, level inventory.Level) error {
	opened, users, err := k.books.Reopen(ctx, row.ID)
	if err != nil {
		return err
	}
	err = k.gate.Install(ctx, row.ID, inventory.Level{
		Epoch: opened.Epoch, Available: opened.Available(), Seq: opened.CreditSeq,
	}, users)
	if err != nil {
		return err
	}
	k.log.InfoContext(ctx, "bucket installed at the gate", "bucket", row.ID, "gate_epoch", level.Epoch,
		"ledger_epoch", row.Epoch, "epoch", opened.Epoch, "available", opened.Available())
	return nil
}

const creditBatch = 500

// credit applies the credits that the gate has not seen, in order.
func (k *Keeper) credit(ctx context.Context, b inventory.BucketID, level inventory.Level) error {
	for after := level.Seq; ; {
		credits, err := k.books.Credits(ctx, b, after, creditBatch)
		if err != nil || len(credits) == 0 {
			return err
		}
		applied, err := k.gate.Credit(ctx, b, level.Epoch, credits)
		if err != nil {
			return err
		}
		if applied <= after { // somebody else is further, or the epoch is about to change
			return nil
		}
		after = applied
	}
}

const reapBatch = 500

// reap asks the ledger about takes that are past their deadline. The tombstone comes first: from
// then on no late writer can commit the take, so giving its units back is safe.
func (k *Keeper) reap(ctx context.Context, b inventory.BucketID) error {
	for {
		overdue, err := k.gate.Overdue(ctx, b, k.clock(), reapBatch)
		if err != nil || len(overdue) == 0 {
			return err
		}
		outcomes, err := k.books.Tombstone(ctx, overdue)
		if err != nil {
			return err
		}
		var settle, abort []inventory.TakeRef
		for i, p := range overdue {
			if outcomes[i] == inventory.Committed {
				settle = append(settle, p.TakeRef)
			} else {
				abort = append(abort, p.TakeRef)
			}
		}
		if err := k.gate.Settle(ctx, settle); err != nil {
			return err
		}
		if err := k.gate.Abort(ctx, abort); err != nil {
			return err
		}
		k.log.InfoContext(ctx, "orphaned takes reaped", "bucket", b, "settled", len(settle), "given_back", len(abort))
		if len(overdue) < reapBatch {
			return nil
		}
	}
}
