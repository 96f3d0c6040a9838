package inventorytest

import (
	"encoding/json"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"flashsale/transport"
	"slices"
	"testing"
	"time"
)

// FuzzClaimData: a claim that travels arrives as it was sent, and what does not decode is a
// permanent error.
func FuzzClaimData(f *testing.F) {
	item := inventory.ItemID{Sale: id.Derive("sale"), SKU: "A"}
	sent, err := json.Marshal(inventory.NewClaimData(inventory.Claim{
		Request: reservation.Request{User: user(1), Key: "k", Sale: item.Sale, SKU: "A", Quantity: 3, Cart: id.Derive("cart")},
		Legs: []inventory.Leg{
			{Take: id.Derive("take"), Bucket: inventory.BucketID{Item: item}, Epoch: 1, Qty: 1},
			{Take: id.Derive("another"), Bucket: inventory.BucketID{Item: item, Shard: 1}, Epoch: 4, Qty: 2},
		},
	}, true))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sent)
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"user":"nobody"}`))
	f.Add([]byte(`{"quantity":1.5}`))
	f.Add([]byte(`{"legs":[{"shard":-1,"qty":-1}],"quantity":-1}`))
	f.Add([]byte(`[]`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, payload []byte) {
		d, err := transport.Decode[inventory.ClaimData](transport.Envelope{Type: inventory.EventRequested, Data: payload})
		if err != nil {
			if !transport.IsPermanent(err) {
				t.Fatalf("%q would be tried again: %v", payload, err)
			}
			return
		}
		c := d.Claim("trace")
		again := inventory.NewClaimData(c, d.Promised).Claim("trace")
		if again.Request != c.Request || !slices.Equal(again.Legs, c.Legs) {
			t.Fatalf("%+v becomes %+v", c, again)
		}
		text, err := json.Marshal(inventory.NewClaimData(c, d.Promised))
		if err != nil {
			t.Fatal(err)
		}
		back, err := transport.Decode[inventory.ClaimData](transport.Envelope{Data: text})
		if err != nil || back.Claim("trace").Request != c.Request || !slices.Equal(back.Claim("trace").Legs, c.Legs) {
			t.Fatalf("%s arrives as %+v, %v", text, back, err)
		}
	})
}

// FuzzReservationData: the row of an event is the row it was made of, but for the fingerprint.
func FuzzReservationData(f *testing.F) {
	sent, err := json.Marshal(inventory.Data(reservation.Reservation{
		ID: id.Derive("r"), User: user(1), Sale: id.Derive("sale"), SKU: "A", Quantity: 2, UnitPrice: price(), State: reservation.Declined, Reason: "declined",
		Payment: id.Derive("payment"), Cart: id.Derive("cart"), CreatedAt: epoch0, ExpiresAt: epoch0.Add(time.Hour),
	}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sent)
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"unit_price":{"amount":1}}`))
	f.Add([]byte(`{"created_at":"yesterday"}`))
	f.Add([]byte(`{"state":"odd","quantity":-1}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		d, err := transport.Decode[inventory.ReservationData](transport.Envelope{Type: inventory.EventHeld, Data: payload})
		if err != nil {
			if !transport.IsPermanent(err) {
				t.Fatalf("%q would be tried again: %v", payload, err)
			}
			return
		}
		if r := d.Row(); inventory.Data(r).Row() != r {
			t.Fatalf("%+v becomes %+v", r, inventory.Data(r).Row())
		}
	})
}
