package pgledger_test

import (
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/inventory/pgledger"
	"flashsale/money"
	"flashsale/reservation"
	"flashsale/testenv/databases"
	"flashsale/transport"
	"flashsale/transport/transporttest"
	"strconv"
	"testing"
	"time"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// provision puts units of one item on sale in two buckets.
func provision(t testing.TB, l *pgledger.Ledger, units int64) inventory.ItemID {
	t.Helper()
	item, now := inventory.ItemID{Sale: id.Derive("sale"), SKU: "A"}, time.Now()
	must(t, l.Provision(t.Context(), inventory.Provision{Shards: 2, Sale: inventory.Sale{
		ID: item.Sale, Status: inventory.Open, OpensAt: now.Add(-time.Hour), EndsAt: now.Add(time.Hour), HoldFor: time.Hour, Revision: 1, Limit: 1000,
		Items: []inventory.Item{{SKU: item.SKU, UnitPrice: money.Money{Amount: 100, Currency: "EUR"}, Total: units}},
	}}))
	return item
}

// claim is the n-th shopper's, of one unit.
func claim(item inventory.ItemID, n int) inventory.Claim {
	return inventory.Claim{
		TraceParent: "trace " + strconv.Itoa(n),
		Request:     reservation.Request{User: id.Derive("shopper", strconv.Itoa(n)), Key: "k", Sale: item.Sale, SKU: item.SKU, Quantity: 1},
		Legs:        []inventory.Leg{{Take: id.New(time.Now()), Bucket: inventory.BucketID{Item: item, Shard: n % 2}, Epoch: 1, Qty: 1}},
	}
}

// TestAnnouncements: what a group said is relayed by anybody until all of it is sent, as it was said,
// whatever became of the reservations.
func TestAnnouncements(t *testing.T) {
	t.Parallel()
	const all = 130 // rows of 64, 64 and 2
	pool := databases.Postgres(t, pgledger.Migrations)
	first, second := pgledger.New(pool), pgledger.New(pool)
	item := provision(t, first, 1000)
	claims := make([]inventory.Claim, all)
	for n := range claims {
		claims[n] = claim(item, n)
	}
	decisions, err := first.Commit(t.Context(), claims)
	must(t, err)
	said, ids := map[id.ID]transport.Envelope{}, []id.ID{}
	for _, d := range decisions {
		must(t, d.Err)
		said[d.Event.ID], ids = d.Event, append(ids, d.Event.ID)
	}
	backlog := func(want int) {
		t.Helper()
		if n, _, err := second.Backlog(t.Context()); err != nil || n != want {
			t.Fatalf("backlog %d, %v; want %d", n, err, want)
		}
	}
	backlog(all)
	if _, err := first.Move(t.Context(), []inventory.Move{{Kind: reservation.MoveCancel, Reservation: decisions[0].Reservation.ID}}); err != nil {
		t.Fatal(err)
	}
	must(t, first.MarkSent(t.Context(), ids[:all-1]))
	left, _, err := first.Backlog(t.Context())
	if must(t, err); left != 3 && left != 65 { // the last reservation's row, whichever that is, and the cancellation
		t.Fatalf("%d wait, of which all but one were sent", left)
	}
	must(t, first.MarkSent(t.Context(), ids[:all-1])) // again: nobody counts twice
	backlog(left)

	es, err := second.Unsent(t.Context(), 0, 1000)
	must(t, err)
	if len(es) != left {
		t.Fatalf("%d are relayed of %d", len(es), left)
	}
	var relayed []id.ID
	for _, e := range es[:left-1] {
		if want := said[e.ID]; !transporttest.Same(e, want) {
			t.Fatalf("relayed %+v\nwas said %+v", e, want)
		}
		relayed = append(relayed, e.ID)
	}
	if es[left-1].Type != inventory.EventReleased {
		t.Fatalf("the cancellation comes last, not %s", es[left-1].Type)
	}
	if again, err := first.Unsent(t.Context(), 0, 1000); err != nil || len(again) != 0 {
		t.Fatalf("%d are leased twice, %v", len(again), err)
	}
	must(t, second.MarkSent(t.Context(), relayed))
	backlog(1)
}

// TestRepeatedInAGroup: a group that holds repetitions beside new claims is answered as if each had
// come alone, whatever was not read at first.
func TestRepeatedInAGroup(t *testing.T) {
	t.Parallel()
	l := pgledger.New(databases.Postgres(t, pgledger.Migrations))
	item := provision(t, l, 20)
	commit := func(claims ...inventory.Claim) []inventory.Decision {
		t.Helper()
		ds, err := l.Commit(t.Context(), claims)
		must(t, err)
		return ds
	}
	one := claim(item, 1)
	must(t, commit(one)[0].Err)
	again := one // with another take, of a bucket that does not exist any more under this epoch
	again.Legs = []inventory.Leg{{Take: id.New(time.Now()), Bucket: one.Legs[0].Bucket, Epoch: 7, Qty: 1}}
	ds := commit(claim(item, 2), again, claim(item, 3))
	if ds[0].Err != nil || ds[2].Err != nil || !ds[1].Replayed || ds[1].Outcomes[0] != inventory.Aborted {
		t.Fatalf("%+v", ds)
	}
	same := one // the very same delivery once more, beside a new one
	if ds := commit(claim(item, 4), same); ds[0].Err != nil || !ds[1].Replayed || ds[1].Outcomes[0] != inventory.Committed {
		t.Fatalf("%+v", ds)
	}
	if ds := commit(claim(item, 5)); ds[0].Err != nil || ds[0].Replayed {
		t.Fatalf("%+v", ds)
	}
}
