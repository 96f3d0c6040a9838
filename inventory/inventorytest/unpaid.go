package inventorytest

import (
	"errors"
	"flashsale/audit"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"fmt"
	"sync"
	"testing"
	"time"
)

// ExerciseUnpaid runs the suite of the bound on what a shopper holds unpaid; open returns an empty ledger
// with this bound.
func ExerciseUnpaid(t *testing.T, open func(t *testing.T, most int) LedgerUnderTest) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, *book){
		"what counts, and what ends it":   unpaidCounts,
		"a crowd of one, on every bucket": unpaidCrowd,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &book{LedgerUnderTest: open(t, 3), t: t}
			test(t, b)
			checks, err := b.Audit(t.Context())
			must(t, err)
			if !audit.Clean(checks) {
				t.Errorf("the audit: %+v", checks)
			}
		})
	}
}

// unpaidCounts: a hold counts until it is paid for or over, whatever its sale and quantity, for nobody
// else; and a repetition is no second hold.
func unpaidCounts(t *testing.T, b *book) {
	one, two := b.sale("one", 50, 1, 0), b.sale("two", 50, 1, 0)
	first := b.claim(one, 0, 1, 5)
	ds := b.commit(first, b.claim(two, 0, 1, 1), b.claim(one, 0, 1, 1), b.claim(two, 0, 1, 1), b.claim(two, 0, 2, 1))
	for i, want := range []error{nil, nil, nil, reservation.ErrTooManyUnpaid, nil} {
		if !errors.Is(ds[i].Err, want) {
			t.Fatalf("claim %d of a group: %v, want %v", i, ds[i].Err, want)
		}
	}
	if ds[3].Outcomes[0] != inventory.Aborted {
		t.Errorf("the take of a refused claim is %q", ds[3].Outcomes[0])
	}
	refused := func(when string) {
		t.Helper()
		if d := b.commit(b.claim(two, 0, 1, 1))[0]; !errors.Is(d.Err, reservation.ErrTooManyUnpaid) {
			t.Fatalf("%s: %v", when, d.Err)
		}
	}
	refused("three are held")
	again := first
	again.Legs = b.claim(one, 0, 1, 5).Legs
	if d := b.commit(again)[0]; d.Err != nil || !d.Replayed || d.Reservation != ds[0].Reservation {
		t.Fatalf("the same request again: %+v", d)
	}
	pay := id.Derive("payment")
	move := func(i int, kind reservation.MoveKind) {
		t.Helper()
		if a := b.move(inventory.Move{Kind: kind, Reservation: ds[i].Reservation.ID, Payment: pay}); !a.Applied {
			t.Fatalf("%s: %+v", kind, a)
		}
	}
	move(0, reservation.MovePay)
	refused("one is being paid for")
	move(0, reservation.MoveCapture)
	b.held(two, 0, 1, 1)
	refused("one is paid for, and another held")
	move(0, reservation.MoveRefund) // it had not counted any more
	refused("the paid one is refunded")
	move(1, reservation.MoveCancel)
	if a := b.move(inventory.Move{Kind: reservation.MoveCancel, Reservation: ds[1].Reservation.ID}); a.Applied {
		t.Fatalf("cancelled twice: %+v", a)
	}
	ds[1] = b.commit(b.claim(one, 0, 1, 1))[0]
	must(t, ds[1].Err)
	refused("one is cancelled, and another held")
	move(1, reservation.MovePay)
	move(1, reservation.MoveDecline)
	b.held(two, 0, 1, 1)
	refused("one is declined, and another held")
	b.After(hold + 10*time.Millisecond)
	refused("holds are over, but their units are not back")
	move(2, reservation.MoveExpire)
	b.held(two, 0, 1, 1)
}

// unpaidCrowd: a few shoppers ask for far more than they may, in groups that meet in other orders, at
// every bucket of several sales at once. Each gets what one may, exactly; and so again once half of that
// is given back while they ask.
func unpaidCrowd(t *testing.T, b *book) {
	const shoppers, most, shards = 3, 3, 2
	items := []inventory.ItemID{b.sale("one", 400, shards, 0), b.sale("two", 400, shards, 0)}
	var mu sync.Mutex
	mine := map[id.ID][]id.ID{}
	ask := func(round string) {
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for n := range 6 {
					var claims []inventory.Claim
					for k := range shoppers {
						item := items[(w+n)%len(items)]
						claims = append(claims, inventory.Claim{
							Request: reservation.Request{User: user((k + w) % shoppers), Key: fmt.Sprint(round, w, "-", n, "-", k), Sale: item.Sale, SKU: item.SKU, Quantity: 1},
							Legs:    []inventory.Leg{{Take: id.New(time.Now()), Bucket: inventory.BucketID{Item: item, Shard: (w / 2) % shards}, Epoch: 1, Qty: 1}},
						})
					}
					ds, err := b.Commit(t.Context(), claims)
					if err != nil {
						t.Error(err)
						return
					}
					for i, d := range ds {
						switch {
						case d.Err == nil:
							mu.Lock()
							mine[claims[i].Request.User] = append(mine[claims[i].Request.User], d.Reservation.ID)
							mu.Unlock()
						case !errors.Is(d.Err, reservation.ErrTooManyUnpaid):
							t.Errorf("refused: %v", d.Err)
						}
					}
				}
			})
		}
		wg.Wait()
	}
	check := func(when string, want int) {
		t.Helper()
		for n := range shoppers {
			if got := len(mine[user(n)]); got != want {
				t.Errorf("%s: shopper %d has %d holds; want %d", when, n, got, want)
			}
		}
	}
	ask("first ")
	check("all asked at once", most)
	var back []inventory.Move
	for n := range shoppers {
		back = append(back, inventory.Move{Kind: reservation.MoveCancel, Reservation: mine[user(n)][0]})
	}
	var returning sync.WaitGroup
	returning.Go(func() {
		as, err := b.Move(t.Context(), back)
		for _, a := range as {
			if !a.Applied {
				err = errors.Join(err, fmt.Errorf("not cancelled: %w", a.Err))
			}
		}
		if err != nil {
			t.Error(err)
		}
	})
	ask("while some come back ")
	returning.Wait()
	ask("when some have come back ")
	check("each had one back", most+1)
}
