package enginesim

import (
	"cmp"
	"context"
	"errors"
	"flashsale/audit"
	"flashsale/id"
	"flashsale/order"
	"flashsale/payment"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// orders is the model of the order store.
type orders struct {
	outbox
	places
	mu     sync.Mutex
	rows   map[id.ID]order.Order
	carts  map[id.ID]order.Cart
	oneSKU bool // a constraint of the suite's: two orders of one SKU cannot be written
}

func newOrders(clock func() time.Time) *orders {
	s := &orders{rows: map[id.ID]order.Order{}, carts: map[id.ID]order.Cart{}}
	s.outbox = outbox{mu: &s.mu, clock: clock}
	s.places = places{mu: &s.mu, clock: clock, at: map[string]placed{}}
	return s
}

// Apply implements order.Store. It works on copies, so that a group is made whole or not at all.
func (s *orders) Apply(_ context.Context, changes []order.Change) ([]order.Changed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows, carts, said := maps.Clone(s.rows), maps.Clone(s.carts), slices.Clone(s.outbox.rows)
	out, err := s.apply(changes)
	if err != nil {
		s.rows, s.carts, s.outbox.rows = rows, carts, said
		return nil, err
	}
	return out, nil
}

func (s *orders) apply(changes []order.Change) ([]order.Changed, error) {
	out := make([]order.Changed, len(changes))
	for i, c := range changes {
		for _, at := range []*time.Time{&c.Order.CreatedAt, &c.Order.UpdatedAt, &c.Order.ExpiresAt} {
			*at = micros(*at)
		}
		now, known := s.rows[c.Order.ID]
		o, applied := order.Decide(now, known, c)
		out[i] = order.Changed{Order: o, Applied: applied}
		e, follows := order.Follow(o, c.TraceParent)
		if follows {
			out[i].Event = e
		}
		if !applied {
			continue
		}
		for _, other := range s.rows {
			if s.oneSKU && other.SKU == o.SKU && other.ID != o.ID {
				return nil, errors.New("model: two orders of one SKU")
			}
		}
		s.rows[o.ID] = o
		if cart, ok := s.carts[o.Cart]; ok && !known && cart.User == o.User {
			cart.CheckedOut = true
			s.carts[o.Cart] = cart
		}
		if follows && s.away {
			return nil, errNoOutbox
		}
		if follows {
			s.enqueue(e)
		}
	}
	return out, nil
}

// Find implements order.Store.
func (s *orders) Find(_ context.Context, v id.ID) (order.Order, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o, ok := s.rows[v]; ok {
		return o, nil
	}
	return order.Order{}, order.ErrNotFound
}

// States implements order.Store.
func (s *orders) States(_ context.Context, ids []id.ID) (map[id.ID]order.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := map[id.ID]order.State{}
	for _, v := range ids {
		if o, ok := s.rows[v]; ok {
			states[v] = o.State
		}
	}
	return states, nil
}

// List implements order.Store.
func (s *orders) List(_ context.Context, user id.ID, after order.Cursor, limit int) ([]order.Order, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	newer := func(a, b order.Cursor) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), slices.Compare(b.ID[:], a.ID[:]))
	}
	after.CreatedAt = micros(after.CreatedAt)
	var out []order.Order
	for _, o := range s.rows {
		if o.User == user && (after.ID.IsZero() || newer(after, order.Cursor{CreatedAt: o.CreatedAt, ID: o.ID}) < 0) {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b order.Order) int {
		return newer(order.Cursor{CreatedAt: a.CreatedAt, ID: a.ID}, order.Cursor{CreatedAt: b.CreatedAt, ID: b.ID})
	})
	return out[:min(len(out), max(limit, 0))], nil
}

// Create implements order.Carts.
func (s *orders) Create(_ context.Context, c order.Cart) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.carts[c.ID]; known {
		return errors.New("model: the cart is there already")
	}
	c.CreatedAt = micros(c.CreatedAt)
	s.carts[c.ID] = c
	return nil
}

// Add implements order.Carts.
func (s *orders) Add(_ context.Context, cart, user id.ID, item order.CartItem) (order.Cart, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.carts[cart]
	if !ok || c.User != user {
		return order.Cart{}, order.ErrNotFound
	}
	c.Items = slices.Clone(c.Items)
	if _, err := c.Merge(item); err != nil {
		return order.Cart{}, err
	}
	s.carts[cart] = c
	return c, nil
}

// Cart implements order.Carts.
func (s *orders) Cart(_ context.Context, cart, user id.ID) (order.Cart, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.carts[cart]
	if !ok || c.User != user {
		return order.Cart{}, order.ErrNotFound
	}
	return c, nil
}

