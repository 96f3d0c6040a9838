package inventorytest

import (
	"errors"
	"flashsale/audit"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/money"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Ledger is what the suite exercises.
type Ledger interface {
	inventory.Ledger
	inventory.Sales
	inventory.Books
	inventory.Balance
	inventory.History
	inventory.Auditor
	transport.Outbox
}

// LedgerUnderTest is a fresh ledger with what the suite needs to try it.
type LedgerUnderTest struct {
	Ledger
	// After returns once the ledger's clock has moved on by at least d.
	After func(d time.Duration)
	// Corrupt runs SQL behind the ledger's back, for the audit to find.
	Corrupt func(t *testing.T, sql string)
}

// hold is how long holds last in the suite, short enough to wait for.
const hold = 300 * time.Millisecond

// ExerciseLedger runs the suite; open returns an empty ledger.
func ExerciseLedger(t *testing.T, open func(t *testing.T) LedgerUnderTest) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, *book){
		"a claim is held":                           ledgerHeld,
		"refusals, and nobody else's":               ledgerRefusals,
		"the same request again":                    ledgerReplay,
		"tombstones, first and last":                ledgerTombstones,
		"an epoch fences":                           ledgerFences,
		"several legs":                              ledgerLegs,
		"every move from every state":               ledgerMoves,
		"a hold that is over":                       ledgerExpiry,
		"credits are dense":                         ledgerCredits,
		"stock is added once":                       ledgerAddStock,
		"units move between buckets":                ledgerTransfer,
		"a bucket is evacuated":                     ledgerEvacuate,
		"buckets are added":                         ledgerSpread,
		"a refused promise is recorded":             ledgerRefuse,
		"status by revision":                        ledgerStatus,
		"the outbox has what was said":              ledgerOutbox,
		"statement":                                 ledgerStatement,
		"the history, behind and in pages":          ledgerHistory,
		"a crowd on all shards stays in its limits": ledgerCrowd,
		"the audit finds what is wrong":             ledgerAudit,
		"what is not there":                         ledgerNothing,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &book{LedgerUnderTest: open(t), t: t}
			test(t, b)
			if name == "the audit finds what is wrong" {
				return
			}
			checks, err := b.Audit(t.Context())
			must(t, err)
			if len(checks) < 9 {
				t.Fatalf("%d checks", len(checks))
			}
			for _, c := range checks {
				if !c.OK {
					t.Errorf("audit %d. %s: %s", c.Equation, c.Name, c.Figures)
				}
			}
		})
	}
}

// book is a ledger with a sale, and words for what the suite does to it.
type book struct {
	LedgerUnderTest
	t *testing.T
	n int
}

func price() money.Money { return money.Money{Amount: 990, Currency: "EUR"} }

func (b *book) sale(name string, stock int64, shards, limit int) inventory.ItemID {
	b.t.Helper()
	item := inventory.ItemID{Sale: id.Derive("sale", name), SKU: "A"}
	now := time.Now().UTC()
	must(b.t, b.Provision(b.t.Context(), inventory.Provision{Shards: shards, Sale: inventory.Sale{
		ID: item.Sale, Status: inventory.Open, OpensAt: now.Add(-time.Hour), EndsAt: now.Add(24 * time.Hour), Limit: limit, HoldFor: hold, Revision: 1,
		Items: []inventory.Item{{SKU: "A", UnitPrice: price(), Total: stock}},
	}}))
	return item
}

// claim is a fresh claim for units of one shard under epoch 1.
func (b *book) claim(item inventory.ItemID, shard, who, qty int) inventory.Claim {
	b.n++
	return inventory.Claim{
		Request: reservation.Request{User: user(who), Key: fmt.Sprintf("key-%d-%d", who, b.n), Sale: item.Sale, SKU: item.SKU, Quantity: qty},
		Legs:    []inventory.Leg{{Take: id.New(time.Now()), Bucket: inventory.BucketID{Item: item, Shard: shard}, Epoch: 1, Qty: qty}},
	}
}

func (b *book) commit(claims ...inventory.Claim) []inventory.Decision {
	b.t.Helper()
	ds, err := b.Commit(b.t.Context(), claims)
	must(b.t, err)
	if len(ds) != len(claims) {
		b.t.Fatalf("%d decisions for %d claims", len(ds), len(claims))
	}
	for i, d := range ds {
		if len(d.Outcomes) != len(claims[i].Legs) {
			b.t.Fatalf("claim %d: %d outcomes for %d legs", i, len(d.Outcomes), len(claims[i].Legs))
		}
	}
	return ds
}

