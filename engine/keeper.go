package engine

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/transport"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// GateKeeper is a gate with its keeper's side.
type GateKeeper interface {
	inventory.Gate
	inventory.Keeper
}

// KeeperBooks is the ledger as the keeper sees it.
type KeeperBooks interface {
	inventory.Books
	inventory.Balance
}

// Keeper keeps the gate in step with the ledger: it installs buckets that are closed or of another
// epoch, applies credits, reaps orphaned takes, settles what the ledger has decided, evens out the
// buckets of an item, and empties those whose shard is gone. Everything it does in the background
// can be lost and is found again by the next pass.
type Keeper struct {
	gate  GateKeeper
	books KeeperBooks
	clock func() time.Time
	dead  time.Duration // away for this long, a shard counts as gone
	log   *slog.Logger
	// decide handles overdue takes of accepted requests; nil: they are given back like all others.
	decide transport.Handler

	mu       sync.Mutex
	settle   []inventory.TakeRef
	abort    []inventory.TakeRef
	credited map[inventory.BucketID]struct{}
	promised map[id.ID]inventory.Pending    // overdue takes of accepted requests
	hot      map[inventory.ItemID]time.Time // when an item last moved
	wake     chan struct{}

	recovered func(Recovery) // nil when nobody is told

	pass  chan struct{} // one pass at a time in this process
	next  time.Time     // of the next pass over everything
	brief time.Time     // of the next pass over what is hot
	away  map[int]time.Time
	wider bool // buckets have been made for every shard of the gate
}

// Recovery is one bucket that was opened anew, or given to the others.
type Recovery struct {
	Bucket inventory.BucketID
	Reason RecoveryReason
	Epoch  int64 // of the ledger from now on; 0 when the bucket is given away
	Units  int64 // that the gate got, or the others did
}

// RecoveryReason says why a bucket was opened anew.
type RecoveryReason string

// The reasons.
const (
	RecoveryNew   RecoveryReason = "new"   // it was never at the gate before
	RecoveryEmpty RecoveryReason = "empty" // its shard has restarted, was flushed or replaced
	RecoveryStale RecoveryReason = "stale" // its shard has it under another epoch: an old copy, or it was away
	RecoveryGone  RecoveryReason = "gone"  // its shard stays away: the others got what it had
)

// OnRecovery has a function told of every recovery, before Run.
func (k *Keeper) OnRecovery(told func(Recovery)) { k.recovered = told }

func (k *Keeper) tellRecovery(r Recovery) {
	if k.recovered != nil {
		k.recovered(r)
	}
}

const (
	// maxConclusions bounds what waits to be settled; the rest is left to the reaper.
	maxConclusions = 100_000
	// A pass over everything takes at most one part in fullShare of the time, one over the items that
	// moved lately at most one in hotShare: with many items they come less often.
	fullShare = 20
	hotShare  = 4
	// fullGap bounds the time between two passes over everything, however slow one was: until the next
	// one, a shard that has restarted and that nobody bought from lately stays closed.
	fullGap = 10 * time.Second
	// hotFor is how long an item counts as having moved lately. When the gate loses its memory, takes
	// stop: the items that were being sold must still be looked at soon.
	hotFor = time.Minute
)

// NewKeeper returns a Keeper. A shard that is away for longer than dead counts as gone: what it has
// is given to the others.
func NewKeeper(gate GateKeeper, books KeeperBooks, clock func() time.Time, dead time.Duration, log *slog.Logger) *Keeper {
	return &Keeper{
		gate: gate, books: books, clock: clock, dead: dead, log: log,
		credited: map[inventory.BucketID]struct{}{}, promised: map[id.ID]inventory.Pending{}, hot: map[inventory.ItemID]time.Time{}, wake: make(chan struct{}, 1), pass: make(chan struct{}, 1),
		away: map[int]time.Time{},
	}
}

// Conclude notes what the ledger has recorded for takes, for the gate to be told soon.
func (k *Keeper) Conclude(legs []inventory.Leg, outcomes []inventory.LegOutcome) {
	now := k.clock()
	k.mu.Lock()
	takes := refs(legs)
	for i, outcome := range outcomes {
		if len(k.settle)+len(k.abort) >= maxConclusions {
			break
		}
		ref := takes[i]
		if outcome == inventory.Committed {
			k.settle = append(k.settle, ref)
		} else {
			k.abort = append(k.abort, ref)
		}
		k.hot[ref.Bucket.Item] = now
	}
	k.mu.Unlock()
	k.rouse()
}

