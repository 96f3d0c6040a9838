// Package ordertest is the suite that every store of orders passes.
package ordertest

import (
	"errors"
	"flashsale/audit"
	"flashsale/id"
	"flashsale/money"
	"flashsale/order"
	"flashsale/transport"
	"flashsale/transport/transporttest"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Store is what the suite exercises.
type Store interface {
	order.Store
	order.Carts
	order.Auditor
	transport.Outbox
}

// StoreUnderTest is a fresh store with what the suite needs to try it.
type StoreUnderTest struct {
	Store
	// Corrupt runs SQL behind the store's back: for the audit to find, or for a transaction to fail on.
	Corrupt func(t *testing.T, sql string)
}

// Exercise runs the suite; open returns an empty store.
func Exercise(t *testing.T, open func(t *testing.T) StoreUnderTest) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, *shop){
		"an order is opened":                  storeOpens,
		"every change from every state":       storeChanges,
		"what a change leaves alone":          storeKeeps,
		"a group is made in order":            storeGroup,
		"a group is made whole or not at all": storeAtomic,
		"an order checks out its cart":        storeCheckout,
		"the newest first, page by page":      storeList,
		"the states of many":                  storeStates,
		"a cart's lines":                      cartLines,
		"what a cart refuses":                 cartRefuses,
		"a crowd on one cart":                 cartCrowd,
		"a crowd on the same orders":          storeCrowd,
		"the outbox has what was said":        storeOutbox,
		"statement":                           storeStatement,
		"the audit finds what is wrong":       storeAudit,
		"what is not there":                   storeNothing,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &shop{StoreUnderTest: open(t), t: t}
			test(t, s)
			s.wantAudit()
		})
	}
}

// shop is a store, and words for what the suite does to it.
type shop struct {
	StoreUnderTest
	t *testing.T
	n int
}

var (
	zone    = time.FixedZone("elsewhere", 2*3600)
	morning = time.Date(2026, 5, 4, 9, 30, 0, 123456789, zone) // finer than what is kept, and not UTC
)

func user(n int) id.ID { return id.Derive("user", fmt.Sprint(n)) }

func price() money.Money { return money.Money{Amount: 990, Currency: "EUR"} }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error %v, want %v", got, want)
	}
}

// fresh is an open order that no store has seen, a second newer than the last.
func (s *shop) fresh(who, qty int) order.Order {
	s.n++
	at := morning.Add(time.Duration(s.n) * time.Second)
	return order.Order{
		ID: id.DeriveFor(user(who), "order", fmt.Sprint(s.n)), User: user(who), Sale: id.Derive("sale"), SKU: "A", Quantity: qty,
		UnitPrice: price(), Total: money.Money{Amount: int64(qty) * price().Amount, Currency: "EUR"}, State: order.Open,
		CreatedAt: at, UpdatedAt: at, ExpiresAt: time.Now().In(zone).Add(time.Hour),
	}
}

// kept is an order as a store returns it: UTC, in microseconds.
func kept(o order.Order) order.Order {
	for _, at := range []*time.Time{&o.CreatedAt, &o.UpdatedAt, &o.ExpiresAt} {
		*at = at.UTC().Truncate(time.Microsecond)
	}
	return o
}

func in(o order.Order, state order.State) order.Change {
	o.State = state
	return order.Change{Order: o, TraceParent: "00-trace"}
}

func (s *shop) apply(changes ...order.Change) []order.Changed {
	s.t.Helper()
	out, err := s.Apply(s.t.Context(), changes)
	must(s.t, err)
	if len(out) != len(changes) {
		s.t.Fatalf("%d answers for %d changes", len(out), len(changes))
	}
	return out
}

func (s *shop) wantOrder(want order.Order) {
	s.t.Helper()
	got, err := s.Find(s.t.Context(), want.ID)
	if err != nil || got != want {
		s.t.Fatalf("found %+v, %v\nwant  %+v", got, err, want)
	}
}

// said takes everything out of the outbox.
func (s *shop) said() []transport.Envelope {
	s.t.Helper()
	es, err := s.Unsent(s.t.Context(), 0, 1000)
	must(s.t, err)
	ids := make([]id.ID, len(es))
	for i, e := range es {
		ids[i] = e.ID
	}
	must(s.t, s.MarkSent(s.t.Context(), ids))
	return es
}

