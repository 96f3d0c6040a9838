package engine_test

import (
	"context"
	"errors"
	"flashsale/engine"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/money"
	"flashsale/order/sqliteorder"
	"flashsale/reservation"
	"flashsale/testenv/databases"
	"sync"
	"testing"
	"time"
)

// window has the sales that were put there, and counts who looks.
type window struct {
	mu    sync.Mutex
	sales map[id.ID]inventory.Sale
	looks int
	away  bool
}

func (s *window) Sale(_ context.Context, sale id.ID) (inventory.Sale, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks++
	if s.away {
		return inventory.Sale{}, errors.New("away")
	}
	v, ok := s.sales[sale]
	if !ok {
		return inventory.Sale{}, inventory.ErrUnknownSale
	}
	return v, nil
}

// TestPriceOfAnItem: a crowd that fills its carts asks for the terms once a moment; an item that has just been announced
// is known at once, one that there is not is refused, and a new price is seen after the moment.
func TestPriceOfAnItem(t *testing.T) {
	t.Parallel()
	const fresh = time.Minute
	user, sale := id.Derive("user"), id.Derive("sale")
	now := time.Now()
	clock := func() time.Time { return now }
	store := sqliteorder.New(databases.SQLite(t, sqliteorder.Migrations), clock)
	s := &window{sales: map[id.ID]inventory.Sale{}}
	orders := engine.NewOrders(store, store, nil, s, clock, fresh)
	defer orders.Close()
	cart, err := orders.CreateCart(t.Context(), user)
	must(t, err)
	add := func(sku string, want int64, refused error) {
		t.Helper()
		c, err := orders.AddItem(t.Context(), user, cart.ID, sale, sku, 1)
		if !errors.Is(err, refused) {
			t.Fatalf("%s: %v, want %v", sku, err, refused)
		}
		if refused == nil && c.Items[len(c.Items)-1].UnitPrice.Amount != want {
			t.Fatalf("%s costs %+v, want %d", sku, c.Items, want)
		}
	}
	offer := func(price int64, skus ...string) {
		v := inventory.Sale{ID: sale}
		for _, sku := range skus {
			v.Items = append(v.Items, inventory.Item{SKU: sku, UnitPrice: money.Money{Amount: price, Currency: "EUR"}})
		}
		s.sales[sale] = v
	}
	add("shoe", 0, reservation.ErrUnknownItem)
	offer(700, "shoe")
	add("shoe", 700, nil) // announced a moment ago
	asked := s.looks
	for range 50 {
		add("shoe", 700, nil)
	}
	if s.looks != asked {
		t.Errorf("%d looks for a price that is known", s.looks-asked)
	}
	offer(700, "shoe", "sock")
	add("sock", 700, nil)
	add("hat", 0, reservation.ErrUnknownItem)
	offer(800, "shoe", "sock", "belt")
	now = now.Add(fresh)
	add("sock", 800, nil)
	add("belt", 800, nil)
	s.away = true
	now = now.Add(fresh)
	add("belt", 800, nil) // whoever knows prices is away: the last one holds
}
