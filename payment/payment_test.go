package payment_test

import (
	"flashsale/id"
	"flashsale/payment"
	"flashsale/transport"
	"fmt"
	"testing"
	"time"
)

func TestNewID(t *testing.T) {
	t.Parallel()
	user, order := id.Derive("user"), id.Derive("order")
	v := payment.NewID(user, order, "key")
	if v != payment.NewID(user, order, "key") || !v.OwnedBy(user) {
		t.Fatalf("%s is not the shopper's, always", v)
	}
	for _, other := range []id.ID{payment.NewID(order, order, "key"), payment.NewID(user, user, "key"), payment.NewID(user, order, "another")} {
		if other == v {
			t.Fatalf("another payment has the id %s", v)
		}
	}
}

func TestStepIn(t *testing.T) {
	t.Parallel()
	s := payment.Step{From: []payment.State{payment.Charging, payment.Unknown}}
	for state, want := range map[payment.State]bool{
		payment.Charging: true, payment.Unknown: true, payment.Requested: false, payment.Captured: false, "": false,
	} {
		if s.In(state) != want {
			t.Errorf("from %v in %q: %v", s.From, state, !want)
		}
	}
	if (payment.Step{}).In("") {
		t.Error("a step from nowhere")
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	for state, kind := range map[payment.State]string{
		payment.Requested: "payment.requested", payment.Captured: "payment.captured", payment.Declined: "payment.declined", payment.Refunded: "payment.refunded",
		payment.Charging: "", payment.Unknown: "", payment.Refused: "", payment.Refunding: "", "odd": "",
	} {
		p := payment.Payment{
			ID: id.Derive("p"), Order: id.Derive("o"), User: id.Derive("u"), State: state, Reason: "why", UpdatedAt: at, TraceParent: "trace",
			Method: "tok_secret", ProviderRef: "ref_secret",
		}
		e, ok := payment.Follow(p)
		if ok != (kind != "") || e.Type != kind {
			t.Errorf("%s: %v %q", state, ok, e.Type)
		}
		if !ok {
			continue
		}
		if e.Source != transport.Payment || e.Subject != p.ID || !e.Time.Equal(at) || e.TraceParent != "trace" {
			t.Errorf("%s: %+v", state, e)
		}
		const ends = `"amount":{"amount":0,"currency":""},"state":"%s","reason":"why"}` // and no means of payment
		want := fmt.Sprintf(`{"payment":"%s","order":"%s","user":"%s",`+ends, p.ID, p.Order, p.User, state)
		if string(e.Body()) != want {
			t.Errorf("%s\nwant %s", e.Data, want)
		}
	}
}