// wantAudit holds the checks against the figures of those that must fail, by equation.
func (s *shop) wantAudit(wrong ...audit.Check) {
	s.t.Helper()
	checks, err := s.Audit(s.t.Context())
	must(s.t, err)
	if len(checks) != 2 || checks[0].Equation != 6 || checks[1].Equation != 7 {
		s.t.Fatalf("checks %+v", checks)
	}
	for _, c := range checks {
		i := slices.IndexFunc(wrong, func(w audit.Check) bool { return w.Equation == c.Equation })
		if c.OK != (i < 0) || i >= 0 && c.Figures != wrong[i].Figures {
			s.t.Errorf("audit %d. %s: %s, ok %v", c.Equation, c.Name, c.Figures, c.OK)
		}
	}
}

func storeOpens(t *testing.T, s *shop) {
	o := s.fresh(1, 3)
	o.Reason, o.Payment, o.Cart = "none yet", id.Derive("payment"), id.Derive("no such cart")
	got := s.apply(in(o, order.Open))[0]
	if want := (order.Changed{Order: kept(o), Applied: true}); !reflect.DeepEqual(got, want) {
		t.Fatalf("answer %+v\nwant   %+v", got, want)
	}
	s.wantOrder(kept(o))
	if es := s.said(); len(es) != 0 { // an open order is nobody's news
		t.Fatalf("said %+v", es)
	}
}

// storeChanges tries every change on an order in every state, and on one that is not there.
func storeChanges(t *testing.T, s *shop) {
	rank := map[order.State]int{order.Open: 0, order.Confirmed: 1, order.Cancelled: 1, order.Refunded: 2}
	kinds := map[order.State]string{
		order.Confirmed: order.EventConfirmed, order.Cancelled: order.EventCancelled, order.Refunded: order.EventRefunded,
	}
	for was, path := range map[order.State][]order.State{
		"": {}, order.Open: {order.Open}, order.Confirmed: {order.Open, order.Confirmed},
		order.Cancelled: {order.Open, order.Cancelled}, order.Refunded: {order.Confirmed, order.Refunded},
	} {
		for to := range rank {
			o := s.fresh(1, 2)
			for _, state := range path {
				s.apply(in(o, state))
			}
			s.said()
			want, applied := kept(o), was == "" || rank[to] > rank[was]
			want.State = was
			o.Reason, o.Payment, o.UpdatedAt = "why", id.Derive("payment"), o.UpdatedAt.Add(time.Minute)
			if applied {
				want.State, want.Reason, want.Payment, want.UpdatedAt = to, o.Reason, o.Payment, kept(o).UpdatedAt
			}
			got := s.apply(in(o, to))[0]
			if got.Order != want || got.Applied != applied || got.Event.Type != kinds[want.State] {
				t.Fatalf("%s when %q: %+v\nwant %+v, applied %v", to, was, got, want, applied)
			}
			s.wantOrder(want)
			var news []transport.Envelope
			if e := got.Event; e.Type != "" {
				d, err := transport.Decode[order.Data](e)
				if want := (order.Data{
					Order: o.ID, User: o.User, Sale: o.Sale, SKU: "A", Quantity: 2, Total: o.Total,
					State: want.State, Reason: want.Reason, CreatedAt: want.CreatedAt,
				}); err != nil || d != want || e.Source != transport.Order || e.Subject != o.ID || e.Time != got.Order.UpdatedAt || e.TraceParent != "00-trace" {
					t.Fatalf("%s when %q: event %+v, %+v, %v", to, was, e, d, err)
				}
				if applied {
					news = append(news, e)
				}
			}
			if es := s.said(); !transporttest.SameAll(es, news) {
				t.Fatalf("%s when %q: outbox %+v\nwant %+v", to, was, es, news)
			}
			again := s.apply(in(o, to))[0]
			if again.Applied || again.Order != want || !transporttest.Same(again.Event, got.Event) || len(s.said()) != 0 {
				t.Fatalf("%s when %q, repeated: %+v\nfirst %+v", to, was, again, got)
			}
		}
	}
}

func storeKeeps(t *testing.T, s *shop) {
	o := s.fresh(1, 2)
	o.Reason, o.Payment = "a reason", id.Derive("payment")
	s.apply(in(o, order.Open))
	other := s.fresh(2, 7) // a later event is believed about the state only
	other.ID, other.SKU, other.Sale, other.Cart = o.ID, "B", id.Derive("another sale"), s.cart(2).ID
	got := s.apply(in(other, order.Confirmed))[0]
	want := kept(o)
	want.State, want.UpdatedAt = order.Confirmed, kept(other).UpdatedAt // no reason and no payment: those known stay
	if got.Order != want || !got.Applied {
		t.Fatalf("%+v\nwant %+v", got.Order, want)
	}
	s.wantOrder(want)
	if c, err := s.Cart(t.Context(), other.Cart, user(2)); err != nil || c.CheckedOut {
		t.Fatalf("cart %+v, %v: only a new order checks out", c, err)
	}
}

