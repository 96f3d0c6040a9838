package inventorytest

import (
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"testing"
	"time"
)

// call is a line of a history that was made up.
type call struct {
	asked, answered any
	began, ended    int64
}

func history(calls []call) *History {
	h := &History{}
	for _, c := range calls {
		h.Add(c.asked, c.answered, c.began, c.ended)
	}
	return h
}

// TestGateModelTellsRightFromWrong: what cannot have happened is rejected, and what could is not.
func TestGateModelTellsRightFromWrong(t *testing.T) {
	t.Parallel()
	b := bucket(t, "A", 0)
	a, z := take(b, 1, user(1), 1), take(b, 1, user(2), 1)
	limited := take(b, 1, user(1), 1)
	limited.Limit = 1
	got := gateTaken{}
	short := gateTaken{err: inventory.ErrShort}
	for name, c := range map[string]struct {
		want  bool
		calls []call
	}{
		"the last unit, once":                {true, []call{{a, got, 1, 2}, {z, short, 3, 4}}},
		"the last unit, twice":               {false, []call{{a, got, 1, 2}, {z, got, 3, 4}}},
		"short beside a take under way":      {true, []call{{z, short, 2, 3}, {a, got, 1, 4}}},
		"short before any take":              {false, []call{{z, short, 1, 2}, {a, got, 3, 4}}},
		"a repeated take":                    {true, []call{{a, got, 1, 2}, {a, got, 3, 4}, {z, short, 5, 6}}},
		"given back, taken by another":       {true, []call{{a, got, 1, 2}, {gateAbort{a}, nil, 3, 4}, {z, got, 5, 6}}},
		"given back, and still not there":    {false, []call{{a, got, 1, 2}, {gateAbort{a}, nil, 3, 4}, {z, short, 5, 6}}},
		"given back while it was asked for":  {true, []call{{a, got, 1, 2}, {gateAbort{a}, nil, 3, 6}, {z, short, 4, 5}}},
		"settled, so there is nothing back":  {false, []call{{a, got, 1, 2}, {gateSettle{a}, nil, 3, 4}, {gateAbort{a}, nil, 5, 6}, {z, got, 7, 8}}},
		"over the limit":                     {false, []call{{limited, got, 1, 2}, {gateSettle{limited}, nil, 3, 4}, {inventory.Credit{Seq: 1, Qty: 1}, gateCredited{applied: 1}, 5, 6}, {limited, got, 7, 8}}},
		"a credit out of order":              {false, []call{{inventory.Credit{Seq: 2, Qty: 1}, gateCredited{applied: 2}, 1, 2}}},
		"a credit is applied once":           {false, []call{{inventory.Credit{Seq: 1, Qty: 1}, gateCredited{applied: 1}, 1, 2}, {inventory.Credit{Seq: 1, Qty: 1}, gateCredited{applied: 1}, 3, 4}, {gateRead{}, inventory.Level{Epoch: 1, Available: 3, Seq: 1}, 5, 6}}},
		"a level from before an ended take":  {false, []call{{a, got, 1, 2}, {gateRead{}, inventory.Level{Epoch: 1, Available: 1}, 3, 4}}},
		"a level from beside a take":         {true, []call{{a, got, 1, 4}, {gateRead{}, inventory.Level{Epoch: 1, Available: 1}, 2, 3}}},
		"closed, although it was never lost": {false, []call{{a, gateTaken{err: inventory.ErrClosed}, 1, 2}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := history(c.calls).Linearizable(t, GateModel(inventory.Level{Epoch: 1, Available: 1})); got != c.want {
				t.Fatalf("the checker says %v", got)
			}
		})
	}
}

// TestLedgerModelTellsRightFromWrong is the same for a ledger with one unit.
func TestLedgerModelTellsRightFromWrong(t *testing.T) {
	t.Parallel()
	sale := inventory.Sale{ID: id.Derive("sale", t.Name()), Status: inventory.Open, HoldFor: time.Hour, Revision: 1}
	b := inventory.BucketID{Item: inventory.ItemID{Sale: sale.ID, SKU: "A"}}
	claim := func(who int) []inventory.Claim {
		r := reservation.Request{User: user(who), Key: "k", Sale: sale.ID, SKU: "A", Quantity: 1}
		return []inventory.Claim{{Request: r, Legs: []inventory.Leg{{Take: id.New(epoch0), Bucket: b, Epoch: 1, Qty: 1}}}}
	}
	a, z := claim(1), claim(2)
	held := reservation.Reservation{State: reservation.Held}
	yes := []inventory.Decision{{Reservation: held, Outcomes: []inventory.LegOutcome{inventory.Committed}}}
	again := []inventory.Decision{{Reservation: held, Replayed: true, Outcomes: []inventory.LegOutcome{inventory.Committed}}}
	no := []inventory.Decision{{Err: inventory.ErrNoUnits, Outcomes: []inventory.LegOutcome{inventory.Aborted}}}
	cancel := []inventory.Move{{Kind: reservation.MoveCancel, Reservation: a[0].Request.ID()}}
	gone := reservation.Reservation{State: reservation.Cancelled}
	cancelled := []inventory.Moved{{Applied: true, Reservation: gone, Credited: []inventory.BucketID{b}}}
	before := []inventory.Moved{{Reservation: gone}}
	for name, c := range map[string]struct {
		want  bool
		calls []call
	}{
		"one unit, one shopper":             {true, []call{{a, yes, 1, 2}, {z, no, 3, 4}}},
		"one unit, two shoppers":            {false, []call{{a, yes, 1, 4}, {z, yes, 2, 3}}},
		"nobody has it, and it is not left": {false, []call{{z, no, 1, 2}, {a, yes, 3, 4}}},
		"delivered twice":                   {true, []call{{a, yes, 1, 4}, {a, again, 2, 3}}},
		"delivered twice, held twice":       {false, []call{{a, yes, 1, 4}, {a, yes, 2, 3}}},
		"cancelled, and sold on":            {true, []call{{a, yes, 1, 2}, {cancel, cancelled, 3, 6}, {z, yes, 4, 5}}},
		"sold on, and then cancelled":       {false, []call{{a, yes, 1, 2}, {z, yes, 3, 4}, {cancel, cancelled, 5, 6}}},
		"cancelled twice":                   {true, []call{{a, yes, 1, 2}, {cancel, cancelled, 3, 6}, {cancel, before, 4, 5}}},
		"given back twice":                  {false, []call{{a, yes, 1, 2}, {cancel, cancelled, 3, 6}, {cancel, cancelled, 4, 5}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := history(c.calls).Linearizable(t, orderModel(sale, 1)); got != c.want {
				t.Fatalf("the checker says %v", got)
			}
		})
	}
}
