package inventorytest

import (
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/money"
	"flashsale/reservation"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// What is asked of one bucket of a ledger beside []inventory.Claim and []inventory.Move.
type ledgerRead struct{}

// orderModel is a sale of one item in one bucket, as the checker steps it: the plain model, copied
// for every order that is tried.
func orderModel(sale inventory.Sale, stock int64) porcupine.Model {
	bucket := inventory.BucketID{Item: inventory.ItemID{Sale: sale.ID, SKU: "A"}}
	return porcupine.Model{
		Init: func() any {
			return newLedgerModel(sale, -time.Hour, time.Hour, map[string]int64{"A": stock}, 1)
		},
		Step: func(state, asked, answered any) (bool, any) {
			m := state.(*ledgerModel).clone()
			switch a := asked.(type) {
			case []inventory.Claim:
				got, want := answered.([]inventory.Decision), m.commit(a)
				return slices.EqualFunc(got, want, func(g, w inventory.Decision) bool {
					// Paying locks no bucket, so what a replay says of the state may be older than the group's end.
					return errors.Is(g.Err, w.Err) && g.Replayed == w.Replayed && slices.Equal(g.Outcomes, w.Outcomes)
				}), m
			case []inventory.Move:
				for i, g := range answered.([]inventory.Moved) {
					w := m.move(a[i])
					if !errors.Is(g.Err, w.Err) || g.Applied != w.Applied || g.Reservation.State != w.Reservation.State || !slices.Equal(g.Credited, w.Credited) {
						return false, m
					}
				}
			case ledgerRead:
				return answered == m.buckets[bucket], m
			}
			return true, m
		},
		Equal: func(a, b any) bool {
			m, n := a.(*ledgerModel), b.(*ledgerModel)
			return maps.Equal(m.buckets, n.buckets) && maps.Equal(m.takes, n.takes) &&
				maps.EqualFunc(m.rows, n.rows, func(r, s row) bool { return r.State == s.State && slices.Equal(r.legs, s.legs) })
		},
	}
}

// RecordLedger has several clients claim units of one bucket at the same time, in groups, some
// claims twice, and cancel and pay each other's reservations, and returns what they saw, and the model that
// must explain it.
func RecordLedger(t *testing.T, l Ledger, round int) (*History, porcupine.Model) {
	t.Helper()
	const stock = 8
	sale := inventory.Sale{
		ID: id.Derive("order", t.Name(), fmt.Sprint(round)), Status: inventory.Open, Limit: 3, HoldFor: time.Hour, Revision: 1,
	}
	m := orderModel(sale, stock)
	open := sale
	open.OpensAt, open.EndsAt = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	open.Items = []inventory.Item{{SKU: "A", UnitPrice: money.Money{Amount: 1, Currency: "EUR"}, Total: stock}}
	must(t, l.Provision(t.Context(), inventory.Provision{Sale: open, Shards: 1}))
	b := inventory.BucketID{Item: inventory.ItemID{Sale: sale.ID, SKU: "A"}}
	h := &History{}
	request := func(k int) reservation.Request {
		return reservation.Request{User: user(k % 6), Key: fmt.Sprintf("%s %d", sale.ID, k), Sale: sale.ID, SKU: "A", Quantity: 1 + k%2}
	}
	read := func() {
		began := h.Now()
		s, err := l.Sale(t.Context(), sale.ID)
		if err != nil {
			t.Error(err)
			return
		}
		h.Add(ledgerRead{}, s.Items[0].Buckets[0], began, h.Now())
	}
	var mu sync.Mutex
	var claims []inventory.Claim
	var clients sync.WaitGroup
	for c := range 6 {
		random := rand.New(rand.NewPCG(uint64(round), uint64(c)))
		clients.Go(func() {
			for n := range 10 {
				near := func() int { return n + random.IntN(3) } // so that clients meet
				switch op := random.IntN(10); {
				case op < 5:
					var group []inventory.Claim
					for range 1 + random.IntN(3) {
						r := request(near())
						k := inventory.Claim{Request: r, Legs: []inventory.Leg{{Take: id.New(epoch0), Bucket: b, Epoch: 1, Qty: r.Quantity}}}
						mu.Lock()
						if len(claims) > 0 && random.IntN(3) == 0 {
							k = claims[random.IntN(len(claims))] // delivered twice
						} else {
							claims = append(claims, k)
						}
						mu.Unlock()
						group = append(group, k)
					}
					began := h.Now()
					ds, err := l.Commit(t.Context(), group)
					if err != nil {
						t.Error(err)
						return
					}
					h.Add(group, ds, began, h.Now())
				case op < 9:
					var moves []inventory.Move
					for range 1 + random.IntN(2) {
						kind := reservation.MoveCancel
						if random.IntN(3) == 0 {
							kind = reservation.MovePay
						}
						moves = append(moves, inventory.Move{Kind: kind, Reservation: request(near()).ID(), Payment: id.Derive("payment")})
					}
					began := h.Now()
					as, err := l.Move(t.Context(), moves)
					if err != nil {
						t.Error(err)
						return
					}
					h.Add(moves, as, began, h.Now())
				default:
					read()
				}
			}
		})
	}
	clients.Wait()
	read()
	return h, m
}

// ExerciseLedgerOrder checks that what clients see of one bucket at the same time could have
// happened one transaction after the other.
func ExerciseLedgerOrder(t *testing.T, l Ledger) {
	t.Helper()
	for round := range 8 {
		h, m := RecordLedger(t, l, round)
		h.Check(t, m)
	}
}