func (b *book) held(item inventory.ItemID, shard, who, qty int) reservation.Reservation {
	b.t.Helper()
	d := b.commit(b.claim(item, shard, who, qty))[0]
	must(b.t, d.Err)
	return d.Reservation
}

func (b *book) move(m inventory.Move) inventory.Moved {
	b.t.Helper()
	a, err := b.Move(b.t.Context(), []inventory.Move{m})
	must(b.t, err)
	return a[0]
}

func (b *book) bucket(item inventory.ItemID, shard int) inventory.Bucket {
	b.t.Helper()
	s, err := b.Sale(b.t.Context(), item.Sale)
	must(b.t, err)
	return s.Items[0].Buckets[shard]
}

func (b *book) wantBucket(item inventory.ItemID, shard int, granted, held, sold, seq int64) {
	b.t.Helper()
	got := b.bucket(item, shard)
	if got.Granted != granted || got.Held != held || got.Sold != sold || got.CreditSeq != seq {
		b.t.Fatalf("bucket %d: granted %d held %d sold %d credits %d; want %d %d %d %d", shard,
			got.Granted, got.Held, got.Sold, got.CreditSeq, granted, held, sold, seq)
	}
}

func ledgerHeld(t *testing.T, b *book) {
	item := b.sale("s", 10, 2, 0)
	c := b.claim(item, 1, 1, 3)
	c.Request.Cart = id.Derive("cart")
	c.TraceParent = "00-trace"
	d := b.commit(c)[0]
	must(t, d.Err)
	r := d.Reservation
	if r.ID != c.Request.ID() || r.User != user(1) || r.Sale != item.Sale || r.SKU != "A" || r.Quantity != 3 || r.UnitPrice != price() ||
		r.State != reservation.Held || r.Cart != c.Request.Cart || r.Fingerprint != c.Request.Fingerprint() || r.ExpiresAt.Sub(r.CreatedAt) != hold {
		t.Fatalf("reservation %+v", r)
	}
	if d.Replayed || d.Outcomes[0] != inventory.Committed || d.Event.Type != inventory.EventHeld || d.Event.Subject != r.ID || d.Event.TraceParent != "00-trace" {
		t.Fatalf("decision %+v", d)
	}
	got, err := b.Find(t.Context(), r.ID)
	if err != nil || got != r {
		t.Fatalf("found %+v, %v\nwant  %+v", got, err, r)
	}
	b.wantBucket(item, 0, 5, 0, 0, 0)
	b.wantBucket(item, 1, 5, 3, 0, 0)
}

func ledgerRefusals(t *testing.T, b *book) {
	item := b.sale("s", 4, 1, 2)
	closed := b.sale("closed", 4, 1, 0)
	must(t, b.SetStatus(t.Context(), inventory.Sale{ID: closed.Sale, Status: inventory.Paused, OpensAt: time.Now().Add(-time.Hour), EndsAt: time.Now().Add(time.Hour), Revision: 2}))
	future := inventory.ItemID{Sale: id.Derive("future"), SKU: "A"}
	must(t, b.Provision(t.Context(), inventory.Provision{Shards: 1, Sale: inventory.Sale{
		ID: future.Sale, Status: inventory.Open, OpensAt: time.Now().Add(time.Hour), EndsAt: time.Now().Add(2 * time.Hour), HoldFor: hold, Revision: 1,
		Items: []inventory.Item{{SKU: "A", UnitPrice: price(), Total: 5}},
	}}))
	other := inventory.ItemID{Sale: item.Sale, SKU: "B"}
	// One group: each bad claim is refused for its own reason, and the good ones around them are held.
	claims := []inventory.Claim{
		b.claim(item, 0, 1, 2), b.claim(item, 0, 1, 1), b.claim(other, 0, 2, 1), b.claim(closed, 0, 2, 1), b.claim(future, 0, 2, 1),
		b.claim(item, 0, 2, 3), b.claim(item, 0, 3, 1), b.claim(item, 0, 4, 2), b.claim(item, 0, 5, 1), b.claim(inventory.ItemID{Sale: id.Derive("no"), SKU: "A"}, 0, 1, 1),
	}
	want := []error{
		nil, reservation.ErrLimitReached, reservation.ErrUnknownItem, reservation.ErrSaleNotOpen, reservation.ErrSaleNotOpen,
		reservation.ErrLimitReached, nil, inventory.ErrNoUnits, nil, reservation.ErrUnknownItem,
	}
	for i, d := range b.commit(claims...) {
		if !errors.Is(d.Err, want[i]) || (d.Err == nil) != (want[i] == nil) {
			t.Errorf("claim %d: %v, want %v", i, d.Err, want[i])
		}
		outcome := inventory.Aborted
		if want[i] == nil {
			outcome = inventory.Committed
		}
		if d.Outcomes[0] != outcome {
			t.Errorf("claim %d: outcome %s, want %s", i, d.Outcomes[0], outcome)
		}
	}
	for who, want := range map[int]int{1: 2, 2: 0, 3: 1, 9: 0} { // what the limit counts: admitted units only
		if n, err := b.Bound(t.Context(), item, user(who)); err != nil || n != want {
			t.Errorf("shopper %d has %d bound, %v; want %d", who, n, err, want)
		}
	}
	b.wantBucket(item, 0, 4, 4, 0, 0)
	// A refused take has a tombstone: the same delivery again is refused for good, whatever has changed.
	r, err := b.Find(t.Context(), claims[0].Request.ID())
	must(t, err)
	b.move(inventory.Move{Kind: reservation.MoveCancel, Reservation: r.ID})
	wantErr(t, b.commit(claims[1])[0].Err, inventory.ErrTakeAborted)
}

