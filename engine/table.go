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
	// After says that whoever caused the event is answered before it is handled: the answer does not
	// depend on it, and it is in the outbox.
	After bool
}

// Table is the whole flow: every event that travels, in the order of a purchase.
func Table() []Route {
	return []Route{
		{Event: catalog.EventScheduled, To: transport.Inventory},
		{Event: catalog.EventStatus, To: transport.Inventory},
		{Event: catalog.EventStockAdded, To: transport.Inventory},

		{Event: inventory.EventRequested, To: transport.Inventory},
		{Event: inventory.EventHeld, To: transport.Order, After: true}, // "reserved" is the ledger's word

		{Event: payment.EventRequested, To: transport.Inventory},
		{Event: inventory.EventPaying, To: transport.Payment},
		{Event: payment.EventCaptured, To: transport.Inventory},
		{Event: inventory.EventPaid, To: transport.Order},
		{Event: order.EventConfirmed, To: transport.Notification, After: true},

		// Compensations: the hold goes back, the order is cancelled, money that came too late too.
		{Event: inventory.EventPaymentRefused, To: transport.Payment},
		{Event: payment.EventDeclined, To: transport.Inventory},
		{Event: inventory.EventCancelRequest, To: transport.Inventory},
		{Event: inventory.EventReleased, To: transport.Order},
		{Event: order.EventCancelled, To: transport.Notification, After: true},
		{Event: inventory.EventLatePayment, To: transport.Payment},
		{Event: payment.EventRefunded, To: transport.Inventory},
		{Event: order.EventRefunded, To: transport.Notification, After: true},
	}
}
