package enginesim

import (
	"context"
	"flashsale/engine"
	"flashsale/order"
	"flashsale/payment"
	"flashsale/reservation"
	"flashsale/transport"
	"time"
)

// queues is the queue as the audit sees it.
type queues struct{ w *world }

// Depths implements engine.Queues.
func (q queues) Depths(context.Context) (waiting, dead int, err error) { return len(q.w.queue), 0, nil }

// check makes the audit of a finished sale, and holds it against what everybody was told.
func (w *world) check() {
	if w.err != nil {
		return
	}
	checks, err := engine.Audit{
		Own: []engine.OwnAudit{w.orders, w.payments}, Inventory: w.ledger, Books: w.ledger, Gate: w.gate,
		Orders: w.orders, Payments: w.payments, Provider: w.provider, Queues: queues{w}, Clock: time.Now,
		Outboxes: map[transport.Service]transport.Outbox{
			transport.Inventory: &w.ledger.outbox, transport.Order: &w.orders.outbox, transport.Payment: &w.payments.outbox,
		},
	}.Run(context.Background())
	if err != nil {
		w.fail("audit: %w", err)
	}
	for _, c := range checks {
		w.note("audit %d. %s: %s, ok %v", c.Equation, c.Name, c.Figures, c.OK)
		if !c.OK {
			w.fail("audit %d. %s: %s", c.Equation, c.Name, c.Figures)
		}
	}
	total := int64(w.weather.stock)
	for _, c := range w.clients {
		total += c.added
		w.told(c)
	}
	var sold int64
	for _, b := range w.ledger.buckets {
		sold += b.Sold
	}
	if sold != total {
		w.fail("sell-through: %d of %d units are sold", sold, total)
	}
}

// told holds what a client was told against the ledger.
func (w *world) told(c *client) {
	row := w.ledger.reservations[c.req.ID()]
	for what, so := range map[string]bool{"held": c.held, "paid": !c.paid.IsZero(), "cancelled": c.cancelled, "refunded": c.refunded, "stock is there": c.added > 0} {
		if so {
			w.saw("told: " + what)
		}
	}
	name := c.name + "'s " + short(c.req.ID())
	switch {
	case row == nil && c.accepted:
		w.fail("%s was acknowledged, and is not in the ledger", name)
	case row == nil:
		return
	case row.Quantity != c.req.Quantity || row.User != c.req.User:
		w.fail("%s is in the ledger as %d units of %s", name, row.Quantity, row.User)
	case c.held && row.State == reservation.Refused:
		w.fail("%s was held, and is refused", name)
	case !c.accepted && !c.unsure && row.State != reservation.Refused:
		w.fail("%s was told each time for certain that nothing is reserved, and it is %s", name, row.State)
	case c.cancelled && row.State != reservation.Cancelled:
		w.fail("%s was cancelled, and is %s", name, row.State)
	}
	if c.paid.IsZero() {
		return
	}
	p, o := w.payments.rows[c.paid], w.orders.rows[c.req.ID()]
	switch {
	case c.refunded && row.State == reservation.Refunded && p.State == payment.Refunded && o.State == order.Refunded:
	case row.State != reservation.Paid || p.State != payment.Captured || o.State != order.Confirmed:
		w.fail("%s was paid, and its reservation is %s, its payment %s, its order %s", name, row.State, p.State, o.State)
	}
}