func ledgerReplay(t *testing.T, b *book) {
	item := b.sale("s", 10, 2, 0)
	first := b.claim(item, 0, 1, 2)
	again := first // the client's repetition: the same request, another take
	again.Legs = []inventory.Leg{{Take: id.New(time.Now()), Bucket: inventory.BucketID{Item: item, Shard: 1}, Epoch: 1, Qty: 2}}
	other := again
	other.Request.Quantity = 1
	other.Legs = []inventory.Leg{{Take: id.New(time.Now()), Bucket: inventory.BucketID{Item: item, Shard: 1}, Epoch: 1, Qty: 1}}
	check := func(ds []inventory.Decision) {
		t.Helper()
		if ds[0].Err != nil || ds[0].Outcomes[0] != inventory.Committed {
			t.Fatalf("first: %+v", ds[0])
		}
		if ds[1].Err != nil || !ds[1].Replayed || ds[1].Outcomes[0] != inventory.Aborted || ds[1].Reservation.ID != ds[0].Reservation.ID {
			t.Fatalf("again: %+v", ds[1])
		}
		if !errors.Is(ds[2].Err, reservation.ErrKeyReused) || ds[2].Outcomes[0] != inventory.Aborted {
			t.Fatalf("another request under the key: %+v", ds[2])
		}
	}
	check(b.commit(first, again, other)) // in one group
	ds := b.commit(first, again, other)  // redelivered: the first is a replay too, and its take stays committed
	if !ds[0].Replayed || ds[0].Event.ID != inventory.Held(ds[0].Reservation, "").ID {
		t.Fatalf("redelivered: %+v", ds[0])
	}
	check(ds)
	b.wantBucket(item, 0, 5, 2, 0, 0)
	b.wantBucket(item, 1, 5, 0, 0, 0)
}

func ledgerTombstones(t *testing.T, b *book) {
	item := b.sale("s", 10, 1, 0)
	late, done, known := b.claim(item, 0, 1, 1), b.claim(item, 0, 2, 1), b.claim(item, 0, 3, 1)
	must(t, b.commit(done)[0].Err)
	pending := func(c inventory.Claim) inventory.Pending {
		g := c.Legs[0]
		return inventory.Pending{TakeRef: inventory.TakeRef{ID: g.Take, Bucket: g.Bucket, Epoch: g.Epoch}, User: c.Request.User, Qty: g.Qty}
	}
	for range 2 { // twice: final
		got, err := b.Tombstone(t.Context(), []inventory.Pending{pending(late), pending(done), pending(known)})
		if err != nil || !slices.Equal(got, []inventory.LegOutcome{inventory.Aborted, inventory.Committed, inventory.Aborted}) {
			t.Fatalf("outcomes %v, %v", got, err)
		}
	}
	d := b.commit(late)[0]
	wantErr(t, d.Err, inventory.ErrTakeAborted)
	if d.Outcomes[0] != inventory.Aborted {
		t.Fatalf("outcome %s", d.Outcomes[0])
	}
	// The shopper's request can still be held, with another take.
	late.Legs[0].Take = id.New(time.Now())
	must(t, b.commit(late)[0].Err)
	b.wantBucket(item, 0, 10, 2, 0, 0)
}

