package enginesim

import (
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/inventory/inventorytest"
	"flashsale/order"
	"flashsale/order/ordertest"
	"flashsale/payment/paymenttest"
	"flashsale/reservation"
	"sync/atomic"
	"testing"
	"time"
)

// The models pass the suites of what they model. The suites reach behind a store's back in SQL, so
// each statement has its translation.

func TestModelGate(t *testing.T) {
	t.Parallel()
	inventorytest.ExerciseGate(t, func(*testing.T) inventorytest.Gate { return newGate(2) })
}

func TestModelLedger(t *testing.T) {
	t.Parallel()
	inventorytest.ExerciseLedger(t, func(*testing.T) inventorytest.LedgerUnderTest {
		var ahead atomic.Int64
		l := newLedger(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }, true)
		return inventorytest.LedgerUnderTest{
			Ledger:  l,
			After:   func(d time.Duration) { ahead.Add(int64(d)) },
			Corrupt: func(t *testing.T, sql string) { translate(t, l.corruptions(), sql) },
		}
	})
}

func translate(t *testing.T, table map[string]func(), sql string) {
	t.Helper()
	f, ok := table[sql]
	if !ok {
		t.Fatalf("the suite says %q behind the model's back; translate it", sql)
	}
	f()
}

func (l *ledger) corruptions() map[string]func() {
	rows := func(change func(*inventory.Bucket)) func() {
		return func() {
			for _, b := range l.buckets {
				change(b)
			}
		}
	}
	qty := func(n int) func() {
		return func() {
			for _, r := range l.reservations {
				r.Quantity += n
			}
		}
	}
	state := func(s string) func() {
		return func() {
			for _, r := range l.reservations {
				r.State = reservation.State(s)
			}
		}
	}
	held := func(n int64) func() {
		return func() {
			for i := range l.journal {
				if l.journal[i].kind == "hold" {
					l.journal[i].held += n
				}
			}
		}
	}
	allowance := func(n int) func() {
		return func() {
			for who := range l.allowance {
				l.allowance[who] += n
			}
		}
	}
	return map[string]func(){
		`UPDATE bucket SET held = held + 1`:                          rows(func(b *inventory.Bucket) { b.Held++ }),
		`UPDATE bucket SET held = held - 1`:                          rows(func(b *inventory.Bucket) { b.Held-- }),
		`UPDATE bucket SET granted = granted + 1`:                    rows(func(b *inventory.Bucket) { b.Granted++ }),
		`UPDATE bucket SET granted = granted - 1`:                    rows(func(b *inventory.Bucket) { b.Granted-- }),
		`UPDATE bucket SET credit_seq = credit_seq + 1`:              rows(func(b *inventory.Bucket) { b.CreditSeq++ }),
		`UPDATE bucket SET credit_seq = credit_seq - 1`:              rows(func(b *inventory.Bucket) { b.CreditSeq-- }),
		`UPDATE reservation SET qty = qty + 1`:                       qty(1),
		`UPDATE reservation SET qty = qty - 1`:                       qty(-1),
		`UPDATE reservation SET state = 'odd'`:                       state("odd"),
		`UPDATE reservation SET state = 'held'`:                      state("held"),
		`UPDATE journal SET d_held = d_held + 1 WHERE kind = 'hold'`: held(1),
		`UPDATE journal SET d_held = d_held - 1 WHERE kind = 'hold'`: held(-1),
		`UPDATE allowance SET qty = qty + 1`:                         allowance(1),
		`UPDATE allowance SET qty = qty - 1`:                         allowance(-1),
	}
}

func (o *outbox) corruptions() map[string]func() {
	return map[string]func(){
		`DELETE FROM outbox`:                func() { o.rows = nil },
		`ALTER TABLE outbox RENAME TO away`: func() { o.away = true },
		`ALTER TABLE away RENAME TO outbox`: func() { o.away = false },
		`UPDATE outbox SET leased_until = written_at`: func() {
			for i := range o.rows {
				o.rows[i].leased = o.rows[i].written
			}
		},
	}
}

func TestModelOrders(t *testing.T) {
	t.Parallel()
	ordertest.Exercise(t, func(*testing.T) ordertest.StoreUnderTest {
		s := newOrders(time.Now)
		table := s.corruptions()
		add := func(n int64, to func(o *order.Order) *int64) func() {
			return func() {
				for v, o := range s.rows {
					if o.State == "open" {
						*to(&o) += n
						s.rows[v] = o
					}
				}
			}
		}
		for column, to := range map[string]func(*order.Order) *int64{
			"total": func(o *order.Order) *int64 { return &o.Total.Amount },
			"price": func(o *order.Order) *int64 { return &o.UnitPrice.Amount },
		} {
			table[`UPDATE orders SET `+column+` = `+column+` + 1 WHERE state = 'open'`] = add(1, to)
			table[`UPDATE orders SET `+column+` = `+column+` - 1 WHERE state = 'open'`] = add(-1, to)
		}
		qty := func(n int) func() {
			return func() {
				for v, o := range s.rows {
					if o.State == "open" {
						o.Quantity += n
						s.rows[v] = o
					}
				}
			}
		}
		table[`UPDATE orders SET qty = qty + 1 WHERE state = 'open'`] = qty(1)
		table[`UPDATE orders SET qty = qty - 1 WHERE state = 'open'`] = qty(-1)
		table[`CREATE UNIQUE INDEX odd ON orders (sku)`] = func() { s.oneSKU = true }
		table[`DROP INDEX odd`] = func() { s.oneSKU = false }
		return ordertest.StoreUnderTest{Store: s, Corrupt: func(t *testing.T, sql string) { translate(t, table, sql) }}
	})
}

func TestModelPayments(t *testing.T) {
	t.Parallel()
	paymenttest.Exercise(t, func(*testing.T) paymenttest.StoreUnderTest {
		s := newPayments(time.Now)
		return paymenttest.StoreUnderTest{
			Store: s,
			Backdate: func(_ *testing.T, v id.ID, d time.Duration) {
				p := s.rows[v]
				p.CreatedAt, p.UpdatedAt = p.CreatedAt.Add(-d), p.UpdatedAt.Add(-d)
				s.rows[v] = p
			},
			Corrupt: func(t *testing.T, sql string) { translate(t, s.corruptions(), sql) },
		}
	})
}