func storeGroup(t *testing.T, s *shop) {
	a, b := s.fresh(1, 1), s.fresh(2, 2)
	changes := []order.Change{
		in(a, order.Open), in(b, order.Refunded), in(a, order.Confirmed), in(a, order.Cancelled),
		in(a, order.Open), in(b, order.Open), in(a, order.Refunded), in(a, order.Refunded),
	}
	wants := []struct {
		state   order.State
		applied bool
	}{
		{order.Open, true},
		{order.Refunded, true},
		{order.Confirmed, true},
		{order.Confirmed, false},
		{order.Confirmed, false},
		{order.Refunded, false},
		{order.Refunded, true},
		{order.Refunded, false},
	}
	for i, got := range s.apply(changes...) {
		want := kept(changes[i].Order)
		want.State = wants[i].state
		if got.Order != want || got.Applied != wants[i].applied {
			t.Errorf("change %d: %+v\nwant %+v", i, got, wants[i])
		}
	}
	for i, got := range s.apply(changes...) { // redelivered: nothing is left to do
		if got.Order.State != order.Refunded || got.Applied {
			t.Errorf("change %d, redelivered: %+v", i, got)
		}
	}
	s.wantOrder(kept(in(a, order.Refunded).Order))
	s.wantOrder(kept(in(b, order.Refunded).Order))
	var kinds []string
	for _, e := range s.said() {
		kinds = append(kinds, e.Type)
	}
	slices.Sort(kinds)
	if !slices.Equal(kinds, []string{order.EventConfirmed, order.EventRefunded, order.EventRefunded}) {
		t.Fatalf("said %v", kinds)
	}
}

func storeAtomic(t *testing.T, s *shop) {
	known, fresh, odd := s.fresh(1, 1), s.fresh(1, 1), s.fresh(1, 1)
	fresh.SKU, fresh.Cart = "B", s.cart(1).ID
	s.apply(in(known, order.Open))
	for what, trouble := range map[string][2]string{
		"a row that cannot be written": {`CREATE UNIQUE INDEX odd ON orders (sku)`, `DROP INDEX odd`},
		"an outbox that cannot":        {`ALTER TABLE outbox RENAME TO away`, `ALTER TABLE away RENAME TO outbox`},
	} {
		s.Corrupt(t, trouble[0])
		out, err := s.Apply(t.Context(), []order.Change{in(known, order.Confirmed), in(fresh, order.Confirmed), in(odd, order.Confirmed)})
		s.Corrupt(t, trouble[1])
		if err == nil || out != nil {
			t.Fatalf("%s: %+v, %v", what, out, err)
		}
		s.wantOrder(kept(known))
		for _, o := range []order.Order{fresh, odd} {
			if _, err := s.Find(t.Context(), o.ID); !errors.Is(err, order.ErrNotFound) {
				t.Errorf("%s: half a group was made: %v", what, err)
			}
		}
		if c, err := s.Cart(t.Context(), fresh.Cart, user(1)); err != nil || c.CheckedOut {
			t.Errorf("%s: cart %+v, %v", what, c, err)
		}
		if es := s.said(); len(es) != 0 {
			t.Errorf("%s: said %+v", what, es)
		}
	}
	for i, c := range s.apply(in(known, order.Confirmed), in(fresh, order.Confirmed), in(odd, order.Confirmed)) {
		if !c.Applied {
			t.Errorf("change %d was not made when it could be: %+v", i, c)
		}
	}
}

