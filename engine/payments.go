package engine

import (
	"context"
	"crypto/sha256"
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/order"
	"flashsale/payment"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"log/slog"
	"time"
)

// OrderReader reads a shopper's order: directly, or by asking the order service. It returns
// order.ErrNotFound when there is none of this shopper's.
type OrderReader interface {
	Order(ctx context.Context, user, order id.ID) (order.Order, error)
}

// Payments are the payment service's part of the flow and its use cases. The hold is moved to
// paying before the provider is asked, so nobody is charged for a hold that is gone; whatever
// happens to be captured too late is given back.
type Payments struct {
	store    payment.Store
	provider payment.Provider
	orders   OrderReader
	flow     *Flow
	patience time.Duration
	load     underWay
	clock    func() time.Time
	log      *slog.Logger
}

// NewPayments returns the service's part. patience is how long the provider may take to answer
// before the outcome counts as unknown; most is how many payments may be under way.
func NewPayments(store payment.Store, provider payment.Provider, orders OrderReader, flow *Flow, patience time.Duration, most int, clock func() time.Time, log *slog.Logger) *Payments {
	return &Payments{store: store, provider: provider, orders: orders, flow: flow, patience: patience, load: underWay{most: int64(most)}, clock: clock, log: log}
}

// Payment is what became of a payment request. Not Decided means that it is under way: its
// outcome will show in its state.
type Payment struct {
	Payment  payment.Payment
	Decided  bool
	Replayed bool
}

// Pay pays an order. The same shopper, order and key are the same payment, charged once.
// order.ErrNotFound, payment.ErrKeyReused, reservation.ErrExpired and ErrIllegalMove when the
// order cannot be paid (any more). A decline is not an error: it is the payment's state. transport.ErrOverloaded, and nothing
// is done, when as many are under way as may be.
func (s *Payments) Pay(ctx context.Context, user, orderID id.ID, key, method, trace string) (Payment, error) {
	if !s.load.enter() {
		return Payment{}, transport.ErrOverloaded
	}
	p, begun, err := s.begin(ctx, user, orderID, key, method, trace)
	switch {
	case err != nil:
		return Payment{}, err
	case !begun:
		return s.settled(p, true)
	}
	e, _ := payment.Follow(p)
	s.flow.Follow(ctx, transport.Payment, []transport.Envelope{e})
	if p, err = s.store.Find(ctx, p.ID); err != nil {
		return Payment{}, err
	}
	return s.settled(p, false)
}

// begin writes the payment down, or returns what the key has begun before.
func (s *Payments) begin(ctx context.Context, user, orderID id.ID, key, method, trace string) (p payment.Payment, begun bool, err error) {
	defer func() { s.load.entered(begun) }()
	pid := payment.NewID(user, orderID, key)
	print := sha256.Sum256([]byte(method))
	o, err := s.orders.Order(ctx, user, orderID)
	if err != nil {
		return payment.Payment{}, false, err
	}
	if o.State != order.Open { // perhaps by this very payment
		p, err = s.repeated(ctx, pid, print, o)
		return p, false, err
	}
	return s.store.Begin(ctx, payment.Payment{
		ID: pid, Order: orderID, User: user, Amount: o.Total, Method: method, Fingerprint: print,
		State: payment.Requested, TraceParent: trace,
	})
}

// repeated returns the payment of an order that cannot be paid any more, when it was made under this key.
func (s *Payments) repeated(ctx context.Context, pid id.ID, print [32]byte, o order.Order) (payment.Payment, error) {
	known, err := s.store.Find(ctx, pid)
	switch {
	case err == nil && known.Fingerprint != print:
		return payment.Payment{}, payment.ErrKeyReused
	case err == nil:
		return known, nil
	case !errors.Is(err, payment.ErrNotFound):
		return payment.Payment{}, err
	case o.State == order.Cancelled && o.Reason == string(reservation.Expired):
		return payment.Payment{}, reservation.ErrExpired
	}
	return payment.Payment{}, reservation.ErrIllegalMove
}

// settled says what the state of a payment means to the shopper.
func (s *Payments) settled(p payment.Payment, replayed bool) (Payment, error) {
	r := Payment{Payment: p, Replayed: replayed}
	switch p.State {
	case payment.Requested, payment.Charging, payment.Unknown:
		return r, nil
	case payment.Refused:
		r.Decided = true
		return r, reservation.Refusal(p.Reason)
	}
	r.Decided = true
	return r, nil
}

