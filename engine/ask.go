package engine

import (
	"context"
	"encoding/json"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
)

// byID is the argument of most questions.
type byID struct {
	ID id.ID `json:"id"`
}

// byShopper asks about a shopper and a sale item.
type byShopper struct {
	Sale id.ID  `json:"sale"`
	SKU  string `json:"sku"`
	User id.ID  `json:"user"`
}

// answer decodes a question's argument, has it answered, and encodes the answer.
func answer[A, R any](ctx context.Context, q transport.Question, f func(context.Context, A) (R, error)) (json.RawMessage, error) {
	var a A
	if err := json.Unmarshal(q.Data, &a); err != nil {
		return nil, transport.Permanent(fmt.Errorf("engine: question %s: %w", q.Name, err))
	}
	r, err := f(ctx, a)
	if err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// ask puts a question to a service.
func ask[R any](ctx context.Context, to transport.Asker, service transport.Service, name string, args any) (R, error) {
	var r R
	data, err := json.Marshal(args)
	if err != nil {
		return r, err
	}
	b, err := to.Ask(ctx, service, transport.Question{Name: name, Data: data})
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("engine: answer to %s: %w", name, err)
	}
	return r, nil
}

// RemoteInventory reads from the inventory service by asking it.
type RemoteInventory struct{ To transport.Asker }

// Pressure returns the claims that the service is deciding.
func (r RemoteInventory) Pressure(ctx context.Context) (Pressure, error) {
	return ask[Pressure](ctx, r.To, transport.Inventory, askDeciding, struct{}{})
}

// Sale implements SaleReader.
func (r RemoteInventory) Sale(ctx context.Context, sale id.ID) (inventory.Sale, error) {
	s, err := ask[inventory.Sale](ctx, r.To, transport.Inventory, askSale, byID{sale})
	if err == nil && s.ID.IsZero() {
		err = inventory.ErrUnknownSale
	}
	return s, err
}

// Bound implements ReservationReader.
func (r RemoteInventory) Bound(ctx context.Context, item inventory.ItemID, user id.ID) (int, error) {
	return ask[int](ctx, r.To, transport.Inventory, askBound, byShopper{Sale: item.Sale, SKU: item.SKU, User: user})
}

// Find implements ReservationReader.
func (r RemoteInventory) Find(ctx context.Context, v id.ID) (reservation.Reservation, error) {
	d, err := ask[inventory.ReservationData](ctx, r.To, transport.Inventory, askReservation, byID{v})
	if err == nil && d.Reservation.IsZero() {
		err = reservation.ErrNotFound
	}
	return d.Row(), err
}