// Audit implements order.Auditor: the equations of order.AuditSQL.
func (s *orders) Audit(context.Context) ([]audit.Check, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var wrong, open, late int
	for _, o := range s.rows {
		if o.Total.Amount != o.UnitPrice.Amount*int64(o.Quantity) {
			wrong++
		}
		if o.State == order.Open {
			open++
			if o.ExpiresAt.Before(micros(s.outbox.clock()).Add(-order.ExpiryBound)) {
				late++
			}
		}
	}
	return []audit.Check{
		{Equation: 6, Name: "an order's total = price × quantity", Figures: fmt.Sprintf("orders %d, wrong %d", len(s.rows), wrong), OK: wrong == 0},
		{Equation: 7, Name: "no order open long after its hold", Figures: fmt.Sprintf("open %d, overdue %d", open, late), OK: late == 0},
	}, nil
}

// Statement implements order.Auditor.
func (s *orders) Statement(_ context.Context, line func(order.Line) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range slices.SortedFunc(maps.Values(s.rows), func(a, b order.Order) int { return slices.Compare(a.ID[:], b.ID[:]) }) {
		if err := line(order.Line{Order: o.ID, User: o.User, State: o.State, Total: o.Total, Payment: o.Payment}); err != nil {
			return err
		}
	}
	return nil
}

// places is the model of the table of places.
type places struct {
	mu    *sync.Mutex
	clock func() time.Time
	at    map[string]placed
}

type placed struct {
	upto   int64
	leased time.Time
}

// Place implements transport.Places.
func (p *places) Place(_ context.Context, sweep string, hold time.Duration) (int64, bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := micros(p.clock())
	v := p.at[sweep]
	if v.leased.After(now) {
		return 0, false, nil
	}
	v.leased = now.Add(hold)
	p.at[sweep] = v
	return v.upto, true, nil
}

// SetPlace implements transport.Places.
func (p *places) SetPlace(_ context.Context, sweep string, upto int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at[sweep] = placed{upto: upto, leased: micros(p.clock())}
	return nil
}

// payments is the model of the payment store, with the simulated provider's charges.
type payments struct {
	outbox
	places
	mu      sync.Mutex
	rows    map[id.ID]payment.Payment
	charges map[id.ID]payment.Charge
}

func newPayments(clock func() time.Time) *payments {
	s := &payments{rows: map[id.ID]payment.Payment{}, charges: map[id.ID]payment.Charge{}}
	s.outbox = outbox{mu: &s.mu, clock: clock}
	s.places = places{mu: &s.mu, clock: clock, at: map[string]placed{}}
	return s
}

// write stores a payment with its event, or neither.
func (s *payments) write(p payment.Payment) error {
	e, follows := payment.Follow(p)
	if follows && s.away {
		return errNoOutbox
	}
	s.rows[p.ID] = p
	if follows {
		s.enqueue(e)
	}
	return nil
}

// Begin implements payment.Store.
func (s *payments) Begin(_ context.Context, p payment.Payment) (payment.Payment, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, known := s.rows[p.ID]; known {
		if now.Fingerprint != p.Fingerprint {
			return now, false, payment.ErrKeyReused
		}
		return now, false, nil
	}
	p.State, p.Reason, p.ProviderRef, p.CreatedAt = payment.Requested, "", "", micros(s.outbox.clock())
	p.UpdatedAt = p.CreatedAt
	if err := s.write(p); err != nil {
		return payment.Payment{}, false, err
	}
	return p, true, nil
}

// Advance implements payment.Store.
func (s *payments) Advance(_ context.Context, step payment.Step) (payment.Payment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, known := s.rows[step.Payment]
	switch {
	case !known:
		return payment.Payment{}, payment.ErrNotFound
	case !step.In(p.State):
		return p, payment.ErrIllegalMove
	}
	p.State, p.Reason, p.UpdatedAt = step.To, step.Reason, micros(s.outbox.clock())
	p.ProviderRef = cmp.Or(step.ProviderRef, p.ProviderRef)
	return p, s.write(p)
}

// Find implements payment.Store.
func (s *payments) Find(_ context.Context, v id.ID) (payment.Payment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.rows[v]; ok {
		return p, nil
	}
	return payment.Payment{}, payment.ErrNotFound
}

// ForOrder implements payment.Store.
func (s *payments) ForOrder(_ context.Context, v id.ID) ([]payment.Payment, error) {
	return s.list(func(p payment.Payment) bool { return p.Order == v }, func(p payment.Payment) time.Time { return p.CreatedAt }), nil
}

func (s *payments) list(keep func(payment.Payment) bool, at func(payment.Payment) time.Time) []payment.Payment {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []payment.Payment
	for _, p := range s.rows {
		if keep(p) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b payment.Payment) int { return cmp.Or(at(a).Compare(at(b)), slices.Compare(a.ID[:], b.ID[:])) })
	return out
}