// Payment returns a shopper's payment, or payment.ErrNotFound.
func (s *Payments) Payment(ctx context.Context, user, pid id.ID) (payment.Payment, error) {
	if !pid.OwnedBy(user) {
		return payment.Payment{}, payment.ErrNotFound
	}
	p, err := s.store.Find(ctx, pid)
	if err == nil && p.User != user {
		return payment.Payment{}, payment.ErrNotFound
	}
	return p, err
}

// Refund gives the captured payment of an order back, for an operator. payment.ErrNotFound when the
// order has no payment, payment.ErrIllegalMove when none is captured.
func (s *Payments) Refund(ctx context.Context, orderID id.ID, _ string) (Payment, error) {
	ps, err := s.store.ForOrder(ctx, orderID)
	if err != nil {
		return Payment{}, err
	}
	if len(ps) == 0 {
		return Payment{}, payment.ErrNotFound
	}
	for _, p := range ps {
		switch p.State {
		case payment.Captured, payment.Refunding:
			events, err := s.refund(ctx, p)
			if err != nil && !errors.Is(err, payment.ErrUnknown) {
				return Payment{}, err
			}
			s.flow.Follow(ctx, transport.Payment, events)
			now, err := s.store.Find(ctx, p.ID)
			return Payment{Payment: now, Decided: now.State == payment.Refunded}, err
		case payment.Refunded:
			return Payment{Payment: p, Decided: true, Replayed: true}, nil
		}
	}
	return Payment{Payment: ps[len(ps)-1]}, payment.ErrIllegalMove
}

// Handle is the transport.Handler of the service.
func (s *Payments) Handle(ctx context.Context, e transport.Envelope) ([]transport.Envelope, error) {
	d, err := transport.Decode[inventory.ReservationData](e)
	if err != nil {
		return nil, err
	}
	var followed []transport.Envelope
	switch e.Type {
	case inventory.EventPaying:
		followed, err = s.charge(ctx, d)
	case inventory.EventPaymentRefused:
		_, err = s.advance(ctx, d.Payment, []payment.State{payment.Requested}, payment.Refused, d.Reason, "")
	case inventory.EventLatePayment:
		followed, err = s.late(ctx, d, e.TraceParent)
	default:
		return nil, transport.Permanent(fmt.Errorf("engine: payment does not handle %q", e.Type))
	}
	if err != nil {
		err = fmt.Errorf("engine: %s for payment %s: %w", e.Type, d.Payment, err)
	}
	return followed, err
}

func (s *Payments) late(ctx context.Context, d inventory.ReservationData, trace string) ([]transport.Envelope, error) {
	p, err := s.store.Find(ctx, d.Payment)
	if err != nil {
		return nil, err
	}
	s.log.WarnContext(ctx, "captured for a hold that is gone; refunding", "payment", p.ID, "order", p.Order, "trace", trace)
	return s.refund(ctx, p)
}

// charge asks the provider, with the payment's id as its key: repeating the step charges once.
func (s *Payments) charge(ctx context.Context, d inventory.ReservationData) ([]transport.Envelope, error) {
	p, err := s.advance(ctx, d.Payment, []payment.State{payment.Requested}, payment.Charging, "", "")
	if err != nil {
		return nil, err
	}
	if p.State != payment.Charging && p.State != payment.Unknown { // done before: say again what followed
		return follow(p), nil
	}
	open := []payment.State{payment.Charging, payment.Unknown}
	due, err := d.Row().Total()
	if err != nil || due != p.Amount { // the ledger's price is the price
		p, err = s.advance(ctx, p.ID, open, payment.Declined, "amount_mismatch", "")
		return follow(p), err
	}
	asking, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	c, err := s.provider.Charge(asking, p.ID, p.Amount, p.Method)
	return s.record(ctx, p, c, err)
}

