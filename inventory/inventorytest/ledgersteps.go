package inventorytest

import (
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"slices"
	"testing"
	"time"
)

// ledgerHistory: whoever follows the journal page by page sees every state that a reservation has
// reached, in order, and nothing that is too young.
func ledgerHistory(t *testing.T, b *book) {
	item := b.sale("s", 10, 2, 0)
	paid, expired := b.held(item, 0, 1, 2), b.held(item, 1, 2, 1)
	pay := id.Derive("payment")
	for _, kind := range []reservation.MoveKind{reservation.MovePay, reservation.MoveCapture, reservation.MoveRefund} {
		if a := b.move(inventory.Move{Kind: kind, Reservation: paid.ID, Payment: pay}); !a.Applied {
			t.Fatalf("%s: %+v", kind, a)
		}
	}
	b.After(hold + 10*time.Millisecond)
	if a := b.move(inventory.Move{Kind: reservation.MoveExpire, Reservation: expired.ID}); !a.Applied {
		t.Fatalf("%+v", a)
	}
	type reached struct {
		reservation id.ID
		state       reservation.State
	}
	var got []reached
	stock, after := 0, int64(0)
	for {
		steps, err := b.Steps(t.Context(), after, 0, 2)
		must(t, err)
		if len(steps) == 0 {
			break
		}
		for _, s := range steps {
			if s.N <= after {
				t.Fatalf("step %d after %d", s.N, after)
			}
			if after = s.N; s.State == "" {
				stock++
				continue
			}
			got = append(got, reached{s.Reservation, s.State})
		}
	}
	want := []reached{
		{paid.ID, reservation.Held}, {expired.ID, reservation.Held}, {paid.ID, reservation.Paid}, {paid.ID, reservation.Refunded}, {expired.ID, reservation.Expired},
	}
	if !slices.Equal(got, want) || stock != 2 {
		t.Fatalf("reached %v and %d entries about stock\nwant    %v and 2", got, stock, want)
	}
	if steps, err := b.Steps(t.Context(), 0, time.Hour, 100); err != nil || len(steps) != 0 {
		t.Fatalf("an hour behind: %+v, %v", steps, err)
	}
	rows, err := b.Rows(t.Context(), []id.ID{expired.ID, id.Derive("nobody"), paid.ID})
	must(t, err)
	if len(rows) != 2 || rows[0].ID == rows[1].ID {
		t.Fatalf("rows %+v", rows)
	}
	for _, r := range rows {
		if row, err := b.Find(t.Context(), r.ID); err != nil || r != row {
			t.Errorf("row %+v\nfound %+v, %v", r, row, err)
		}
	}
	if rows, err := b.Rows(t.Context(), nil); err != nil || len(rows) != 0 {
		t.Fatalf("of none: %+v, %v", rows, err)
	}
}
