package engine

import (
	"context"
	"encoding/json"
	"errors"
	"flashsale/groupcommit"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/money"
	"flashsale/order"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"time"
)

// Orders are the order service's part of the flow and its use cases.
type Orders struct {
	store   order.Store
	carts   order.Carts
	holds   ReservationReader
	sales   *saleCache
	changes *groupcommit.Group[order.Change, order.Changed]
	clock   func() time.Time
}

// NewOrders returns the service's part. fresh is how old the terms may be by which an item in a cart is priced: what is
// paid is the price at which the ledger holds it. Close it when done.
func NewOrders(store order.Store, carts order.Carts, holds ReservationReader, sales SaleReader, clock func() time.Time, fresh time.Duration) *Orders {
	return &Orders{
		store: store, carts: carts, holds: holds, sales: newSaleCache(sales, clock, fresh), clock: clock,
		changes: groupcommit.New(maxGroup, maxQueue, 1, store.Apply),
	}
}

// WatchGroups has a function told of each group of changes; watch makes it for a name. Call it before anything is
// handled.
func (s *Orders) WatchGroups(watch func(name string) func(size int, waited time.Duration)) {
	s.changes.Watch(watch("order_changes"))
}

// Close finishes the groups under way.
func (s *Orders) Close() { s.changes.Close() }

// Handle is the transport.Handler of the service.
func (s *Orders) Handle(ctx context.Context, e transport.Envelope) ([]transport.Envelope, error) {
	var state order.State
	d, err := transport.Decode[inventory.ReservationData](e)
	if err != nil {
		return nil, err
	}
	switch {
	case e.Type == inventory.EventHeld:
		state = order.Open
	case e.Type == inventory.EventPaid:
		state = order.Confirmed
	case e.Type == inventory.EventReleased && d.State == reservation.Refunded:
		state = order.Refunded
	case e.Type == inventory.EventReleased:
		state = order.Cancelled
	default:
		return nil, transport.Permanent(fmt.Errorf("engine: order does not handle %q", e.Type))
	}
	changed, err := s.apply(ctx, d, state, e.TraceParent)
	if err != nil || changed.Event.Type == "" {
		return nil, err
	}
	return []transport.Envelope{changed.Event}, nil
}

func (s *Orders) apply(ctx context.Context, d inventory.ReservationData, state order.State, trace string) (order.Changed, error) {
	total, err := d.UnitPrice.Times(int64(d.Quantity))
	if err != nil {
		return order.Changed{}, transport.Permanent(err)
	}
	changed, err := s.changes.Do(ctx, order.Change{TraceParent: trace, Order: order.Order{
		ID: d.Reservation, User: d.User, Sale: d.Sale, SKU: d.SKU, Quantity: d.Quantity, UnitPrice: d.UnitPrice,
		Total: total, State: state, Reason: d.Reason, Payment: d.Payment, Cart: d.Cart,
		CreatedAt: d.CreatedAt, UpdatedAt: s.clock(), ExpiresAt: d.ExpiresAt,
	}})
	return changed, shed(err)
}

// Order returns a shopper's order, or order.ErrNotFound. An order whose reservation is in the
// ledger but whose event has not come yet is opened now, so that a shopper who has seen "held" can
// pay at once in either wiring.
func (s *Orders) Order(ctx context.Context, user, v id.ID) (order.Order, error) {
	if !v.OwnedBy(user) {
		return order.Order{}, order.ErrNotFound
	}
	o, err := s.store.Find(ctx, v)
	if errors.Is(err, order.ErrNotFound) {
		row, err := s.holds.Find(ctx, v)
		if errors.Is(err, reservation.ErrNotFound) || err == nil && (row.User != user || row.State == reservation.Refused) {
			return order.Order{}, order.ErrNotFound
		}
		if err != nil {
			return order.Order{}, err
		}
		changed, err := s.apply(ctx, inventory.Data(row), order.Open, "")
		return changed.Order, err
	}
	if err == nil && o.User != user {
		return order.Order{}, order.ErrNotFound
	}
	return o, err
}

// Orders returns a shopper's orders, the newest first.
func (s *Orders) Orders(ctx context.Context, user id.ID, after order.Cursor, limit int) ([]order.Order, error) {
	return s.store.List(ctx, user, after, limit)
}

// CreateCart makes an empty cart.
func (s *Orders) CreateCart(ctx context.Context, user id.ID) (order.Cart, error) {
	now := s.clock()
	c := order.Cart{ID: id.New(now), User: user, CreatedAt: now.UTC().Truncate(time.Microsecond)}
	return c, s.carts.Create(ctx, c)
}

// AddItem puts a sale item into a cart at the sale's price. reservation.ErrUnknownItem when there is
// no such sale item; order's errors for the cart.
func (s *Orders) AddItem(ctx context.Context, user, cart, sale id.ID, sku string, qty int) (order.Cart, error) {
	price, err := s.price(ctx, sale, sku)
	if err != nil {
		return order.Cart{}, err
	}
	return s.carts.Add(ctx, cart, user, order.CartItem{Sale: sale, SKU: sku, Quantity: qty, UnitPrice: price})
}

func (s *Orders) price(ctx context.Context, sale id.ID, sku string) (money.Money, error) {
	for must := false; ; must = true {
		terms, from, err := s.sales.get(ctx, sale, must)
		if err != nil && !errors.Is(err, inventory.ErrUnknownSale) {
			return money.Money{}, err
		}
		for _, item := range terms.Items {
			if item.SKU == sku {
				return item.UnitPrice, nil
			}
		}
		switch {
		case from == current:
			return money.Money{}, reservation.ErrUnknownItem
		case must: // it may have been announced since the ledger has last answered
			return money.Money{}, fmt.Errorf("%w: the terms of sale %s cannot be read", transport.ErrUnavailable, sale)
		}
	}
}

// Cart returns a shopper's cart, or order.ErrNotFound.
func (s *Orders) Cart(ctx context.Context, user, cart id.ID) (order.Cart, error) {
	return s.carts.Cart(ctx, cart, user)
}

const askOrder = "order.order"

type ownedID struct {
	ID   id.ID `json:"id"`
	User id.ID `json:"user"`
}

// Answer is the transport.Answerer of the service.
func (s *Orders) Answer(ctx context.Context, q transport.Question) (json.RawMessage, error) {
	if q.Name != askOrder {
		return nil, transport.Permanent(fmt.Errorf("engine: order has no answer to %q", q.Name))
	}
	return answer(ctx, q, func(ctx context.Context, a ownedID) (order.Order, error) {
		o, err := s.Order(ctx, a.User, a.ID)
		if errors.Is(err, order.ErrNotFound) {
			return order.Order{}, nil // the zero order says "none"
		}
		return o, err
	})
}

// RemoteOrders reads from the order service by asking it.
type RemoteOrders struct{ To transport.Asker }

// Order implements OrderReader.
func (r RemoteOrders) Order(ctx context.Context, user, v id.ID) (order.Order, error) {
	o, err := ask[order.Order](ctx, r.To, transport.Order, askOrder, ownedID{ID: v, User: user})
	if err == nil && o.ID.IsZero() {
		err = order.ErrNotFound
	}
	return o, err
}