// record writes down what the provider said. Silence is not an answer: the payment stays unknown,
// the hold stays bound, and the prober asks again.
func (s *Payments) record(ctx context.Context, p payment.Payment, c payment.Charge, said error) ([]transport.Envelope, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second) // the money has moved: write it down
	defer cancel()
	open := []payment.State{payment.Charging, payment.Unknown}
	var err error
	switch {
	case said == nil, errors.Is(said, payment.ErrCaptured):
		p, err = s.advance(ctx, p.ID, open, payment.Captured, "", c.Ref)
	case errors.Is(said, payment.ErrDeclined):
		p, err = s.advance(ctx, p.ID, open, payment.Declined, c.Reason, c.Ref)
	default:
		s.log.WarnContext(ctx, "payment unknown; the prober asks again", "payment", p.ID, "order", p.Order, "error", said)
		p, err = s.advance(ctx, p.ID, []payment.State{payment.Charging}, payment.Unknown, "", "")
	}
	if err != nil {
		return nil, err
	}
	return follow(p), nil
}

// advance makes a step, or returns the payment as it is when another has made one: the state
// machine decides who was first.
func (s *Payments) advance(ctx context.Context, pid id.ID, from []payment.State, to payment.State, reason, ref string) (payment.Payment, error) {
	p, err := s.store.Advance(ctx, payment.Step{Payment: pid, From: from, To: to, Reason: reason, ProviderRef: ref})
	if err == nil && to != payment.Charging && (from[0] == payment.Requested || from[0] == payment.Charging) {
		s.load.now.Add(-1)
	}
	if errors.Is(err, payment.ErrIllegalMove) {
		return p, nil
	}
	return p, err
}

// follow is what follows from a payment's state; a payment just requested is nobody's news here.
func follow(p payment.Payment) []transport.Envelope {
	if e, ok := payment.Follow(p); ok && p.State != payment.Requested {
		return []transport.Envelope{e}
	}
	return nil
}

// refund moves the money back. It can be repeated at any point.
func (s *Payments) refund(ctx context.Context, p payment.Payment) ([]transport.Envelope, error) {
	p, err := s.advance(ctx, p.ID, []payment.State{payment.Captured}, payment.Refunding, "", "")
	if err != nil || p.State != payment.Refunding {
		return follow(p), err
	}
	asking, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	if _, err := s.provider.Refund(asking, p.ID); err != nil {
		return nil, fmt.Errorf("engine: refund of %s: %w", p.ID, err)
	}
	p, err = s.advance(context.WithoutCancel(ctx), p.ID, []payment.State{payment.Refunding}, payment.Refunded, "", "")
	return follow(p), err
}

const probeBatch = 100

// Probe asks the provider about payments that have had no outcome for longer than age, and returns
// what follows. A charge that the provider does not have is voided first, so that it cannot be
// captured after the hold went back.
func (s *Payments) Probe(ctx context.Context, age time.Duration) ([]transport.Envelope, error) {
	stuck, err := s.store.Stuck(ctx, []payment.State{payment.Requested, payment.Charging, payment.Unknown, payment.Refunding}, age, probeBatch)
	if err != nil {
		return nil, err
	}
	var events []transport.Envelope
	var failed error
	for _, p := range stuck {
		es, err := s.probe(ctx, p)
		if err != nil {
			failed = err // the others still get their turn
			continue
		}
		events = append(events, es...)
	}
	return events, failed
}

func (s *Payments) probe(ctx context.Context, p payment.Payment) ([]transport.Envelope, error) {
	switch p.State {
	case payment.Requested: // nobody has moved the hold: say it again, whatever became of the message
		e, _ := payment.Follow(p)
		return []transport.Envelope{e}, nil
	case payment.Refunding:
		return s.refund(ctx, p)
	}
	asking, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	c, err := s.provider.Lookup(asking, p.ID)
	switch {
	case err == nil && c.Captured:
		return s.record(ctx, p, c, nil)
	case err == nil:
		return s.record(ctx, p, c, payment.ErrDeclined)
	case !errors.Is(err, payment.ErrNoCharge):
		return nil, err
	}
	c, err = s.provider.Void(asking, p.ID)
	switch {
	case err == nil:
		c.Reason = "no_answer"
		return s.record(ctx, p, c, payment.ErrDeclined)
	case errors.Is(err, payment.ErrCaptured):
		return s.record(ctx, p, c, nil)
	}
	return nil, err
}

// Prober runs Probe each interval until ctx ends.
func (s *Payments) Prober(ctx context.Context, interval, age time.Duration) error {
	return every(ctx, s.log, interval, "prober", func(ctx context.Context) error {
		events, err := s.Probe(ctx, age)
		s.flow.Follow(ctx, transport.Payment, events)
		return err
	})
}
