package inventorytest

import (
	"context"
	"errors"
	"flashsale/audit"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TimedLedger is an empty ledger for which time can be made to pass.
type TimedLedger struct {
	Ledger
	// Now is the ledger's clock, to within a minute.
	Now func() time.Time
	// Pass makes everything that happened to a sale d longer ago, its hours included.
	Pass func(ctx context.Context, sale id.ID, d time.Duration) error
}

// The times of a sequence. Time passes in ticks, holds last for ticks, and a sale opens and ends
// between two ticks: the minutes that a slow machine takes decide nothing.
const (
	tick      = 30 * time.Minute
	modelHold = 2 * tick
)

// ExerciseLedgerModel compares any sequence of operations, a fresh sale each, with a plain model:
// every answer, the bucket rows after every step, and at the end credits, outbox and audit.
func ExerciseLedgerModel(t *testing.T, l TimedLedger) {
	t.Helper()
	run, failed := 0, false
	rapid.Check(t, func(rt *rapid.T) {
		// Sequences are long, so one in four of rapid's checks is enough; once one has failed, rapid
		// repeats and shortens it, and every run counts.
		if run++; run%4 != 0 && !failed {
			return
		}
		defer func() { failed = failed || rt.Failed() }()
		s := newSequence(t.Context(), rt, l, fmt.Sprintf("%s %d", t.Name(), run))
		for range rapid.IntRange(10, 50).Draw(rt, "steps") {
			s.step()
			s.compare()
		}
		s.end()
	})
}

// sequence is a sale in the ledger and in the model, with what has been used on it.
type sequence struct {
	*rapid.T
	ctx    context.Context
	ledger TimedLedger
	model  *ledgerModel
	name   string
	claims []inventory.Claim // all that were made, for repetitions
	takes  []id.ID
}

func newSequence(ctx context.Context, rt *rapid.T, l TimedLedger, name string) *sequence {
	s := &sequence{T: rt, ctx: ctx, ledger: l, name: name}
	stock := map[string]int64{"A": int64(s.int("stock of A", 4, 24)), "B": int64(s.int("stock of B", 0, 5))}
	sale := inventory.Sale{
		ID: id.Derive("sale", name), Status: inventory.Open, Limit: pick(s, "limit", []int{0, 0, 4, 8}), HoldFor: modelHold, Revision: 1,
	}
	s.model = newLedgerModel(sale, -tick/2, 20*tick+tick/2, maps.Clone(stock), 3)
	sale.OpensAt, sale.EndsAt = s.at(s.model.opens), s.at(s.model.ends)
	for sku, total := range stock {
		sale.Items = append(sale.Items, inventory.Item{SKU: sku, UnitPrice: price(), Total: total})
	}
	s.must(l.Provision(ctx, inventory.Provision{Sale: sale, Shards: 3}))
	return s
}

// at is a time of the model on the ledger's clock.
func (s *sequence) at(d time.Duration) time.Time {
	return s.ledger.Now().UTC().Truncate(time.Microsecond).Add(d - s.model.now)
}

func (s *sequence) must(err error) {
	if err != nil {
		s.Fatalf("%v", err)
	}
}

// int is any number of a range, each as likely as the others; rapid's own prefers small ones, and
// would seldom get to the operations that are named last.
func (s *sequence) int(what string, least, most int) int {
	n := 0
	for range 6 {
		n *= 2
		if rapid.Bool().Draw(s.T, what) {
			n++
		}
	}
	return least + n*(most-least+1)/64
}

func pick[T any](s *sequence, what string, of []T) T { return of[s.int(what, 0, len(of)-1)] }

// seldom is true once in n.
func (s *sequence) seldom(what string, n int) bool { return s.int(what, 1, n) == n }

func (s *sequence) item() inventory.ItemID {
	return inventory.ItemID{Sale: s.model.sale.ID, SKU: pick(s, "item", []string{"A", "A", "A", "B"})}
}

// shard is one that the item has, or seldom the next one.
func (s *sequence) shard(what string) int { return pick(s, what, []int{0, 0, 0, 1, 1, 1, 2, 2, 2, 3}) }

func (s *sequence) request() reservation.Request {
	r := reservation.Request{
		User: user(s.int("shopper", 0, 2)), Key: fmt.Sprintf("%s, %d", s.name, s.int("key", 0, 7)), Sale: s.model.sale.ID, SKU: s.item().SKU, Quantity: s.int("quantity", 1, 3),
	}
	if s.seldom("another item", 30) {
		r.SKU = "none"
	}
	if s.seldom("with a cart", 6) {
		r.Cart = id.Derive("cart")
	}
	return r
}

// leg is a part of a take, mostly as the gate hands it out: a fresh take under the present epoch.
func (s *sequence) leg(b inventory.BucketID, qty int) inventory.Leg {
	g := inventory.Leg{Take: id.Derive(s.name, "take", fmt.Sprint(len(s.takes))), Bucket: b, Qty: qty, Epoch: max(1, s.model.buckets[b].Epoch)}
	if s.seldom("another epoch", 20) {
		g.Epoch += int64(s.int("off by", 0, 1)*2 - 1)
	}
	if len(s.takes) > 0 && s.seldom("known take", 20) {
		g.Take = pick(s, "take", s.takes)
	} else {
		s.takes = append(s.takes, g.Take)
	}
	return g
}

// claim is new, or one that was made before and is delivered again. Its legs are on different
// buckets and have different takes, as admission draws them.
func (s *sequence) claim() inventory.Claim {
	if len(s.claims) > 0 && s.seldom("delivered again", 5) {
		return pick(s, "claim", s.claims)
	}
	c := inventory.Claim{Request: s.request()}
	c.Request.Quantity = 0
	item := inventory.ItemID{Sale: c.Request.Sale, SKU: c.Request.SKU}
	for shard := range 4 {
		if shard == 3 && !s.seldom("a bucket that is not there", 20) || shard < 3 && s.int("drawn from", 0, 2) > 0 {
			continue
		}
		g := s.leg(inventory.BucketID{Item: item, Shard: shard}, s.int("quantity", 1, 2))
		if slices.ContainsFunc(c.Legs, func(o inventory.Leg) bool { return o.Take == g.Take }) {
			continue
		}
		c.Legs = append(c.Legs, g)
		c.Request.Quantity += g.Qty
	}
	if len(c.Legs) == 0 {
		c.Legs = []inventory.Leg{s.leg(inventory.BucketID{Item: item}, 1)}
		c.Request.Quantity = 1
	}
	s.claims = append(s.claims, c)
	return c
}

// aMove is of a reservation that was asked for, mostly.
func (s *sequence) aMove() inventory.Move {
	r := s.request()
	known := s.claims
	if active := slices.DeleteFunc(slices.Clone(known), func(c inventory.Claim) bool {
		return !s.model.rows[c.Request.ID()].State.Active()
	}); len(active) > 0 && s.int("that binds units", 0, 2) > 0 {
		known = active
	}
	if len(known) > 0 && !s.seldom("of any request", 8) {
		r = pick(s, "claim", known).Request
	}
	m := inventory.Move{
		Kind: pick(s, "move", append(reservation.Moves(), reservation.MovePay, reservation.MovePay, reservation.MoveCapture, reservation.MoveCapture)), Reservation: r.ID(),
		Payment: id.Derive("payment", fmt.Sprint(s.int("payment", 0, 4)/4)), Reason: pick(s, "reason", []string{"", "because"}),
	}
	if s.seldom("said by a shopper", 4) {
		m.User = user(s.int("by", 0, 2))
	}
	return m
}

func (s *sequence) step() {
	switch op := pick(s, "op", []string{
		"commit", "commit", "commit", "commit", "move", "move", "move", "move", "add stock", "transfer", "transfer", "evacuate", "reopen",
		"tombstone", "refuse", "status", "time passes",
	}); op {
	case "commit":
		s.commit()
	case "move":
		var moves []inventory.Move
		for range s.int("moves", 1, 4) {
			moves = append(moves, s.aMove())
		}
		s.move(moves)
	case "add stock":
		a := inventory.Addition{ID: id.Derive(s.name, "addition", fmt.Sprint(s.int("addition", 0, 5))), Item: s.item(), Qty: int64(s.int("units", 1, 5))}
		got, err := s.ledger.AddStock(s.ctx, a)
		s.must(err)
		s.sameBuckets(op, got, s.model.addStock(a))
	case "transfer":
		t := inventory.Transfer{To: s.shard("to"), Leg: s.leg(inventory.BucketID{Item: s.item(), Shard: s.shard("from")}, s.int("units", 1, 5))}
		got, err := s.ledger.Transfer(s.ctx, t)
		s.must(err)
		if want := s.model.transfer(t); got != want {
			s.Fatalf("transfer %+v: %s; the model says %s", t, got, want)
		}
	case "evacuate":
		from := inventory.BucketID{Item: s.item(), Shard: s.shard("from")}
		to := rapid.Permutation([]int{0, 1, 2, 3}).Draw(s.T, "to")[:s.int("heirs", 0, 4)]
		got, err := s.ledger.Evacuate(s.ctx, from, to)
		want, wantError := s.model.evacuate(from, to)
		s.sameError(op, err, wantError)
		s.sameBuckets(op, got, want)
	case "reopen":
		b := inventory.BucketID{Item: s.item(), Shard: s.shard("bucket")}
		from := s.model.buckets[b].Epoch
		if s.int("other", 0, 3) == 0 {
			from++
		}
		got, users, err := s.ledger.Reopen(s.ctx, b, from)
		want, wantUsers, wantError := s.model.reopen(b, from)
		s.sameError(op, err, wantError)
		if err == nil && (got != want || !maps.Equal(users, wantUsers)) {
			s.Fatalf("reopened %+v with %v; the model says %+v with %v", got, users, want, wantUsers)
		}
	case "tombstone":
		var ps []inventory.Pending
		for range s.int("takes", 1, 3) {
			g := s.leg(inventory.BucketID{Item: s.item(), Shard: s.shard("bucket")}, 1)
			ps = append(ps, inventory.Pending{TakeRef: inventory.TakeRef{ID: g.Take, Bucket: g.Bucket, Epoch: g.Epoch}, Qty: g.Qty})
		}
		got, err := s.ledger.Tombstone(s.ctx, ps)
		s.must(err)
		if want := s.model.tombstone(ps); !slices.Equal(got, want) {
			s.Fatalf("tombstones for %+v: %v; the model says %v", ps, got, want)
		}
	case "refuse":
		f := inventory.Refusal{Request: s.request(), Reason: "held_out"}
		got, err := s.ledger.Refuse(s.ctx, []inventory.Refusal{f, f})
		s.must(err)
		want := s.model.refuse(f)
		for _, r := range got {
			s.sameRow("refused", r, want)
		}
		if len(got) != 2 {
			s.Fatalf("%d rows for 2 refusals", len(got))
		}
	case "status":
		status := pick(s, "status", []inventory.SaleStatus{inventory.Open, inventory.Open, inventory.Open, inventory.Open, inventory.Open, inventory.Paused, inventory.Scheduled, inventory.Ended})
		opens := s.model.now + tick*time.Duration(s.int("opens", -6, 1)) - tick/2
		ends := s.model.now + tick*time.Duration(s.int("ends", 0, 6)) + tick/2
		revision := s.model.sale.Revision + int64(s.int("revision", -1, 2))
		s.must(s.ledger.SetStatus(s.ctx, inventory.Sale{ID: s.model.sale.ID, Status: status, OpensAt: s.at(opens), EndsAt: s.at(ends), Revision: revision}))
		s.model.setStatus(status, opens, ends, revision)
	case "time passes":
		s.pass(tick * time.Duration(s.int("ticks", 1, 2)))
	}
}

func (s *sequence) pass(d time.Duration) {
	s.must(s.ledger.Pass(s.ctx, s.model.sale.ID, d))
	s.model.now += d
}

func (s *sequence) commit() {
	var claims []inventory.Claim
	for range s.int("claims", 1, 4) {
		claims = append(claims, s.claim())
	}
	got, err := s.ledger.Commit(s.ctx, claims)
	s.must(err)
	want := s.model.commit(claims)
	if len(got) != len(want) {
		s.Fatalf("%d decisions for %d claims", len(got), len(want))
	}
	for i, d := range got {
		what := fmt.Sprintf("claim %d of %+v", i, claims)
		s.sameError(what, d.Err, want[i].Err)
		if d.Replayed != want[i].Replayed || d.Event.Type != want[i].Event.Type || !slices.Equal(d.Outcomes, want[i].Outcomes) {
			s.Fatalf("%s: %+v\nthe model says %+v", what, d, want[i])
		}
		s.sameRow(what, d.Reservation, want[i].Reservation)
	}
}

func (s *sequence) move(moves []inventory.Move) {
	got, err := s.ledger.Move(s.ctx, moves)
	s.must(err)
	if len(got) != len(moves) {
		s.Fatalf("%d answers for %d moves", len(got), len(moves))
	}
	for i, v := range moves {
		want, what := s.model.move(v), fmt.Sprintf("move %d of %+v", i, moves)
		s.sameError(what, got[i].Err, want.Err)
		if got[i].Applied != want.Applied || got[i].Event.Type != want.Event.Type {
			s.Fatalf("%s: %+v\nthe model says %+v", what, got[i], want)
		}
		s.sameBuckets(what, got[i].Credited, want.Credited)
		s.sameRow(what, got[i].Reservation, want.Reservation)
	}
}

func (s *sequence) sameError(what string, got, want error) {
	if !errors.Is(got, want) {
		s.Fatalf("%s: %v; the model says %v", what, got, want)
	}
}

func (s *sequence) sameBuckets(what string, got, want []inventory.BucketID) {
	if !slices.Equal(got, want) {
		s.Fatalf("%s: credited %v; the model says %v", what, got, want)
	}
}

// sameRow compares a reservation with the model's, which has its times beside it.
func (s *sequence) sameRow(what string, got, want reservation.Reservation) {
	if !want.ID.IsZero() {
		hold := modelHold
		if want.State == reservation.Refused {
			hold = 0
		}
		made := s.at(s.model.rows[want.ID].made)
		if got.ExpiresAt.Sub(got.CreatedAt) != hold || got.CreatedAt.Sub(made).Abs() > tick/2 {
			s.Fatalf("%s: made %s until %s; the model says %s", what, got.CreatedAt, got.ExpiresAt, made)
		}
		got.CreatedAt, got.ExpiresAt = time.Time{}, time.Time{}
	}
	if got != want {
		s.Fatalf("%s: %+v\nthe model says %+v", what, got, want)
	}
}

// compare holds the sale and its bucket rows against the model, and a row and a shopper by chance.
func (s *sequence) compare() {
	got, err := s.ledger.Sale(s.ctx, s.model.sale.ID)
	s.must(err)
	if got.Status != s.model.sale.Status || got.Revision != s.model.sale.Revision || len(got.Items) != len(s.model.totals) {
		s.Fatalf("sale %+v; the model says %+v", got, s.model.sale)
	}
	for _, item := range got.Items {
		if want := s.model.itemBuckets(item.SKU); item.Total != s.model.totals[item.SKU] || !slices.Equal(item.Buckets, want) {
			s.Fatalf("%s: total %d, %+v\nthe model says %d, %+v", item.SKU, item.Total, item.Buckets, s.model.totals[item.SKU], want)
		}
	}
	r := s.request()
	n, err := s.ledger.Bound(s.ctx, inventory.ItemID{Sale: r.Sale, SKU: r.SKU}, r.User)
	if want := s.model.bound(r.SKU, r.User); err != nil || n != want {
		s.Fatalf("bound %d, %v; the model says %d", n, err, want)
	}
	row, err := s.ledger.Find(s.ctx, r.ID())
	want, known := s.model.rows[r.ID()]
	if known != (err == nil) || !known && !errors.Is(err, reservation.ErrNotFound) {
		s.Fatalf("found %+v, %v; the model says %v", row, err, known)
	}
	if known {
		s.sameRow("found", row, want.Reservation)
	}
	s.due()
}

// due compares the holds that are over, the oldest first, and returns them.
func (s *sequence) due() []id.ID {
	all, err := s.ledger.Due(s.ctx, 1000)
	s.must(err)
	want := s.model.due()
	due := slices.DeleteFunc(all, func(r id.ID) bool { _, ours := s.model.rows[r]; return !ours })
	if len(due) != len(want) || !slices.IsSortedFunc(due, func(a, b id.ID) int { return int(s.model.rows[a].made - s.model.rows[b].made) }) {
		s.Fatalf("due %v; the model says %v", due, want)
	}
	for _, r := range due {
		if !want[r] {
			s.Fatalf("due %v; the model says %v", due, want)
		}
	}
	return due
}

// end lets every hold end, has it paid too late, and holds credits, outbox and the ledger's own audit against the model.
func (s *sequence) end() {
	s.pass(modelHold)
	var moves []inventory.Move
	for _, r := range s.due() {
		late := inventory.Move{Kind: reservation.MovePay, Reservation: r, Payment: id.Derive("late")}
		moves = append(moves, late, inventory.Move{Kind: reservation.MoveExpire, Reservation: r}, late)
	}
	s.move(moves)
	s.compare()
	for b := range s.model.buckets {
		got, err := s.ledger.Credits(s.ctx, b, 0, 1000)
		if err != nil || !slices.Equal(got, s.model.credits[b]) {
			s.Fatalf("credits of %s: %+v, %v\nthe model says %+v", b, got, err, s.model.credits[b])
		}
	}
	s.outbox()
	checks, err := s.ledger.Audit(s.ctx)
	if err != nil || !audit.Clean(checks) {
		s.Fatalf("audit %+v, %v", checks, err)
	}
}

func (s *sequence) outbox() {
	es, err := s.ledger.Unsent(s.ctx, 0, 1000)
	s.must(err)
	said, ids := map[announcement]bool{}, []id.ID{}
	for _, e := range es {
		ids = append(ids, e.ID)
		d, err := transport.Decode[inventory.ReservationData](e)
		s.must(err)
		if d.Sale != s.model.sale.ID { // of a sequence that failed before
			continue
		}
		a := announcement{kind: e.Type, subject: e.Subject}
		if a.kind == inventory.EventPaymentRefused || a.kind == inventory.EventLatePayment {
			a.payment = d.Payment
		}
		if said[a] {
			s.Fatalf("said twice: %+v", a)
		}
		said[a] = true
	}
	if !maps.Equal(said, s.model.said) {
		s.Fatalf("said %v\nthe model says %v", said, s.model.said)
	}
	s.must(s.ledger.MarkSent(s.ctx, ids))
}
