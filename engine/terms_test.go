package engine_test

import (
	"context"
	"errors"
	"flashsale/engine"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/inventory/memstock"
	"flashsale/money"
	"flashsale/reservation"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slowSales takes a second to say what is on sale.
type slowSales struct {
	sale  inventory.Sale
	reads atomic.Int64
}

func (s *slowSales) Sale(ctx context.Context, _ id.ID) (inventory.Sale, error) {
	s.reads.Add(1)
	select {
	case <-time.After(time.Second):
		return s.sale, nil
	case <-ctx.Done():
		return inventory.Sale{}, ctx.Err()
	}
}

// TestImpatientReader: whoever has the terms read waits no longer than he wants to, and those who wait beside him get what
// was read.
func TestImpatientReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		item := inventory.ItemID{Sale: id.Derive("sale"), SKU: "A"}
		bucket := inventory.Bucket{ID: inventory.BucketID{Item: item}, Epoch: 1, Granted: 1}
		sales := &slowSales{sale: inventory.Sale{ID: item.Sale, Status: inventory.Open, OpensAt: time.Now(), EndsAt: time.Now().Add(time.Hour), Items: []inventory.Item{
			{SKU: "A", UnitPrice: money.Money{Amount: 100, Currency: "EUR"}, Total: 1, Buckets: []inventory.Bucket{bucket}},
		}}}
		gate := memstock.New(1)
		must(t, gate.Install(t.Context(), bucket.ID, inventory.Level{Epoch: 1, Available: 1}, nil))
		admission := engine.NewAdmission(gate, sales, time.Now, noWait, time.Minute, time.Second, slog.New(slog.DiscardHandler))
		admit := func(ctx context.Context, user string) error {
			_, _, err := admission.Admit(ctx, reservation.Request{User: id.Derive(user), Key: "k", Sale: item.Sale, SKU: "A", Quantity: 1}, "", false)
			return err
		}
		began := time.Now()
		impatient, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		left := make(chan time.Duration, 1)
		go func() {
			if err := admit(impatient, "first"); !errors.Is(err, reservation.ErrOverloaded) {
				t.Errorf("who did not wait for the terms was told: %v", err)
			}
			left <- time.Since(began)
		}()
		synctest.Wait()
		must(t, admit(t.Context(), "second"))
		if after := <-left; after != 100*time.Millisecond {
			t.Errorf("left after %s", after)
		}
		if took, reads := time.Since(began), sales.reads.Load(); took != time.Second || reads != 1 {
			t.Errorf("the other waited %s for %d reads", took, reads)
		}
	})
}