func ledgerFences(t *testing.T, b *book) {
	item := b.sale("s", 10, 1, 0)
	bucket := inventory.BucketID{Item: item}
	b.held(item, 0, 1, 2)
	b.held(item, 0, 1, 1)
	gone := b.held(item, 0, 2, 1)
	b.move(inventory.Move{Kind: reservation.MoveCancel, Reservation: gone.ID})
	for _, other := range []int64{0, 2} {
		_, _, err := b.Reopen(t.Context(), bucket, other)
		wantErr(t, err, inventory.ErrFenced)
	}
	row, users, err := b.Reopen(t.Context(), bucket, 1)
	must(t, err)
	if row.Epoch != 2 || row.Available() != 7 || row.CreditSeq != 1 || len(users) != 1 || users[user(1)] != 3 {
		t.Fatalf("reopened %+v, shoppers %v", row, users)
	}
	old, fresh := b.claim(item, 0, 3, 1), b.claim(item, 0, 4, 1)
	fresh.Legs[0].Epoch = 2
	ds := b.commit(old, fresh)
	wantErr(t, ds[0].Err, inventory.ErrFenced)
	must(t, ds[1].Err)
	old.Legs[0].Epoch = 2 // the same take cannot come back under the new epoch: it has a tombstone
	wantErr(t, b.commit(old)[0].Err, inventory.ErrTakeAborted)
	all, err := b.Buckets(t.Context(), nil)
	if err != nil || len(all) != 1 || all[0].ID != bucket || all[0].Epoch != 2 || all[0].Held != 4 {
		t.Fatalf("buckets %+v, %v", all, err)
	}
}

func ledgerLegs(t *testing.T, b *book) {
	item := b.sale("s", 7, 3, 0) // 3, 2, 2
	c := b.claim(item, 0, 1, 6)
	c.Legs = nil
	for shard, qty := range []int{3, 2, 1} {
		c.Legs = append(c.Legs, inventory.Leg{Take: id.New(time.Now()), Bucket: inventory.BucketID{Item: item, Shard: shard}, Epoch: 1, Qty: qty})
	}
	short := b.claim(item, 0, 2, 2)
	short.Legs = []inventory.Leg{
		{Take: id.New(time.Now()), Bucket: inventory.BucketID{Item: item, Shard: 1}, Epoch: 1, Qty: 1},
		{Take: id.New(time.Now()), Bucket: inventory.BucketID{Item: item, Shard: 2}, Epoch: 1, Qty: 1},
	}
	ds := b.commit(c, short)
	must(t, ds[0].Err)
	wantErr(t, ds[1].Err, inventory.ErrNoUnits) // all or nothing, over all its legs
	b.wantBucket(item, 1, 2, 2, 0, 0)
	b.wantBucket(item, 2, 2, 1, 0, 0)
	a := b.move(inventory.Move{Kind: reservation.MoveCancel, Reservation: ds[0].Reservation.ID})
	if len(a.Credited) != 3 {
		t.Fatalf("credited %v", a.Credited)
	}
	for shard, granted := range []int64{3, 2, 2} {
		b.wantBucket(item, shard, granted, 0, 0, 1)
	}
}

// ledgerMoves tries every move on a reservation in every state, and holds it against the table.
func ledgerMoves(t *testing.T, b *book) {
	item := b.sale("s", 1000, 1, 0)
	pay, other := id.Derive("payment"), id.Derive("another payment")
	paths := map[reservation.State][]reservation.MoveKind{
		reservation.Held: {}, reservation.Paying: {reservation.MovePay}, reservation.Paid: {reservation.MovePay, reservation.MoveCapture},
		reservation.Declined: {reservation.MovePay, reservation.MoveDecline}, reservation.Cancelled: {reservation.MoveCancel},
		reservation.Refunded: {reservation.MovePay, reservation.MoveCapture, reservation.MoveRefund},
	}
	who := 0
	for state, path := range paths {
		for _, kind := range reservation.Moves() {
			for _, p := range []id.ID{pay, other} {
				who++
				r := b.held(item, 0, who, 1)
				for _, k := range path {
					if a := b.move(inventory.Move{Kind: k, Reservation: r.ID, Payment: pay}); a.Err != nil || !a.Applied {
						t.Fatalf("%s on the way to %s: %+v", k, state, a)
					}
				}
				was, err := b.Find(t.Context(), r.ID)
				must(t, err)
				if was.State != state {
					t.Fatalf("state %s, want %s", was.State, state)
				}
				m := inventory.Move{Kind: kind, Reservation: r.ID, Payment: p}
				verdict, made := m.Judge(was, was.CreatedAt)
				a := b.move(m)
				if !errors.Is(a.Err, verdict) || a.Applied != (verdict == nil && !made) {
					t.Errorf("%s in %s: %+v; the state machine says %v, made %v", kind, state, a, verdict, made)
				}
				now, err := b.Find(t.Context(), r.ID)
				must(t, err)
				if a.Applied {
					was = m.Apply(was)
				}
				if now != was || a.Reservation != was {
					t.Errorf("%s in %s: is %+v\nwant %+v", kind, state, now, was)
				}
				e, ok := inventory.FollowMove(m, a, now.CreatedAt)
				if ok != (a.Event.Type != "") || ok && a.Event.ID != e.ID {
					t.Errorf("%s in %s: event %q, want %q", kind, state, a.Event.Type, e.Type)
				}
				again := b.move(m)
				if a.Applied && (again.Applied || again.Err != nil || again.Event.ID != a.Event.ID) {
					t.Errorf("%s in %s, repeated: %+v", kind, state, again)
				}
			}
		}
	}
	if a := b.move(inventory.Move{Kind: "steal", Reservation: b.held(item, 0, 5000, 1).ID}); !errors.Is(a.Err, reservation.ErrIllegalMove) {
		t.Errorf("a move that does not exist: %+v", a)
	}
	mine := b.held(item, 0, 6000, 1)
	if a := b.move(inventory.Move{Kind: reservation.MoveCancel, Reservation: mine.ID, User: user(1)}); !errors.Is(a.Err, reservation.ErrNotFound) {
		t.Errorf("a stranger's move: %+v", a)
	}
	// Two moves of one reservation in one group happen in order.
	as, err := b.Move(t.Context(), []inventory.Move{
		{Kind: reservation.MovePay, Reservation: mine.ID, Payment: pay},
		{Kind: reservation.MoveCapture, Reservation: mine.ID, Payment: pay},
		{Kind: reservation.MoveCancel, Reservation: mine.ID},
	})
	must(t, err)
	if !as[0].Applied || !as[1].Applied || !errors.Is(as[2].Err, reservation.ErrIllegalMove) || as[2].Reservation.State != reservation.Paid {
		t.Errorf("in one group: %+v", as)
	}
}