// Nudge has the credits of buckets applied soon.
func (k *Keeper) Nudge(buckets []inventory.BucketID) {
	if len(buckets) == 0 {
		return
	}
	now := k.clock()
	k.mu.Lock()
	for _, b := range buckets {
		k.credited[b] = struct{}{}
		k.hot[b.Item] = now
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
			return every(ctx, k.log, interval, "accepted requests", k.RedriveOnce)
		})
		run(func(ctx context.Context) error {
			for {
				select {
				case <-k.wake:
					bound, cancel := context.WithTimeout(ctx, passBound)
					k.Tell(bound)
					cancel()
				case <-ctx.Done():
					last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
					defer cancel()
					k.Tell(last)
					return nil
				}
			}
		})
	})
}

// Tell settles, aborts and credits what was noted. What fails is found by the next pass.
func (k *Keeper) Tell(ctx context.Context) {
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
	slices.SortFunc(ids, inventory.BucketID.Compare)
	levels, err := k.gate.Levels(ctx, ids)
	if err != nil {
		k.log.WarnContext(ctx, "credits are applied by the next pass", "error", err)
		return
	}
	for i, b := range ids {
		if levels[i].Epoch == 0 { // closed, or away
			continue
		}
		if err := k.credit(ctx, b, levels[i]); err != nil {
			k.log.WarnContext(ctx, "credits are applied by the next pass", "bucket", b, "error", err)
		}
	}
}

