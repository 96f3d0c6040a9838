package ordertest

import (
	"flashsale/id"
	"flashsale/money"
	"flashsale/order"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"
)

func (s *shop) cart(who int) order.Cart {
	s.t.Helper()
	s.n++
	c := order.Cart{ID: id.Derive("cart", fmt.Sprint(s.n)), User: user(who), CreatedAt: morning}
	must(s.t, s.Create(s.t.Context(), c))
	c.CreatedAt = morning.UTC().Truncate(time.Microsecond)
	return c
}

func item(sku string, qty int) order.CartItem {
	return order.CartItem{Sale: id.Derive("sale"), SKU: sku, Quantity: qty, UnitPrice: price()}
}

func sameCart(a, b order.Cart) bool {
	same := slices.Equal(a.Items, b.Items)
	a.Items, b.Items = nil, nil
	return same && reflect.DeepEqual(a, b)
}

func (s *shop) wantCart(want order.Cart) {
	s.t.Helper()
	got, err := s.Cart(s.t.Context(), want.ID, want.User)
	if err != nil || !sameCart(got, want) {
		s.t.Fatalf("cart %+v, %v\nwant %+v", got, err, want)
	}
}

func storeCheckout(t *testing.T, s *shop) {
	mine, theirs := s.cart(1), s.cart(2)
	first, second, thief, plain := s.fresh(1, 1), s.fresh(1, 1), s.fresh(1, 1), s.fresh(2, 1)
	first.Cart, second.Cart, thief.Cart = mine.ID, mine.ID, theirs.ID
	s.apply(in(plain, order.Open), in(thief, order.Open))
	s.wantCart(mine)
	s.wantCart(theirs) // another shopper's order does not check it out
	for _, o := range []order.Order{first, second} {
		s.apply(in(o, order.Open))
		mine.CheckedOut = true
		s.wantCart(mine)
	}
	_, err := s.Add(t.Context(), mine.ID, user(1), item("A", 1))
	wantErr(t, err, order.ErrCheckedOut)
	s.wantCart(mine)
	_, err = s.Add(t.Context(), theirs.ID, user(2), item("A", 1))
	must(t, err)
}

func cartLines(t *testing.T, s *shop) {
	c := s.cart(1)
	s.wantCart(c)
	dear := item("A", 2)
	dear.UnitPrice = money.Money{Amount: 120000, Currency: "JPY"}
	other := item("A", 1)
	other.Sale = id.Derive("another sale")
	for _, i := range []order.CartItem{item("B", 1), item("A", 3), other, dear} {
		got, err := s.Add(t.Context(), c.ID, user(1), i)
		must(t, err)
		if i == dear { // the same item again: one line, the new price
			c.Items[1].Quantity, c.Items[1].UnitPrice = 5, dear.UnitPrice
		} else {
			c.Items = append(c.Items, i)
		}
		if !sameCart(got, c) {
			t.Fatalf("cart %+v\nwant %+v", got, c)
		}
		s.wantCart(c)
	}
	wrong := order.Cart{ID: c.ID, User: user(2), CreatedAt: morning}
	if err := s.Create(t.Context(), wrong); err == nil {
		t.Fatal("a second cart under the same id")
	}
	s.wantCart(c)
}

func cartRefuses(t *testing.T, s *shop) {
	c := s.cart(1)
	refuse := func(cart, who id.ID, i order.CartItem, want error) {
		t.Helper()
		_, err := s.Add(t.Context(), cart, who, i)
		wantErr(t, err, want)
		s.wantCart(c)
	}
	refuse(id.Derive("none"), user(1), item("A", 1), order.ErrNotFound)
	refuse(c.ID, user(2), item("A", 1), order.ErrNotFound)
	for _, qty := range []int{-1, 0, 1001} {
		refuse(c.ID, user(1), item("A", qty), order.ErrQuantity)
	}
	for n := range order.MaxCartItems {
		c.Items = append(c.Items, item(fmt.Sprint("sku-", n), 999))
		_, err := s.Add(t.Context(), c.ID, user(1), c.Items[n])
		must(t, err)
	}
	refuse(c.ID, user(1), item("one more", 1), order.ErrCartFull)
	refuse(c.ID, user(1), item("sku-7", 2), order.ErrQuantity)
	c.Items[7].Quantity = 1000
	_, err := s.Add(t.Context(), c.ID, user(1), item("sku-7", 1)) // a full cart still takes more of what is in it
	must(t, err)
	s.wantCart(c)
	_, err = s.Cart(t.Context(), c.ID, user(2))
	wantErr(t, err, order.ErrNotFound)
}

func cartCrowd(t *testing.T, s *shop) {
	const workers, rounds = 8, 6
	c := s.cart(1)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range rounds {
				if _, err := s.Add(t.Context(), c.ID, user(1), item(fmt.Sprint(w%2), 1)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got, err := s.Cart(t.Context(), c.ID, user(1))
	must(t, err)
	if len(got.Items) != 2 || got.Items[0].Quantity != workers*rounds/2 || got.Items[1].Quantity != workers*rounds/2 {
		t.Fatalf("%+v", got.Items)
	}
}
