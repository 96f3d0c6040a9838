package pgledger_test

import (
	"errors"
	"flashsale/database/postgres"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/inventory/inventorytest"
	"flashsale/inventory/pgledger"
	"flashsale/money"
	"flashsale/reservation"
	"testing"
	"time"
)

func TestOrder(t *testing.T) {
	t.Parallel()
	inventorytest.ExerciseLedgerOrder(t, pgledger.New(fresh(t)))
}

// TestMoveMeetsItsCommit: a reservation that becomes visible while a move of it reads, after the
// buckets were locked and before the reservation is, is moved with its buckets nevertheless.
func TestMoveMeetsItsCommit(t *testing.T) {
	t.Parallel()
	pool := fresh(t)
	one, err := postgres.Open(t.Context(), pool.Config().ConnString(), 1, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(one.Close)
	l := pgledger.New(one)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	item := inventory.ItemID{Sale: id.Derive("sale"), SKU: "A"}
	must(l.Provision(t.Context(), inventory.Provision{Shards: 1, Sale: inventory.Sale{
		ID: item.Sale, Status: inventory.Open, OpensAt: time.Now().Add(-time.Hour), EndsAt: time.Now().Add(time.Hour), HoldFor: time.Hour, Revision: 1,
		Items: []inventory.Item{{SKU: "A", UnitPrice: money.Money{Amount: 1, Currency: "EUR"}, Total: 1}},
	}}))
	claim := inventory.Claim{
		Request: reservation.Request{User: id.Derive("user"), Key: "k", Sale: item.Sale, SKU: "A", Quantity: 1},
		Legs:    []inventory.Leg{{Take: id.Derive("take"), Bucket: inventory.BucketID{Item: item}, Epoch: 1, Qty: 1}},
	}
	ds, err := l.Commit(t.Context(), []inventory.Claim{claim})
	must(errors.Join(err, ds[0].Err))
	// The connection knows the statements: it will not wait for locks to prepare them.
	_, err = l.Move(t.Context(), []inventory.Move{{Kind: reservation.MoveCancel, Reservation: id.Derive("none")}})
	must(err)
	// The legs become visible when this transaction ends, and until then nobody can lock reservations.
	_, err = pool.Exec(t.Context(), `CREATE TABLE aside AS SELECT * FROM leg; DELETE FROM leg`)
	must(err)
	tx, err := pool.Begin(t.Context())
	must(err)
	_, err = tx.Exec(t.Context(), `LOCK TABLE reservation IN EXCLUSIVE MODE; INSERT INTO leg SELECT * FROM aside`)
	must(err)
	var moved []inventory.Moved
	done := make(chan error, 1)
	go func() {
		var err error
		moved, err = l.Move(t.Context(), []inventory.Move{{Kind: reservation.MoveCancel, Reservation: claim.Request.ID()}})
		done <- err
	}()
	for waiting := 0; waiting == 0; {
		must(pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE relation = 'reservation'::regclass AND NOT granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&waiting))
	}
	must(tx.Commit(t.Context()))
	must(<-done)
	s, err := l.Sale(t.Context(), item.Sale)
	must(err)
	if b := s.Items[0].Buckets[0]; !moved[0].Applied || len(moved[0].Credited) != 1 || b.Held != 0 || b.CreditSeq != 1 {
		t.Fatalf("moved %+v, bucket %+v", moved[0], b)
	}
}