func ledgerExpiry(t *testing.T, b *book) {
	item := b.sale("s", 10, 1, 0)
	r, paying := b.held(item, 0, 1, 2), b.held(item, 0, 2, 1)
	pay := id.Derive("payment")
	if a := b.move(inventory.Move{Kind: reservation.MovePay, Reservation: paying.ID, Payment: pay}); !a.Applied {
		t.Fatalf("%+v", a)
	}
	if a := b.move(inventory.Move{Kind: reservation.MoveExpire, Reservation: r.ID}); !errors.Is(a.Err, reservation.ErrIllegalMove) {
		t.Fatalf("expired before its time: %+v", a)
	}
	b.After(hold + 10*time.Millisecond)
	due, err := b.Due(t.Context(), 10)
	if err != nil || !slices.Equal(due, []id.ID{r.ID}) { // what is being paid is left alone
		t.Fatalf("due %v, %v", due, err)
	}
	a := b.move(inventory.Move{Kind: reservation.MovePay, Reservation: r.ID, Payment: pay})
	if !errors.Is(a.Err, reservation.ErrExpired) || a.Event.Type != inventory.EventPaymentRefused {
		t.Fatalf("paid after its time: %+v", a)
	}
	a = b.move(inventory.Move{Kind: reservation.MoveExpire, Reservation: r.ID})
	if !a.Applied || a.Reservation.State != reservation.Expired || a.Reservation.Reason != "expired" || a.Event.Type != inventory.EventReleased {
		t.Fatalf("expired: %+v", a)
	}
	// A shopper who cancels what has expired meanwhile is told so; nothing is given back once more.
	a = b.move(inventory.Move{Kind: reservation.MoveCancel, Reservation: r.ID, User: r.User})
	if !errors.Is(a.Err, reservation.ErrExpired) || a.Reservation.State != reservation.Expired || a.Event.Type != "" {
		t.Fatalf("cancelled after it expired: %+v", a)
	}
	// A capture that comes too late is answered with the event that refunds it.
	a = b.move(inventory.Move{Kind: reservation.MoveCapture, Reservation: r.ID, Payment: pay})
	if !errors.Is(a.Err, reservation.ErrIllegalMove) || a.Event.Type != inventory.EventLatePayment {
		t.Fatalf("late capture: %+v", a)
	}
	if a = b.move(inventory.Move{Kind: reservation.MoveCapture, Reservation: paying.ID, Payment: pay}); !a.Applied {
		t.Fatalf("capture after the hold's end: %+v", a)
	}
	b.wantBucket(item, 0, 10, 0, 1, 1)
}