// Stuck implements payment.Store.
func (s *payments) Stuck(_ context.Context, states []payment.State, age time.Duration, limit int) ([]payment.Payment, error) {
	before := micros(s.outbox.clock()).Add(-age)
	out := s.list(func(p payment.Payment) bool { return !p.UpdatedAt.After(before) && slices.Contains(states, p.State) },
		func(p payment.Payment) time.Time { return p.UpdatedAt })
	return out[:min(len(out), max(limit, 0))], nil
}

// Traffic implements payment.Store.
func (s *payments) Traffic(_ context.Context, age time.Duration) (payment.Traffic, error) {
	since, stuck := micros(s.outbox.clock()).Add(-age), micros(s.outbox.clock()).Add(-60*age)
	s.mu.Lock()
	defer s.mu.Unlock()
	var v payment.Traffic
	for _, p := range s.rows {
		late := !p.UpdatedAt.After(since)
		switch p.State {
		case payment.Requested:
			v.UnderWay++
			if late && p.UpdatedAt.After(stuck) {
				v.Late++
			}
		case payment.Charging:
			v.UnderWay++
		case payment.Captured, payment.Declined, payment.Refunded:
			if !late {
				v.Done++
			}
		}
	}
	return v, nil
}

// Decided implements payment.Store.
func (s *payments) Decided(_ context.Context, after time.Time, age time.Duration, limit int) ([]payment.Payment, error) {
	before := micros(s.outbox.clock()).Add(-age)
	if after.After(before) { // the clock was set back
		after = before.Add(-age)
	}
	out := s.list(func(p payment.Payment) bool {
		return p.UpdatedAt.After(micros(after)) && !p.UpdatedAt.After(before) &&
			slices.Contains([]payment.State{payment.Captured, payment.Declined, payment.Refunded}, p.State)
	}, func(p payment.Payment) time.Time { return p.UpdatedAt })
	return out[:min(len(out), max(limit, 0))], nil
}

// Audit implements payment.Auditor: the equations of payment.AuditSQL.
func (s *payments) Audit(context.Context) ([]audit.Check, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	paid := map[id.ID]int{}
	var twice, moving, late int
	for _, p := range s.rows {
		switch p.State {
		case payment.Captured, payment.Refunding:
			paid[p.Order]++
			if paid[p.Order] == 2 {
				twice++
			}
		}
		switch p.State {
		case payment.Requested, payment.Charging, payment.Unknown, payment.Refunding:
			moving++
			if p.UpdatedAt.Before(micros(s.outbox.clock()).Add(-payment.ProbeBound)) {
				late++
			}
		}
	}
	return []audit.Check{
		{Equation: 6, Name: "no order is paid twice", Figures: fmt.Sprintf("orders paid %d, paid twice %d", len(paid), twice), OK: twice == 0},
		{Equation: 7, Name: "no payment without an outcome for long", Figures: fmt.Sprintf("under way %d, overdue %d", moving, late), OK: late == 0},
	}, nil
}

// Statement implements payment.Auditor.
func (s *payments) Statement(_ context.Context, line func(payment.Line) error) error {
	all := s.list(func(payment.Payment) bool { return true }, func(payment.Payment) time.Time { return time.Time{} })
	slices.SortFunc(all, func(a, b payment.Payment) int {
		return cmp.Or(slices.Compare(a.Order[:], b.Order[:]), slices.Compare(a.ID[:], b.ID[:]))
	})
	for _, p := range all {
		if err := line(payment.Line{Payment: p.ID, Order: p.Order, State: p.State, Amount: p.Amount}); err != nil {
			return err
		}
	}
	return nil
}

// PutCharge implements simprovider.Store.
func (s *payments) PutCharge(_ context.Context, c payment.Charge) (payment.Charge, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, ok := s.charges[c.Key]; ok {
		return known, nil
	}
	c.Refunded = false
	s.charges[c.Key] = c
	return c, nil
}

// Charge implements simprovider.Store.
func (s *payments) Charge(_ context.Context, key id.ID) (payment.Charge, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.charges[key]; ok {
		return c, nil
	}
	return payment.Charge{}, payment.ErrNoCharge
}

// RefundCharge implements simprovider.Store.
func (s *payments) RefundCharge(_ context.Context, key id.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.charges[key]; ok && c.Captured {
		c.Refunded = true
		s.charges[key] = c
	}
	return nil
}

// Charges implements simprovider.Store.
func (s *payments) Charges(_ context.Context, charge func(payment.Charge) error) error {
	s.mu.Lock()
	all := slices.SortedFunc(maps.Values(s.charges), func(a, b payment.Charge) int { return slices.Compare(a.Key[:], b.Key[:]) })
	s.mu.Unlock()
	for _, c := range all {
		if err := charge(c); err != nil {
			return err
		}
	}
	return nil
}