// begin waits for the pass under way, no longer than its caller does.
func (k *Keeper) begin(ctx context.Context) error {
	select {
	case k.pass <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (k *Keeper) end() { <-k.pass }

// RunOnce makes one pass: recovery, credits, orphans, balance. It is over the items that have moved
// lately, and over everything when that is due.
func (k *Keeper) RunOnce(ctx context.Context) error {
	if err := k.begin(ctx); err != nil {
		return err
	}
	defer k.end()
	began := k.clock()
	if began.Before(k.next) {
		if began.Before(k.brief) {
			return nil
		}
		err := k.look(ctx, k.lately(began))
		k.brief = began.Add(hotShare * k.clock().Sub(began))
		return err
	}
	if !k.wider {
		if err := k.books.Spread(ctx, k.gate.Shards()); err != nil {
			return err
		}
		k.wider = true
	}
	err := k.look(ctx, nil)
	k.next = began.Add(min(fullShare*k.clock().Sub(began), fullGap))
	return err
}

// Open looks at items at once: when it returns their buckets are at the gate, by this process or another that is at it, and
// evened out. Units
// on their way from one bucket to another are nowhere to be had for a moment, so new ones had better
// arrive before shoppers do.
func (k *Keeper) Open(ctx context.Context, items []inventory.ItemID) error {
	if err := k.begin(ctx); err != nil {
		return err
	}
	defer k.end()
	for range 2 { // the first installs and credits, the second evens out
		if err := k.look(ctx, items); err != nil {
			return err
		}
		k.Tell(ctx)
	}
	return nil
}

// lately returns the items that have moved, and forgets those that have rested.
func (k *Keeper) lately(now time.Time) []inventory.ItemID {
	k.mu.Lock()
	defer k.mu.Unlock()
	items := make([]inventory.ItemID, 0, len(k.hot))
	for item, moved := range k.hot {
		if now.Sub(moved) > hotFor {
			delete(k.hot, item)
			continue
		}
		items = append(items, item)
	}
	slices.SortFunc(items, inventory.ItemID.Compare)
	return items
}

// look compares the buckets of items, or with nil of all, with the gate, and mends what differs.
func (k *Keeper) look(ctx context.Context, items []inventory.ItemID) error {
	if items != nil && len(items) == 0 {
		return nil
	}
	rows, levels, err := k.compare(ctx, items)
	if err != nil {
		return err
	}
	var failed error
	note := func(b inventory.BucketID, err error) {
		if err != nil {
			failed = fmt.Errorf("bucket %s: %w", b, err)
		}
	}
	gone := k.gone(rows, levels)
	now, opened := k.clock(), map[RecoveryReason]int{}
	var promised []inventory.Pending
	for i, row := range rows {
		switch {
		case levels[i].Away && gone[row.ID.Shard] && row.Available() > 0:
			note(row.ID, k.evacuate(ctx, row, gone))
		case levels[i].Away:
		case levels[i].Epoch != row.Epoch:
			k.mu.Lock()
			k.hot[row.ID.Item] = now // what has just been opened may want balance
			k.mu.Unlock()
			reason, err := k.recover(ctx, row, levels[i])
			if err == nil && reason != "" {
				opened[reason]++
			}
			note(row.ID, err)
		case levels[i].Seq < row.CreditSeq:
			note(row.ID, k.credit(ctx, row.ID, levels[i]))
		}
		if levels[i].Pending > 0 {
			overdue, err := k.reap(ctx, row.ID)
			note(row.ID, err)
			promised = append(promised, overdue...)
		}
	}
	k.mu.Lock()
	for _, p := range promised { // together: a request may have drawn from several buckets
		k.promised[p.ID] = p
	}
	k.mu.Unlock()
	for reason, n := range opened {
		k.log.InfoContext(ctx, "buckets installed at the gate", "buckets", n, "reason", reason)
	}
	for len(rows) > 0 { // item by item
		n := 1
		for n < len(rows) && rows[n].ID.Item == rows[0].ID.Item {
			n++
		}
		note(rows[0].ID, k.balance(ctx, rows[:n], levels[:n]))
		rows, levels = rows[n:], levels[n:]
	}
	return failed
}

// compare reads the ledger's rows and the gate's levels. Another process may raise an epoch between
// the two reads, so a difference is read again before it is believed.
func (k *Keeper) compare(ctx context.Context, items []inventory.ItemID) ([]inventory.Bucket, []inventory.Level, error) {
	for again := false; ; again = true {
		rows, err := k.books.Buckets(ctx, items)
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
			differ = differ || rows[i].Epoch != levels[i].Epoch && !levels[i].Away
		}
		if !differ || again {
			return rows, levels, nil
		}
	}
}

// gone returns the shards that count as gone: away for long, or not of this gate at all.
func (k *Keeper) gone(rows []inventory.Bucket, levels []inventory.Level) map[int]bool {
	now := k.clock()
	gone := map[int]bool{}
	for i, row := range rows {
		shard := row.ID.Shard
		since, known := k.away[shard]
		switch {
		case !levels[i].Away:
			if known {
				k.log.Info("shard is back", "shard", shard)
				delete(k.away, shard)
			}
		case !known:
			k.log.Warn("shard is away", "shard", shard, "gone_in", k.dead)
			k.away[shard] = now
		case now.Sub(since) >= k.dead:
			gone[shard] = true
		}
		gone[shard] = gone[shard] || shard >= k.gate.Shards()
	}
	return gone
}

// evacuate gives what a bucket on a gone shard has to the others. Should the shard come back, its
// epoch is an old one, and it begins again with what the ledger has there.
func (k *Keeper) evacuate(ctx context.Context, row inventory.Bucket, gone map[int]bool) error {
	var heirs []int
	for shard := range k.gate.Shards() {
		if _, away := k.away[shard]; !away && !gone[shard] {
			heirs = append(heirs, shard)
		}
	}
	if len(heirs) == 0 { // nobody gains by it, and what is accepted would be fenced
		return nil
	}
	credited, err := k.books.Evacuate(ctx, row.ID, heirs)
	if err != nil {
		return err
	}
	if len(credited) > 0 {
		k.tellRecovery(Recovery{Bucket: row.ID, Reason: RecoveryGone, Units: row.Available()})
		k.log.WarnContext(ctx, "bucket of a gone shard evacuated", "bucket", row.ID, "units", row.Available(), "to", len(credited))
	}
	k.Nudge(credited)
	return nil
}

// balance carries out the plan for the open buckets of one item: a take on the donor, the move in
// the ledger, a credit for the receiver. Dying in between leaves a take for the reaper.
func (k *Keeper) balance(ctx context.Context, rows []inventory.Bucket, levels []inventory.Level) error {
	var open []inventory.Bucket
	var available []int64
	for i, row := range rows {
		if !levels[i].Away && levels[i].Epoch == row.Epoch {
			open, available = append(open, row), append(available, levels[i].Available)
		}
	}
	if len(open) < 2 {
		return nil
	}
	for _, s := range inventory.Plan(available, inventory.HomeShard(rows[0].ID.Item.Sale, len(open))) {
		if err := k.transfer(ctx, open[s.From], open[s.To], int(s.Qty)); err != nil {
			return err
		}
	}
	return nil
}

func (k *Keeper) transfer(ctx context.Context, from, to inventory.Bucket, qty int) error {
	now := k.clock()
	leg := inventory.Leg{Take: id.New(now), Bucket: from.ID, Epoch: from.Epoch, Qty: qty}
	_, err := k.gate.Take(ctx, inventory.Take{ID: leg.Take, Bucket: leg.Bucket, Epoch: leg.Epoch, Qty: qty, Deadline: now.Add(transferBound)})
	if errors.Is(err, inventory.ErrShort) || errors.Is(err, inventory.ErrFenced) || errors.Is(err, inventory.ErrClosed) {
		return nil // the bucket has changed since: the next pass plans again
	}
	if err != nil {
		return err // taken or not, the reaper finds out
	}
	outcome, err := k.books.Transfer(ctx, inventory.Transfer{Leg: leg, To: to.ID.Shard})
	if err != nil {
		return err
	}
	k.Conclude([]inventory.Leg{leg}, []inventory.LegOutcome{outcome})
	if outcome == inventory.Committed {
		k.Nudge([]inventory.BucketID{to.ID})
	}
	return nil
}

// transferBound is how long a transfer may be under way before the reaper asks about it.
const transferBound = 10 * time.Second

// recover opens a bucket that the gate has lost or holds under another epoch: first the ledger
// fences every take under the old epoch, then the gate gets what the ledger has left. No reason: another process does it. Dying in
// between leaves the bucket closed, and the next pass begins again.
func (k *Keeper) recover(ctx context.Context, row inventory.Bucket, level inventory.Level) (RecoveryReason, error) {
	reason := RecoveryStale
	switch {
	case level.Epoch == 0 && row.Epoch == 1: // the ledger makes buckets with epoch 1; whoever installs one raises it
		reason = RecoveryNew
	case level.Epoch == 0:
		reason = RecoveryEmpty
	}
	opened, users, err := k.books.Reopen(ctx, row.ID, row.Epoch)
	if errors.Is(err, inventory.ErrFenced) {
		return "", nil // another process has opened it, and opened twice it would forget what is taken in between
	}
	if err != nil {
		return reason, err
	}
	err = k.gate.Install(ctx, row.ID, inventory.Level{
		Epoch: opened.Epoch, Available: opened.Available(), Seq: opened.CreditSeq,
	}, users)
	if err != nil {
		return reason, err
	}
	k.tellRecovery(Recovery{Bucket: row.ID, Reason: reason, Epoch: opened.Epoch, Units: opened.Available()})
	k.log.DebugContext(ctx, "bucket installed at the gate", "bucket", row.ID, "reason", reason, "gate_epoch", level.Epoch,
		"ledger_epoch", row.Epoch, "epoch", opened.Epoch, "available", opened.Available())
	return reason, nil
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

// reap asks the ledger about takes that are past their deadline, and returns those of accepted
// requests: they are decided, not given back.
func (k *Keeper) reap(ctx context.Context, b inventory.BucketID) (promised []inventory.Pending, err error) {
	for {
		overdue, err := k.gate.Overdue(ctx, b, k.clock(), reapBatch)
		if err != nil || len(overdue) == 0 {
			return promised, err
		}
		var others []inventory.Pending
		for _, p := range overdue {
			if p.Note != "" && k.decide != nil {
				promised = append(promised, p)
			} else {
				others = append(others, p)
			}
		}
		if err := k.giveBack(ctx, others); err != nil {
			return promised, err
		}
		if len(overdue) < reapBatch || len(promised) > 0 { // what is promised is there until it is decided
			return promised, nil
		}
	}
}

// giveBack returns the units of takes that the ledger does not know. The tombstone comes first: from
// then on no late writer can commit the take, so giving its units back is safe.
func (k *Keeper) giveBack(ctx context.Context, takes []inventory.Pending) error {
	if len(takes) == 0 {
		return nil
	}
	outcomes, err := k.books.Tombstone(ctx, takes)
	if err != nil {
		return err
	}
	var settle, abort []inventory.TakeRef
	for i, p := range takes {
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
	k.log.InfoContext(ctx, "orphaned takes reaped", "bucket", takes[0].Bucket, "settled", len(settle), "given_back", len(abort))
	return nil
}