func storeList(t *testing.T, s *shop) {
	var want []order.Order
	for n := range 9 {
		o, other := s.fresh(1, 1), s.fresh(2, 1)
		o.CreatedAt = morning.Add(time.Duration(n/3) * time.Microsecond) // three each share an instant: the id decides
		s.apply(in(o, order.Open), in(other, order.Open))
		want = append(want, kept(o))
	}
	slices.SortFunc(want, func(a, b order.Order) int {
		if c := b.CreatedAt.Compare(a.CreatedAt); c != 0 {
			return c
		}
		return slices.Compare(b.ID[:], a.ID[:])
	})
	for _, limit := range []int{1, 2, 4, 9, 100} {
		var got []order.Order
		var after order.Cursor
		for {
			page, err := s.List(t.Context(), user(1), after, limit)
			must(t, err)
			if len(page) > limit {
				t.Fatalf("%d orders on a page of %d", len(page), limit)
			}
			got = append(got, page...)
			if len(page) < limit {
				break
			}
			after = order.Cursor{CreatedAt: page[limit-1].CreatedAt.In(zone), ID: page[limit-1].ID}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("pages of %d: %+v\nwant %+v", limit, got, want)
		}
	}
	for _, limit := range []int{0, -1} {
		if page, err := s.List(t.Context(), user(1), order.Cursor{}, limit); err != nil || len(page) != 0 {
			t.Errorf("limit %d: %d orders, %v", limit, len(page), err)
		}
	}
}

