// Package engine is the flow: which event goes to which service, what each service does with it,
// and the loops that keep the promises when a step was lost (relay, expirer, reaper, recovery,
// prober). It knows contracts only: no driver, no adapter.
package engine

import (
	"flashsale/catalog"
	"flashsale/inventory"
	"flashsale/order"
	"flashsale/payment"
	"flashsale/transport"
)

// Route says which service handles an event. An event that is in no route is an answer to whoever
// caused it, and goes no further.
type Route struct {
	Event string
	To    transport.Service
}

// Table is the whole flow: every event that travels, in the order of a purchase.
func Table() []Route {
	return []Route{
		{catalog.EventScheduled, transport.Inventory},
		{catalog.EventStatus, transport.Inventory},
		{catalog.EventStockAdded, transport.Inventory},

		{inventory.EventRequested, transport.Inventory},
		{inventory.EventHeld, transport.Order},

		{payment.EventRequested, transport.Inventory},
		{inventory.EventPaying, transport.Payment},
		{payment.EventCaptured, transport.Inventory},
		{inventory.EventPaid, transport.Order},
		{order.EventConfirmed, transport.Notification},

		// Compensations: the hold goes back, the order is cancelled, money that came too late too.
		{inventory.EventPaymentRefused, transport.Payment},
		{payment.EventDeclined, transport.Inventory},
		{inventory.EventCancelRequest, transport.Inventory},
		{inventory.EventReleased, transport.Order},
		{order.EventCancelled, transport.Notification},
		{inventory.EventLatePayment, transport.Payment},
		{payment.EventRefunded, transport.Inventory},
		{order.EventRefunded, transport.Notification},
	}
}
