package pgorder_test

import (
	"errors"
	"flashsale/id"
	"flashsale/money"
	"flashsale/order"
	"flashsale/order/ordertest"
	"flashsale/order/pgorder"
	"flashsale/testenv/databases"
	"flashsale/transport"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

func open(t *testing.T) (*pgorder.Store, *pgxpool.Pool) {
	t.Helper()
	pool := databases.Postgres(t, pgorder.Migrations)
	store := pgorder.New(pool)
	t.Cleanup(store.Close)
	return store, pool
}

func TestStore(t *testing.T) {
	t.Parallel()
	ordertest.Exercise(t, func(t *testing.T) ordertest.StoreUnderTest {
		store, pool := open(t)
		return ordertest.StoreUnderTest{
			Store: store,
			Corrupt: func(t *testing.T, sql string) {
				if _, err := pool.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

// TestCartsWhileOrdersOpen: groups of additions lock many carts, and so does a group of orders that checks them out, in
// another order. Nobody is refused for that, and a cart has all that was added before it was checked out.
func TestCartsWhileOrdersOpen(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	now := time.Now().UTC().Truncate(time.Microsecond)
	user, sale := id.New(now), id.New(now)
	const rounds, carts = 12, 24
	for range rounds {
		var ids []id.ID
		for range carts {
			c := order.Cart{ID: id.New(now), User: user, CreatedAt: now}
			if err := s.Create(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, c.ID)
		}
		var added atomic.Int64
		var wg sync.WaitGroup
		for i, cart := range ids {
			for n := range 3 {
				wg.Go(func() {
					_, err := s.Add(t.Context(), cart, user, order.CartItem{Sale: sale, SKU: fmt.Sprint(n), Quantity: 1, UnitPrice: money.Money{Amount: 1, Currency: "EUR"}})
					if err == nil {
						added.Add(1)
					} else if !errors.Is(err, order.ErrCheckedOut) {
						t.Error(err)
					}
				})
			}
			wg.Go(func() { // the orders' own ids are random: they lock the carts in any order
				var group []order.Change
				for k := range 4 {
					group = append(group, order.Change{Order: order.Order{
						ID: id.New(now), User: user, Sale: sale, SKU: "x", Quantity: 1, UnitPrice: money.Money{Amount: 1, Currency: "EUR"},
						Total: money.Money{Amount: 1, Currency: "EUR"}, State: order.Open, Cart: ids[(i+7*k)%carts], CreatedAt: now, UpdatedAt: now, ExpiresAt: now.Add(time.Hour),
					}})
				}
				if _, err := s.Apply(t.Context(), group); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		var there int64
		for _, cart := range ids {
			c, err := s.Cart(t.Context(), cart, user)
			if err != nil || !c.CheckedOut {
				t.Fatalf("%+v, %v", c, err)
			}
			there += int64(len(c.Items))
		}
		if there != added.Load() {
			t.Fatalf("%d items were added, %d are there", added.Load(), there)
		}
	}
}

// TestNotAnsweredBeforeTheCommit: when the commit itself fails, nobody is told that anything was written, and nothing is.
func TestNotAnsweredBeforeTheCommit(t *testing.T) {
	t.Parallel()
	s, pool := open(t)
	now := time.Now().UTC().Truncate(time.Microsecond)
	was := order.Cart{ID: id.New(now), User: id.New(now), CreatedAt: now}
	if err := s.Create(t.Context(), was); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no space left'; END $$`,
		`CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON cart DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`,
		`CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON cart_item DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	c := order.Cart{ID: id.New(now), User: was.User, CreatedAt: now}
	if err := s.Create(t.Context(), c); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("created, with a commit that failed: %v", err)
	}
	if _, err := s.Cart(t.Context(), c.ID, c.User); !errors.Is(err, order.ErrNotFound) {
		t.Errorf("it is there: %v", err)
	}
	item := order.CartItem{Sale: id.New(now), SKU: "S", Quantity: 1, UnitPrice: money.Money{Amount: 1, Currency: "EUR"}}
	if _, err := s.Add(t.Context(), was.ID, was.User, item); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("added, with a commit that failed: %v", err)
	}
	if got, err := s.Cart(t.Context(), was.ID, was.User); err != nil || len(got.Items) > 0 {
		t.Errorf("it has %v, %v", got.Items, err)
	}
}

// TestAlone: a text that cannot be stored fails its own call, and nobody's that comes at the same time.
func TestAlone(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	now := time.Now().UTC().Truncate(time.Microsecond)
	user, sale := id.New(now), id.New(now)
	var wg sync.WaitGroup
	for i := range 96 {
		wg.Go(func() {
			c := order.Cart{ID: id.New(now), User: user, CreatedAt: now}
			if err := s.Create(t.Context(), c); err != nil {
				t.Error(err)
			}
			sku, bad := "S", i%8 == 0
			if bad {
				sku = "S\x00"
			}
			_, err := s.Add(t.Context(), c.ID, user, order.CartItem{Sale: sale, SKU: sku, Quantity: 1, UnitPrice: money.Money{Amount: 1, Currency: "EUR"}})
			if (err != nil) != bad {
				t.Errorf("an article that is bad (%t): added, %v", bad, err)
			}
		})
	}
	wg.Wait()
}

// TestClosed: a store that is closed says that it is busy, which is tried again elsewhere, and has written nothing.
func TestClosed(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	s.Close()
	now := time.Now().UTC()
	c := order.Cart{ID: id.New(now), User: id.New(now), CreatedAt: now}
	if err := s.Create(t.Context(), c); !errors.Is(err, transport.ErrOverloaded) {
		t.Errorf("created: %v", err)
	}
	if _, err := s.Cart(t.Context(), c.ID, c.User); !errors.Is(err, order.ErrNotFound) {
		t.Errorf("it is there: %v", err)
	}
}
