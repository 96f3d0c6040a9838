package reservation_test

import (
	"errors"
	"flashsale/id"
	"flashsale/money"
	"flashsale/reservation"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

func states() []reservation.State {
	return []reservation.State{
		reservation.Requested, reservation.Held, reservation.Paying, reservation.Paid, reservation.Cancelled,
		reservation.Expired, reservation.Declined, reservation.Refunded, reservation.Refused,
	}
}

// TestMoves holds every pair of state and move against docs/states.md: what is not listed is no move.
func TestMoves(t *testing.T) {
	t.Parallel()
	table := map[reservation.State]map[reservation.MoveKind]reservation.State{
		reservation.Held: {
			reservation.MovePay: reservation.Paying, reservation.MoveCancel: reservation.Cancelled, reservation.MoveExpire: reservation.Expired,
		},
		reservation.Paying: {reservation.MoveCapture: reservation.Paid, reservation.MoveDecline: reservation.Declined},
		reservation.Paid:   {reservation.MoveRefund: reservation.Refunded},
	}
	for _, state := range states() {
		for _, kind := range reservation.Moves() {
			want, legal := table[state][kind]
			from, to, ok := kind.Edge()
			if !ok || (from == state) != legal || legal && to != want {
				t.Errorf("%s of a %s reservation: leads from %s to %s, %v; want %q, %v", kind, state, from, to, ok, want, legal)
			}
		}
		if out := len(table[state]); state.Terminal() && out != 0 || !state.Terminal() && out == 0 && state != reservation.Requested {
			t.Errorf("%s: terminal %v with %d moves out", state, state.Terminal(), out)
		}
	}
	if n := len(reservation.Moves()); n != 6 {
		t.Errorf("%d moves", n)
	}
	for _, kind := range []reservation.MoveKind{"", "PAY", "refuse", "pay "} {
		if from, to, ok := kind.Edge(); ok || from != "" || to != "" {
			t.Errorf("%q leads from %q to %q", kind, from, to)
		}
	}
}

func TestStates(t *testing.T) {
	t.Parallel()
	active := []reservation.State{reservation.Held, reservation.Paying, reservation.Paid}
	for _, s := range append(states(), "", "odd") {
		if got := s.Active(); got != slices.Contains(active, s) {
			t.Errorf("%q binds stock: %v", s, got)
		}
		if s.Active() && s.Terminal() {
			t.Errorf("%q binds stock for ever", s)
		}
	}
}

func request() reservation.Request {
	return reservation.Request{User: id.Derive("ann"), Key: "key", Sale: id.Derive("sale"), SKU: "A", Quantity: 2, Cart: id.Derive("cart")}
}

// changes gives, for every field of a request, requests that differ in it alone.
func changes() map[string][]func(*reservation.Request) {
	type r = reservation.Request
	return map[string][]func(*r){
		"user":     {func(q *r) { q.User = id.Derive("bob") }, func(q *r) { q.User = id.ID{} }},
		"key":      {func(q *r) { q.Key = "KEY" }, func(q *r) { q.Key = "" }, func(q *r) { q.Key += "\x00" }},
		"sale":     {func(q *r) { q.Sale = id.Derive("other") }, func(q *r) { q.Sale = id.ID{} }},
		"sku":      {func(q *r) { q.SKU = "a" }, func(q *r) { q.SKU = "" }, func(q *r) { q.SKU += "\x00" }},
		"quantity": {func(q *r) { q.Quantity = 1 }, func(q *r) { q.Quantity = 0 }, func(q *r) { q.Quantity = -2 }, func(q *r) { q.Quantity = 2 + 1<<32 }},
		"cart":     {func(q *r) { q.Cart = id.Derive("other") }, func(q *r) { q.Cart = id.ID{} }, func(q *r) { q.Cart, q.Sale = q.Sale, q.Cart }},
	}
}

// TestFingerprint: user and key say which request it is, every other field what it asks for.
func TestFingerprint(t *testing.T) {
	t.Parallel()
	base := request()
	if base.Fingerprint() != request().Fingerprint() || base.ID() != request().ID() {
		t.Fatal("not the same twice")
	}
	seen := map[[32]byte]string{base.Fingerprint(): "nothing"}
	ids := map[id.ID]string{base.ID(): "nothing"}
	for field, fs := range changes() {
		for n, change := range fs {
			r, what := request(), fmt.Sprintf("%s %d", field, n)
			change(&r)
			if field == "user" || field == "key" {
				if r.Fingerprint() != base.Fingerprint() {
					t.Errorf("%s changes what is asked", what)
				}
				if other, ok := ids[r.ID()]; ok {
					t.Errorf("%s and %s have one id", what, other)
				}
				ids[r.ID()] = what
				continue
			}
			if other, ok := seen[r.Fingerprint()]; ok {
				t.Errorf("%s and %s have one fingerprint", what, other)
			}
			seen[r.Fingerprint()] = what
			if r.ID() != base.ID() {
				t.Errorf("%s changes the id", what)
			}
		}
	}
	if !base.ID().OwnedBy(base.User) || base.ID().OwnedBy(id.Derive("bob")) {
		t.Error("the id does not say whose it is")
	}
}

func FuzzFingerprint(f *testing.F) {
	f.Add("A", "B", 1, 256)
	f.Add("A", "A\x00", -1, math.MaxInt)
	f.Fuzz(func(t *testing.T, sku, sku2 string, qty, qty2 int) {
		a, b := request(), request()
		a.SKU, a.Quantity = sku, qty
		b.SKU, b.Quantity = sku2, qty2
		if (a.Fingerprint() == b.Fingerprint()) != (sku == sku2 && qty == qty2) {
			t.Fatalf("%q × %d and %q × %d", sku, qty, sku2, qty2)
		}
	})
}

func TestReasons(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]error{
		"sold_out": reservation.ErrSoldOut, "held_out": reservation.ErrHeldOut, "limit_reached": reservation.ErrLimitReached, "too_many_unpaid": reservation.ErrTooManyUnpaid,
		"sale_not_open": reservation.ErrSaleNotOpen, "unknown_item": reservation.ErrUnknownItem, "quantity": reservation.ErrQuantity,
		"price": reservation.ErrPrice, "key_reused": reservation.ErrKeyReused, "not_found": reservation.ErrNotFound,
		"illegal_move": reservation.ErrIllegalMove, "expired": reservation.ErrExpired,
	} {
		if got := reservation.Refusal(name); !errors.Is(got, want) {
			t.Errorf("%s: %v", name, got)
		}
		if got := reservation.Reason(fmt.Errorf("wrapped: %w", want)); got != name {
			t.Errorf("%v is named %q, want %q", want, got, name)
		}
	}
	for _, err := range []error{nil, errors.New("a fault"), reservation.ErrInFlight, reservation.ErrUncertain, reservation.ErrOverloaded} {
		if got := reservation.Reason(err); got != "" {
			t.Errorf("%v is no decision but is named %q", err, got)
		}
	}
	for _, name := range []string{"", "SOLD_OUT", "uncertain"} {
		if err := reservation.Refusal(name); err == nil || reservation.Reason(err) != "" || !strings.Contains(err.Error(), fmt.Sprintf("%q", name)) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestTotal(t *testing.T) {
	t.Parallel()
	r := reservation.Reservation{Quantity: 3, UnitPrice: money.Money{Amount: 990, Currency: "EUR"}}
	if got, err := r.Total(); err != nil || got != (money.Money{Amount: 2970, Currency: "EUR"}) {
		t.Errorf("%s, %v", got, err)
	}
	r.UnitPrice.Amount = math.MaxInt64/3 + 1
	if got, err := r.Total(); !errors.Is(err, money.ErrOverflow) {
		t.Errorf("%s, %v", got, err)
	}
}
