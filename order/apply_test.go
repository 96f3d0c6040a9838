package order_test

import (
	"errors"
	"flashsale/id"
	"flashsale/money"
	"flashsale/order"
	"flashsale/transport"
	"fmt"
	"slices"
	"testing"
	"time"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func states() []order.State {
	return []order.State{order.Open, order.Confirmed, order.Cancelled, order.Refunded}
}

func TestDecideRaisesTheRankOnly(t *testing.T) {
	t.Parallel()
	raises := []string{"open→confirmed", "open→cancelled", "open→refunded", "confirmed→refunded", "cancelled→refunded"}
	for _, from := range states() {
		for _, to := range states() {
			was := order.Order{ID: id.Derive("o"), SKU: "A", State: from, Reason: "old", Payment: id.Derive("old"), UpdatedAt: noon}
			c := order.Change{Order: order.Order{ID: was.ID, SKU: "B", State: to, Reason: "new", Payment: id.Derive("new"), UpdatedAt: noon.Add(time.Hour)}}
			want := was
			applies := slices.Contains(raises, fmt.Sprintf("%s→%s", from, to))
			if applies {
				want.State, want.Reason, want.Payment, want.UpdatedAt = to, "new", id.Derive("new"), noon.Add(time.Hour)
			}
			if got, applied := order.Decide(was, true, c); got != want || applied != applies {
				t.Errorf("%s→%s: %+v, %v\nwant %+v, %v", from, to, got, applied, want, applies)
			}
			if got, applied := order.Decide(order.Order{}, false, c); got != c.Order || !applied {
				t.Errorf("new, %s: %+v, %v", to, got, applied)
			}
		}
	}
}

func TestDecideKeepsWhatTheChangeLeavesEmpty(t *testing.T) {
	t.Parallel()
	was := order.Order{State: order.Confirmed, Reason: "why", Payment: id.Derive("p"), UpdatedAt: noon}
	got, applied := order.Decide(was, true, order.Change{Order: order.Order{State: order.Refunded, UpdatedAt: noon.Add(1)}})
	want := was
	want.State, want.UpdatedAt = order.Refunded, noon.Add(1)
	if got != want || !applied {
		t.Fatalf("%+v, %v; want %+v", got, applied, want)
	}
}

// TestDecideInAnyOrder delivers the life of an order in every order, each event twice.
func TestDecideInAnyOrder(t *testing.T) {
	t.Parallel()
	runs := 0
	for _, life := range [][]order.State{
		{order.Open, order.Cancelled},
		{order.Open, order.Confirmed, order.Refunded},
	} {
		permute(slices.Concat(life, life), 0, func(events []order.State) {
			runs++
			var o order.Order
			known := false
			for _, state := range events {
				o, _ = order.Decide(o, known, order.Change{Order: order.Order{State: state}})
				known = true
			}
			if o.State != life[len(life)-1] {
				t.Errorf("%v ends %s", events, o.State)
			}
		})
	}
	if runs != 24+720 {
		t.Fatalf("%d orders of delivery", runs)
	}
}

func permute(v []order.State, from int, each func([]order.State)) {
	if from == len(v) {
		each(v)
		return
	}
	for i := from; i < len(v); i++ {
		v[from], v[i] = v[i], v[from]
		permute(v, from+1, each)
		v[from], v[i] = v[i], v[from]
	}
}

func line(sale, sku string, qty int, cents int64) order.CartItem {
	return order.CartItem{Sale: id.Derive(sale), SKU: sku, Quantity: qty, UnitPrice: money.Money{Amount: cents, Currency: "EUR"}}
}

func TestMerge(t *testing.T) {
	t.Parallel()
	cart := []order.CartItem{line("s", "A", 2, 100), line("s", "B", 999, 100)}
	full := make([]order.CartItem, order.MaxCartItems)
	for i := range full {
		full[i] = line("s", fmt.Sprint(i), 1, 100)
	}
	for name, c := range map[string]struct {
		cart    []order.CartItem
		closed  bool
		item    order.CartItem
		at, qty int // of the line it is on then
		err     error
	}{
		"the first line":         {nil, false, line("s", "A", 1, 100), 0, 1, nil},
		"another SKU":            {cart, false, line("s", "C", 1, 100), 2, 1, nil},
		"another sale":           {cart, false, line("z", "A", 1, 100), 2, 1, nil},
		"the same, a new price":  {cart, false, line("s", "A", 3, 90), 0, 5, nil},
		"the most":               {cart, false, line("s", "B", 1, 100), 1, 1000, nil},
		"one more than the most": {cart, false, line("s", "B", 2, 100), 0, 0, order.ErrQuantity},
		"the most at once":       {cart, false, line("s", "C", 1000, 100), 2, 1000, nil},
		"more than the most":     {cart, false, line("s", "C", 1001, 100), 0, 0, order.ErrQuantity},
		"none":                   {cart, false, line("s", "C", 0, 100), 0, 0, order.ErrQuantity},
		"less than none":         {cart, false, line("s", "A", -1, 100), 0, 0, order.ErrQuantity},
		"a full cart":            {full, false, line("s", "A", 1, 100), 0, 0, order.ErrCartFull},
		"a line of a full cart":  {full, false, line("s", "49", 1, 100), 49, 2, nil},
		"checked out":            {cart, true, line("s", "A", 0, 100), 0, 0, order.ErrCheckedOut},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := order.Cart{CheckedOut: c.closed, Items: slices.Clone(c.cart)}
			at, err := got.Merge(c.item)
			want := slices.Clone(c.cart)
			if c.err == nil {
				merged := c.item
				merged.Quantity = c.qty
				want = append(want[:c.at], append([]order.CartItem{merged}, want[min(c.at+1, len(want)):]...)...)
			}
			if !errors.Is(err, c.err) || at != c.at || !slices.Equal(got.Items, want) {
				t.Fatalf("line %d, %v, %+v\nwant %d, %v, %+v", at, err, got.Items, c.at, c.err, want)
			}
		})
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	for state, kind := range map[order.State]string{
		order.Open: "", order.Confirmed: "order.confirmed", order.Cancelled: "order.cancelled", order.Refunded: "order.refunded", "odd": "",
	} {
		o := order.Order{ID: id.Derive("o"), User: id.Derive("u"), Sale: id.Derive("s"), SKU: "A", Quantity: 2, State: state, UpdatedAt: noon, CreatedAt: noon}
		e, ok := order.Follow(o, "trace")
		if ok != (kind != "") || e.Type != kind {
			t.Errorf("%s: %v %q", state, ok, e.Type)
		}
		if !ok {
			continue
		}
		if e.Source != transport.Order || e.Subject != o.ID || !e.Time.Equal(noon) || e.TraceParent != "trace" {
			t.Errorf("%s: %+v", state, e)
		}
		const ends = `"quantity":2,"total":{"amount":0,"currency":""},"state":"%s","created_at":"2026-05-04T12:00:00Z"}`
		want := fmt.Sprintf(`{"order":"%s","user":"%s","sale":"%s","sku":"A",`+ends, o.ID, o.User, o.Sale, state)
		if string(e.Body()) != want {
			t.Errorf("%s\nwant %s", e.Data, want)
		}
	}
}