func ledgerCredits(t *testing.T, b *book) {
	item := b.sale("s", 100, 1, 0)
	var rs []reservation.Reservation
	for n := range 12 {
		rs = append(rs, b.held(item, 0, n, 1+n%2))
	}
	var wg sync.WaitGroup
	for _, r := range rs {
		wg.Go(func() {
			for range 2 {
				if _, err := b.Move(t.Context(), []inventory.Move{{Kind: reservation.MoveCancel, Reservation: r.ID}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	bucket := inventory.BucketID{Item: item}
	credits, err := b.Credits(t.Context(), bucket, 0, 100)
	must(t, err)
	var units int64
	for i, c := range credits {
		if c.Seq != int64(i+1) || c.Bucket != bucket || c.User.IsZero() {
			t.Fatalf("credit %d: %+v", i, c)
		}
		units += c.Qty
	}
	if len(credits) != 12 || units != 18 {
		t.Fatalf("%d credits of %d units", len(credits), units)
	}
	if some, err := b.Credits(t.Context(), bucket, 5, 3); err != nil || len(some) != 3 || some[0].Seq != 6 {
		t.Fatalf("credits after 5: %+v, %v", some, err)
	}
}

func ledgerAddStock(t *testing.T, b *book) {
	item := b.sale("s", 3, 2, 0)
	add := inventory.Addition{ID: id.Derive("addition"), Item: item, Qty: 5}
	got, err := b.AddStock(t.Context(), add)
	if err != nil || len(got) != 2 {
		t.Fatalf("%v, %v", got, err)
	}
	if got, err = b.AddStock(t.Context(), add); err != nil || len(got) != 0 {
		t.Fatalf("again: %v, %v", got, err)
	}
	b.wantBucket(item, 0, 5, 0, 0, 1)
	b.wantBucket(item, 1, 3, 0, 0, 1)
	s, err := b.Sale(t.Context(), item.Sale)
	if err != nil || s.Items[0].Total != 8 {
		t.Fatalf("total %d, %v", s.Items[0].Total, err)
	}
	credits, err := b.Credits(t.Context(), inventory.BucketID{Item: item}, 0, 9)
	if err != nil || len(credits) != 1 || credits[0].Qty != 3 || !credits[0].User.IsZero() {
		t.Fatalf("credits %+v, %v", credits, err)
	}
	one := inventory.Addition{ID: id.Derive("one"), Item: item, Qty: 1} // fewer units than buckets
	if got, err = b.AddStock(t.Context(), one); err != nil || len(got) != 1 {
		t.Fatalf("one unit: %v, %v", got, err)
	}
	_, err = b.AddStock(t.Context(), inventory.Addition{ID: id.Derive("x"), Item: inventory.ItemID{Sale: item.Sale, SKU: "none"}, Qty: 1})
	wantErr(t, err, inventory.ErrUnknownSale)
}

func ledgerRefuse(t *testing.T, b *book) {
	item := b.sale("s", 3, 1, 0)
	c, admitted := b.claim(item, 0, 1, 1), b.claim(item, 0, 2, 1)
	must(t, b.commit(admitted)[0].Err)
	for range 2 {
		rows, err := b.Refuse(t.Context(), []inventory.Refusal{{Request: c.Request, Reason: "held_out"}, {Request: admitted.Request, Reason: "held_out"}})
		must(t, err)
		if rows[0].State != reservation.Refused || rows[0].Reason != "held_out" || rows[1].State != reservation.Held {
			t.Fatalf("%+v", rows)
		}
	}
	d := b.commit(c)[0] // the decision stands
	wantErr(t, d.Err, reservation.ErrHeldOut)
	if d.Outcomes[0] != inventory.Aborted {
		t.Fatalf("outcome %s", d.Outcomes[0])
	}
	b.wantBucket(item, 0, 3, 1, 0, 0)
}

func ledgerStatus(t *testing.T, b *book) {
	item := b.sale("s", 3, 2, 7)
	s, err := b.Sale(t.Context(), item.Sale)
	must(t, err)
	if s.Status != inventory.Open || s.Limit != 7 || s.HoldFor != hold || s.Revision != 1 || len(s.Items) != 1 || len(s.Items[0].Buckets) != 2 || s.Items[0].UnitPrice != price() {
		t.Fatalf("%+v", s)
	}
	set := func(status inventory.SaleStatus, revision int64) inventory.Sale {
		t.Helper()
		must(t, b.SetStatus(t.Context(), inventory.Sale{ID: item.Sale, Status: status, OpensAt: s.OpensAt, EndsAt: s.EndsAt, Revision: revision}))
		now, err := b.Sale(t.Context(), item.Sale)
		must(t, err)
		return now
	}
	if now := set(inventory.Paused, 3); now.Status != inventory.Paused || now.Revision != 3 || !now.OpensAt.Equal(s.OpensAt) {
		t.Fatalf("%+v", now)
	}
	if now := set(inventory.Open, 2); now.Status != inventory.Paused { // an older change that comes late
		t.Fatalf("%+v", now)
	}
	must(t, b.Provision(t.Context(), inventory.Provision{Shards: 5, Sale: inventory.Sale{ID: item.Sale, Status: inventory.Scheduled}})) // again: ignored
	if now := set(inventory.Ended, 4); now.Status != inventory.Ended || len(now.Items[0].Buckets) != 2 {
		t.Fatalf("%+v", now)
	}
	if all, err := b.Buckets(t.Context(), nil); err != nil || len(all) != 2 { // it ended just now
		t.Fatalf("buckets %v, %v", all, err)
	}
}

func ledgerOutbox(t *testing.T, b *book) {
	item := b.sale("s", 9, 1, 0)
	r := b.held(item, 0, 1, 1)
	refused := b.claim(item, 0, 2, 100)
	b.commit(refused)
	pay := inventory.Move{Kind: reservation.MovePay, Reservation: r.ID, Payment: id.Derive("p")}
	b.move(pay)
	b.move(pay)
	b.move(inventory.Move{Kind: reservation.MoveCapture, Reservation: r.ID, Payment: id.Derive("p")})
	es, err := b.Unsent(t.Context(), 0, 10)
	must(t, err)
	var kinds []string
	var ids []id.ID
	for _, e := range es {
		kinds, ids = append(kinds, e.Type), append(ids, e.ID)
		if d, err := transport.Decode[inventory.ReservationData](e); err != nil || d.Reservation != r.ID || e.Subject != r.ID || e.Source != transport.Inventory {
			t.Fatalf("%+v, %v", e, err)
		}
	}
	if !slices.Equal(kinds, []string{inventory.EventHeld, inventory.EventPaying, inventory.EventPaid}) {
		t.Fatalf("said %v", kinds)
	}
	if es, err = b.Unsent(t.Context(), 0, 10); err != nil || len(es) != 0 {
		t.Fatalf("leased to two relays: %v, %v", es, err)
	}
	if n, _, err := b.Backlog(t.Context()); err != nil || n != 3 {
		t.Fatalf("backlog %d, %v", n, err)
	}
	must(t, b.MarkSent(t.Context(), append(ids, id.Derive("unknown"))))
	if n, age, err := b.Backlog(t.Context()); err != nil || n != 0 || age != 0 {
		t.Fatalf("backlog %d, %s, %v", n, age, err)
	}
}

func ledgerStatement(t *testing.T, b *book) {
	item := b.sale("s", 20, 1, 0)
	want := map[id.ID]int{}
	for n := range 5 {
		want[b.held(item, 0, n, n+1).ID] = n + 1
	}
	var last id.ID
	err := b.Statement(t.Context(), func(l inventory.Line) error {
		if slices.Compare(l.Reservation[:], last[:]) <= 0 {
			t.Errorf("%s after %s", l.Reservation, last)
		}
		last = l.Reservation
		if q := want[l.Reservation]; l.Quantity != q || l.Total.Amount != int64(q)*price().Amount || l.State != reservation.Held {
			t.Errorf("%+v", l)
		}
		delete(want, l.Reservation)
		return nil
	})
	if err != nil || len(want) != 0 {
		t.Fatalf("%v, missing %v", err, want)
	}
	stop := errors.New("enough")
	wantErr(t, b.Statement(t.Context(), func(inventory.Line) error { return stop }), stop)
}

// ledgerCrowd: many groups at the same time, on all shards, of few shoppers with a limit, more
// wanted than there is, some cancelled again.
func ledgerCrowd(t *testing.T, b *book) {
	const shards, stock, limit = 4, 60, 3
	item := b.sale("s", stock, shards, limit)
	var held atomic.Int64
	var n atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for round := range 12 {
				var claims []inventory.Claim
				for range 4 {
					k := int(n.Add(1))
					claims = append(claims, inventory.Claim{
						Request: reservation.Request{User: user(k % 24), Key: fmt.Sprint(k), Sale: item.Sale, SKU: item.SKU, Quantity: 1 + k%2},
						Legs:    []inventory.Leg{{Take: id.New(time.Now()), Bucket: inventory.BucketID{Item: item, Shard: (w + k) % shards}, Epoch: 1, Qty: 1 + k%2}},
					})
				}
				ds, err := b.Commit(t.Context(), claims)
				if err != nil {
					t.Error(err)
					return
				}
				for i, d := range ds {
					if d.Err != nil {
						continue
					}
					held.Add(int64(claims[i].Request.Quantity))
					if round%3 == 0 {
						a, err := b.Move(t.Context(), []inventory.Move{{Kind: reservation.MoveCancel, Reservation: d.Reservation.ID}})
						if err != nil || a[0].Err != nil {
							t.Errorf("%v, %v", a, err)
							return
						}
						held.Add(-int64(claims[i].Request.Quantity))
					}
				}
			}
		})
	}
	wg.Wait()
	s, err := b.Sale(t.Context(), item.Sale)
	must(t, err)
	h, sold := s.Items[0].Sum()
	if h != held.Load() || sold != 0 || h > stock {
		t.Fatalf("held %d of %d, the crowd counts %d", h, stock, held.Load())
	}
}

func ledgerAudit(t *testing.T, b *book) {
	item := b.sale("s", 10, 1, 1)
	r := b.held(item, 0, 1, 1)
	b.held(item, 0, 2, 1)
	checks, err := b.Audit(t.Context())
	must(t, err)
	if !audit.Clean(checks) {
		t.Fatalf("not clean before: %+v", checks)
	}
	for _, c := range []struct{ break_, mend, finds string }{
		{`UPDATE bucket SET held = held + 1`, `UPDATE bucket SET held = held - 1`, "held = Σ legs held or paying; sold = Σ legs paid"},
		{`UPDATE bucket SET granted = granted + 1`, `UPDATE bucket SET granted = granted - 1`, "Σ granted = total"},
		{`UPDATE reservation SET qty = qty + 1`, `UPDATE reservation SET qty = qty - 1`, "Σ legs of a reservation = its quantity"},
		{`UPDATE journal SET d_held = d_held + 1 WHERE kind = 'hold'`, `UPDATE journal SET d_held = d_held - 1 WHERE kind = 'hold'`, "the journal replayed gives the bucket rows"},
		{`UPDATE bucket SET credit_seq = credit_seq + 1`, `UPDATE bucket SET credit_seq = credit_seq - 1`, "credits are numbered without a gap"},
		{`UPDATE reservation SET state = 'odd'`, `UPDATE reservation SET state = 'held'`, "one state of the state machine per reservation; legs only where units were admitted"},
		{`UPDATE reservation SET qty = qty + 1`, `UPDATE reservation SET qty = qty - 1`, "per shopper, bound units ≤ limit"},
		{`UPDATE allowance SET qty = qty + 1`, `UPDATE allowance SET qty = qty - 1`, "allowances = Σ bound units"},
	} {
		b.Corrupt(t, c.break_)
		checks, err := b.Audit(t.Context())
		must(t, err)
		if i := slices.IndexFunc(checks, func(k audit.Check) bool { return k.Name == c.finds }); i < 0 || checks[i].OK {
			t.Errorf("after %q the check %q holds: %+v", c.break_, c.finds, checks)
		}
		b.Corrupt(t, c.mend)
	}
	_ = r
	if checks, err = b.Audit(t.Context()); err != nil || !audit.Clean(checks) {
		t.Fatalf("not clean after: %+v, %v", checks, err)
	}
}

func ledgerNothing(t *testing.T, b *book) {
	_, err := b.Find(t.Context(), id.Derive("none"))
	wantErr(t, err, reservation.ErrNotFound)
	_, err = b.Sale(t.Context(), id.Derive("none"))
	wantErr(t, err, inventory.ErrUnknownSale)
	wantErr(t, b.SetStatus(t.Context(), inventory.Sale{ID: id.Derive("none"), Status: inventory.Open, Revision: 9}), inventory.ErrUnknownSale)
	_, _, err = b.Reopen(t.Context(), inventory.BucketID{Item: inventory.ItemID{Sale: id.Derive("none"), SKU: "A"}}, 1)
	wantErr(t, err, inventory.ErrFenced)
	a := b.move(inventory.Move{Kind: reservation.MoveCancel, Reservation: id.Derive("none")})
	wantErr(t, a.Err, reservation.ErrNotFound)
	if a.Event.Type != "" {
		t.Fatalf("event %+v", a.Event)
	}
	for what, n := range map[string]func() (int, error){
		"commit":    func() (int, error) { v, err := b.Commit(t.Context(), nil); return len(v), err },
		"move":      func() (int, error) { v, err := b.Move(t.Context(), nil); return len(v), err },
		"refuse":    func() (int, error) { v, err := b.Refuse(t.Context(), nil); return len(v), err },
		"due":       func() (int, error) { v, err := b.Due(t.Context(), 5); return len(v), err },
		"buckets":   func() (int, error) { v, err := b.Buckets(t.Context(), nil); return len(v), err },
		"tombstone": func() (int, error) { v, err := b.Tombstone(t.Context(), nil); return len(v), err },
		"unsent":    func() (int, error) { v, err := b.Unsent(t.Context(), 0, 5); return len(v), err },
	} {
		if got, err := n(); err != nil || got != 0 {
			t.Errorf("%s of nothing: %d, %v", what, got, err)
		}
	}
	item := b.sale("s", 1, 1, 0) // the audit wants something to look at
	b.held(item, 0, 1, 1)
}
