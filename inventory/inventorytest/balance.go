package inventorytest

import (
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"slices"
	"testing"
	"time"
)

// transfer moves units as a take under epoch 1 has drawn them.
func (b *book) transfer(item inventory.ItemID, from, to, qty int) inventory.Transfer {
	b.n++
	return inventory.Transfer{To: to, Leg: inventory.Leg{
		Take: id.New(time.Now()), Bucket: inventory.BucketID{Item: item, Shard: from}, Epoch: 1, Qty: qty,
	}}
}

func (b *book) wantTransfer(tr inventory.Transfer, want inventory.LegOutcome) {
	b.t.Helper()
	got, err := b.Transfer(b.t.Context(), tr)
	if err != nil || got != want {
		b.t.Fatalf("transfer %+v: %s, %v; want %s", tr, got, err, want)
	}
}

func ledgerTransfer(t *testing.T, b *book) {
	item := b.sale("s", 6, 2, 0) // 3, 3
	must(t, b.commit(b.claim(item, 0, 1, 1))[0].Err)
	two := b.transfer(item, 0, 1, 2)
	for range 2 { // twice is once
		b.wantTransfer(two, inventory.Committed)
		b.wantBucket(item, 0, 1, 1, 0, 0)
		b.wantBucket(item, 1, 5, 0, 0, 1)
	}
	credits, err := b.Credits(t.Context(), inventory.BucketID{Item: item, Shard: 1}, 0, 9)
	if err != nil || len(credits) != 1 || credits[0].Qty != 2 || credits[0].Seq != 1 || !credits[0].User.IsZero() {
		t.Fatalf("credits %+v, %v", credits, err)
	}
	// What was moved cannot be claimed where it was, and can be where it is.
	wantErr(t, b.commit(b.claim(item, 0, 2, 1))[0].Err, inventory.ErrNoUnits)
	must(t, b.commit(b.claim(item, 1, 2, 5))[0].Err)
	// A transfer's take is final: it commits no claim, and a tombstone stops a transfer.
	c := b.claim(item, 0, 3, 1)
	c.Legs[0].Take = two.Leg.Take
	wantErr(t, b.commit(c)[0].Err, inventory.ErrTakeAborted)
	dead := b.transfer(item, 1, 0, 1)
	_, err = b.Tombstone(t.Context(), []inventory.Pending{{TakeRef: inventory.TakeRef{ID: dead.Leg.Take, Bucket: dead.Leg.Bucket, Epoch: 1}, Qty: 1}})
	must(t, err)
	b.wantTransfer(dead, inventory.Aborted)
	got, err := b.Tombstone(t.Context(), []inventory.Pending{{TakeRef: inventory.TakeRef{ID: two.Leg.Take, Bucket: two.Leg.Bucket, Epoch: 1}, Qty: 2}})
	if err != nil || got[0] != inventory.Committed {
		t.Fatalf("the reaper is told %v, %v", got, err)
	}

	other := b.sale("other", 4, 2, 0) // 2, 2
	old, itself := b.transfer(other, 0, 1, 1), b.transfer(other, 0, 0, 1)
	old.Leg.Epoch = 2
	for name, tr := range map[string]inventory.Transfer{
		"another epoch": old, "more than there is": b.transfer(other, 0, 1, 3), "nobody to receive": b.transfer(other, 0, 9, 1),
		"no such donor": b.transfer(other, 9, 0, 1), "to itself": itself,
	} {
		b.wantTransfer(tr, inventory.Aborted)
		b.wantBucket(other, 0, 2, 0, 0, 0)
		b.wantBucket(other, 1, 2, 0, 0, 0)
		if t.Failed() {
			t.Fatal(name)
		}
	}
}

func ledgerEvacuate(t *testing.T, b *book) {
	item := b.sale("s", 9, 3, 0) // 3, 3, 3
	held := b.claim(item, 0, 1, 1)
	must(t, b.commit(held)[0].Err)
	gone := inventory.BucketID{Item: item}
	credited, err := b.Evacuate(t.Context(), gone, []int{0, 1, 2, 7})
	if err != nil || len(credited) != 2 {
		t.Fatalf("credited %v, %v", credited, err)
	}
	b.wantBucket(item, 0, 1, 1, 0, 0)
	b.wantBucket(item, 1, 4, 0, 0, 1)
	b.wantBucket(item, 2, 4, 0, 0, 1)
	wantErr(t, b.commit(b.claim(item, 0, 2, 1))[0].Err, inventory.ErrFenced)
	credited, err = b.Evacuate(t.Context(), gone, []int{1, 2})
	if err != nil || len(credited) != 0 {
		t.Fatalf("with nothing available: credited %v, %v", credited, err)
	}
	// What is released there later can be moved too; with nobody left, it stays.
	must(t, b.move(inventory.Move{Kind: reservation.MoveCancel, Reservation: held.Request.ID()}).Err)
	b.wantBucket(item, 0, 1, 0, 0, 1)
	if credited, err = b.Evacuate(t.Context(), gone, nil); err != nil || len(credited) != 0 {
		t.Fatalf("with nobody left: credited %v, %v", credited, err)
	}
	b.wantBucket(item, 0, 1, 0, 0, 1)
	if credited, err = b.Evacuate(t.Context(), gone, []int{2}); err != nil || len(credited) != 1 || credited[0].Shard != 2 {
		t.Fatalf("after a release: credited %v, %v", credited, err)
	}
	b.wantBucket(item, 0, 0, 0, 0, 1)
	b.wantBucket(item, 2, 5, 0, 0, 2)
	_, err = b.Evacuate(t.Context(), inventory.BucketID{Item: item, Shard: 9}, []int{1})
	wantErr(t, err, inventory.ErrUnknownSale)
}

func ledgerSpread(t *testing.T, b *book) {
	item, wide := b.sale("s", 3, 1, 0), b.sale("wide", 3, 3, 0)
	for range 2 {
		must(t, b.Spread(t.Context(), 3))
		b.wantBucket(item, 0, 3, 0, 0, 0)
		b.wantBucket(item, 1, 0, 0, 0, 0)
		b.wantBucket(item, 2, 0, 0, 0, 0)
		b.wantBucket(wide, 2, 1, 0, 0, 0)
	}
	must(t, b.Spread(t.Context(), 1)) // fewer: nothing is taken away
	all, err := b.Buckets(t.Context(), nil)
	if err != nil || len(all) != 6 {
		t.Fatalf("%d buckets, %v", len(all), err)
	}
	for want, of := range map[int][]inventory.ItemID{
		3: {item, item}, 6: {wide, item}, 0: {}, 1: {{Sale: item.Sale, SKU: "none"}},
	} {
		some, err := b.Buckets(t.Context(), of)
		if want == 1 {
			want = 0
		}
		if err != nil || len(some) != want || !slices.IsSortedFunc(some, func(a, b inventory.Bucket) int { return a.ID.Compare(b.ID) }) {
			t.Fatalf("of %v: %v, %v", of, some, err)
		}
	}
	b.wantTransfer(b.transfer(item, 0, 2, 2), inventory.Committed)
	must(t, b.commit(b.claim(item, 2, 1, 2))[0].Err)
}
