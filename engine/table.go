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
	// Version is the newest of the event's schema that the service reads; it reads the older ones too, for
	// those wait in outboxes, queues and dead letters. Raise it a release before anybody writes it.
	Version int
	// After says that whoever caused the event is answered before it is handled: the answer does not
	// depend on it, and it is in the outbox.
	After bool
}

// Table is the whole flow: every event that travels, in the order of a purchase.
func Table() []Route {
	return []Route{
		{Event: catalog.EventScheduled, To: transport.Inventory, Version: 1},
		{Event: catalog.EventStatus, To: transport.Inventory, Version: 1},
		{Event: catalog.EventStockAdded, To: transport.Inventory, Version: 1},

		{Event: inventory.EventRequested, To: transport.Inventory, Version: 1},
		{Event: inventory.EventHeld, To: transport.Order, Version: 1, After: true}, // "reserved" is the ledger's word

		{Event: payment.EventRequested, To: transport.Inventory, Version: 1},
		{Event: inventory.EventPaying, To: transport.Payment, Version: 1},
		{Event: payment.EventCaptured, To: transport.Inventory, Version: 1},
		{Event: inventory.EventPaid, To: transport.Order, Version: 1},
		{Event: order.EventConfirmed, To: transport.Notification, Version: 1, After: true},

		// Compensations: the hold goes back, the order is cancelled, money that came too late too.
		{Event: inventory.EventPaymentRefused, To: transport.Payment, Version: 1},
		{Event: payment.EventDeclined, To: transport.Inventory, Version: 1},
		{Event: inventory.EventCancelRequest, To: transport.Inventory, Version: 1},
		{Event: inventory.EventReleased, To: transport.Order, Version: 1},
		{Event: order.EventCancelled, To: transport.Notification, Version: 1, After: true},
		{Event: inventory.EventLatePayment, To: transport.Payment, Version: 1},
		{Event: payment.EventRefunded, To: transport.Inventory, Version: 1},
		{Event: order.EventRefunded, To: transport.Notification, Version: 1, After: true},
	}
}