// storeCrowd: everybody delivers everything at the same time, twice, each in an order of their own.
func storeCrowd(t *testing.T, s *shop) {
	const orders, workers, group = 12, 8, 7
	carts := []order.Cart{s.cart(1), s.cart(1), s.cart(1)}
	var changes []order.Change
	for n := range orders {
		o := s.fresh(1, 1)
		o.Cart = carts[n%len(carts)].ID
		changes = append(changes, in(o, order.Open), in(o, order.Confirmed), in(o, order.Refunded))
	}
	changes = slices.Concat(changes, changes)
	var created, news atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			mine := slices.Clone(changes)
			rand.New(rand.NewPCG(uint64(w), 1)).Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
			for part := range slices.Chunk(mine, group) {
				out, err := s.Apply(t.Context(), part)
				if err != nil {
					t.Error(err)
					return
				}
				for i, c := range out {
					switch {
					case c.Order.State.Rank() < part[i].Order.State.Rank():
						t.Errorf("told %s, answered %s", part[i].Order.State, c.Order.State)
					case c.Applied && c.Event.Type == "":
						created.Add(1)
					case c.Applied:
						news.Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	seen := map[id.ID]string{}
	refunded := 0
	for _, e := range s.said() {
		if was, twice := seen[e.ID]; twice {
			t.Errorf("said twice: %s %s", was, e.ID)
		}
		seen[e.ID] = e.Type
		if e.Type == order.EventRefunded {
			refunded++
		}
	}
	if int64(len(seen)) != news.Load() || refunded != orders || created.Load() > orders {
		t.Fatalf("%d said, %d refunds; %d changes had news, %d opened", len(seen), refunded, news.Load(), created.Load())
	}
	list, err := s.List(t.Context(), user(1), order.Cursor{}, 100)
	if err != nil || len(list) != orders || slices.ContainsFunc(list, func(o order.Order) bool { return o.State != order.Refunded }) {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, c := range carts {
		c.CheckedOut = true
		s.wantCart(c)
	}
}

func storeOutbox(t *testing.T, s *shop) {
	var want []transport.Envelope
	for range 3 {
		want = append(want, s.apply(in(s.fresh(1, 1), order.Confirmed))[0].Event)
	}
	if es, err := s.Unsent(t.Context(), time.Hour, 10); err != nil || len(es) != 0 {
		t.Fatalf("an hour old: %+v, %v", es, err)
	}
	first, err := s.Unsent(t.Context(), 0, 2)
	if err != nil || !transporttest.SameAll(first, want[:2]) {
		t.Fatalf("the oldest two: %+v, %v\nwant %+v", first, err, want[:2])
	}
	rest, err := s.Unsent(t.Context(), 0, 10)
	if err != nil || !transporttest.SameAll(rest, want[2:]) {
		t.Fatalf("leased to two relays: %+v, %v", rest, err)
	}
	must(t, s.MarkSent(t.Context(), []id.ID{want[0].ID, id.Derive("unknown")}))
	s.Corrupt(t, `UPDATE outbox SET leased_until = written_at`) // the leases have ended
	if es, err := s.Unsent(t.Context(), 0, 10); err != nil || !transporttest.SameAll(es, want[1:]) {
		t.Fatalf("after the leases: %+v, %v", es, err)
	}
	if n, age, err := s.Backlog(t.Context()); err != nil || n != 2 || age <= 0 || age > time.Minute {
		t.Fatalf("backlog %d, %s, %v", n, age, err)
	}
	must(t, s.MarkSent(t.Context(), []id.ID{want[1].ID, want[2].ID}))
	if n, age, err := s.Backlog(t.Context()); err != nil || n != 0 || age != 0 {
		t.Fatalf("backlog %d, %s, %v", n, age, err)
	}
}

func storeStatement(t *testing.T, s *shop) {
	var want []order.Line
	for n, state := range []order.State{order.Open, order.Confirmed, order.Cancelled, order.Refunded, order.Open} {
		o := s.fresh(n, n+1)
		o.Payment = id.Derive("payment", fmt.Sprint(n))
		s.apply(in(o, state))
		want = append(want, order.Line{Order: o.ID, User: o.User, State: state, Total: o.Total, Payment: o.Payment})
	}
	slices.SortFunc(want, func(a, b order.Line) int { return slices.Compare(a.Order[:], b.Order[:]) })
	var got []order.Line
	must(t, s.Statement(t.Context(), func(l order.Line) error { got = append(got, l); return nil }))
	if !slices.Equal(got, want) {
		t.Fatalf("%+v\nwant %+v", got, want)
	}
	stop, calls := errors.New("enough"), 0
	wantErr(t, s.Statement(t.Context(), func(order.Line) error { calls++; return stop }), stop)
	if calls != 1 {
		t.Fatalf("called %d times after the error", calls-1)
	}
}

func storeAudit(t *testing.T, s *shop) {
	late, soon, paid := s.fresh(1, 1), s.fresh(1, 2), s.fresh(1, 3)
	soon.ExpiresAt = time.Now().Add(time.Minute - order.ExpiryBound) // over, and the release may still be on its way
	paid.ExpiresAt = time.Now().Add(-time.Hour)
	s.apply(in(late, order.Open), in(soon, order.Open), in(paid, order.Confirmed))
	s.wantAudit()
	for _, column := range []string{"total", "qty", "price"} {
		s.Corrupt(t, `UPDATE orders SET `+column+` = `+column+` + 1 WHERE state = 'open'`)
		s.wantAudit(audit.Check{Equation: 6, Figures: "orders 3, wrong 2"})
		s.Corrupt(t, `UPDATE orders SET `+column+` = `+column+` - 1 WHERE state = 'open'`)
		s.wantAudit()
	}
	never := s.fresh(1, 1) // its release never came
	never.ExpiresAt = time.Now().Add(-time.Minute - order.ExpiryBound)
	s.apply(in(never, order.Open))
	s.wantAudit(audit.Check{Equation: 7, Figures: "open 3, overdue 1"})
	s.apply(in(never, order.Cancelled))
}

func storeNothing(t *testing.T, s *shop) {
	s.wantAudit()
	_, err := s.Find(t.Context(), id.Derive("none"))
	wantErr(t, err, order.ErrNotFound)
	_, err = s.Cart(t.Context(), id.Derive("none"), user(1))
	wantErr(t, err, order.ErrNotFound)
	must(t, s.MarkSent(t.Context(), nil))
	must(t, s.Statement(t.Context(), func(l order.Line) error { return fmt.Errorf("%+v", l) }))
	for what, n := range map[string]func() (int, error){
		"apply":   func() (int, error) { v, err := s.Apply(t.Context(), nil); return len(v), err },
		"list":    func() (int, error) { v, err := s.List(t.Context(), user(1), order.Cursor{}, 5); return len(v), err },
		"unsent":  func() (int, error) { v, err := s.Unsent(t.Context(), 0, 5); return len(v), err },
		"backlog": func() (int, error) { n, age, err := s.Backlog(t.Context()); return n + int(age), err },
	} {
		if got, err := n(); err != nil || got != 0 {
			t.Errorf("%s of nothing: %d, %v", what, got, err)
		}
	}
}

func storeStates(t *testing.T, s *shop) {
	want := map[id.ID]order.State{}
	asked := []id.ID{id.Derive("nobody's")}
	var changes []order.Change
	for n := range 1200 { // more than one statement takes
		o := s.fresh(n, 1)
		state := []order.State{order.Open, order.Confirmed, order.Cancelled}[n%3]
		changes = append(changes, in(o, state))
		want[o.ID], asked = state, append(asked, o.ID)
	}
	other := s.fresh(1, 1)
	s.apply(append(changes, in(other, order.Open))...)
	got, err := s.States(t.Context(), asked)
	if err != nil || !maps.Equal(got, want) {
		t.Fatalf("%d states, %v; want %d", len(got), err, len(want))
	}
	if got, err := s.States(t.Context(), nil); err != nil || len(got) != 0 {
		t.Fatalf("of none: %v, %v", got, err)
	}
	s.said()
}
