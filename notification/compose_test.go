package notification_test

import (
	"flashsale/id"
	"flashsale/money"
	"flashsale/notification"
	"flashsale/order"
	"strings"
	"testing"
)

func TestCompose(t *testing.T) {
	t.Parallel()
	purchase, event := id.Derive("order"), id.Derive("event")
	const what = "2 × CHAIR-1, 1980 EUR"
	for name, c := range map[string]struct {
		state                     order.State
		reason, kind, subject, in string
	}{
		"confirmed":        {order.Confirmed, "", notification.OrderConfirmed, "Your order is confirmed", "is confirmed: " + what},
		"declined":         {order.Cancelled, "declined", notification.PaymentFailed, "Your payment failed", "(" + what + ") failed, and the order is cancelled. Nothing is charged."},
		"expired":          {order.Cancelled, "expired", notification.HoldExpired, "Your reservation has expired", "(" + what + ") was not paid in time"},
		"cancelled":        {order.Cancelled, "cancelled", notification.OrderCancelled, "Your order is cancelled", "(" + what + ") is cancelled."},
		"some other way":   {order.Cancelled, "odd", notification.OrderCancelled, "Your order is cancelled", "(" + what + ") is cancelled."},
		"refunded":         {order.Refunded, "", notification.OrderRefunded, "Your order is refunded", "(" + what + ") is refunded."},
		"refunded, why":    {order.Refunded, "declined", notification.OrderRefunded, "Your order is refunded", "(" + what + ") is refunded."},
		"confirmed, again": {order.Confirmed, "expired", notification.OrderConfirmed, "Your order is confirmed", "is confirmed: " + what},
	} {
		m, ok := notification.Compose(event, order.Data{
			Order: purchase, User: user(), SKU: "CHAIR-1", Quantity: 2, Total: money.Money{Amount: 1980, Currency: "EUR"}, State: c.state, Reason: c.reason,
		}, "ann@example.org", noon)
		if !ok || m.Kind != c.kind || m.Subject != c.subject || !strings.Contains(m.Text, c.in) || !strings.Contains(m.Text, purchase.String()) {
			t.Errorf("%s: %v, %+v", name, ok, m)
		}
		m.Kind, m.Subject, m.Text = "", "", ""
		want := notification.Message{ID: event, User: user(), To: "ann@example.org", State: notification.Pending, CreatedAt: noon, NextAt: noon}
		if m != want {
			t.Errorf("%s: %+v, want %+v", name, m, want)
		}
	}
	for _, s := range []order.State{order.Open, "", "odd"} {
		if m, ok := notification.Compose(event, order.Data{Order: purchase, State: s}, "ann@example.org", noon); ok {
			t.Errorf("an order that is %q is told about: %+v", s, m)
		}
	}
}
