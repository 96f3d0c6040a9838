package tracing

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/money"
	"flashsale/notification"
	"flashsale/order"
	"flashsale/payment"
	"flashsale/transport"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// group runs one transaction that does the work of many steps. The transaction is a trace of its own,
// linked to its members: it is nobody's child. Each member gets a span of the same time below its own
// step, linked to the transaction when that is kept.
func group[A any](ctx context.Context, t *Tracer, service transport.Service, name string, causes []string, do func(context.Context) ([]A, error), refused func(A) error) ([]A, error) {
	g := t.open(ctx, parentOf{trace: newTraceID()}, service, name, "group", trace.SpanKindInternal)
	steps := make([]*Span, len(causes))
	for i, cause := range causes {
		if steps[i] = t.under(cause); steps[i] != nil && steps[i].rec.sampled {
			g.rec.sampled = true
			g.link(steps[i])
		}
	}
	g.set(attribute.Int("flashsale.group.size", len(causes)))
	answers, err := do(g)
	g.end(failure(err))
	for i, step := range steps {
		var why error
		if err == nil && i < len(answers) {
			why = refused(answers[i])
		}
		if !step.worth(g.ended-g.began, err, why) {
			continue
		}
		m := step.below(ctx, service, name, "", trace.SpanKindInternal)
		if m == nil {
			continue
		}
		m.set(attribute.Int("flashsale.group.size", len(causes)))
		if why != nil {
			m.set(attribute.String("flashsale.refused", why.Error()))
		}
		if g.rec.kept {
			m.link(g)
		}
		m.began = g.began
		m.finish(failure(err), g.ended)
	}
	return answers, err
}

// Ledger returns a ledger whose group commits show in the traces of their members.
func (t *Tracer) Ledger(next inventory.Ledger) inventory.Ledger {
	if t == nil {
		return next
	}
	return ledger{next, t}
}

type ledger struct {
	inventory.Ledger
	t *Tracer
}

// Commit implements inventory.Ledger.
func (l ledger) Commit(ctx context.Context, claims []inventory.Claim) ([]inventory.Decision, error) {
	causes := make([]string, len(claims))
	for i, c := range claims {
		causes[i] = c.TraceParent
	}
	return group(ctx, l.t, transport.Inventory, "Ledger.Commit", causes, func(ctx context.Context) ([]inventory.Decision, error) {
		return l.Ledger.Commit(ctx, claims)
	}, func(d inventory.Decision) error { return d.Err })
}

// Move implements inventory.Ledger.
func (l ledger) Move(ctx context.Context, moves []inventory.Move) ([]inventory.Moved, error) {
	causes := make([]string, len(moves))
	for i, m := range moves {
		causes[i] = m.TraceParent
	}
	return group(ctx, l.t, transport.Inventory, "Ledger.Move", causes, func(ctx context.Context) ([]inventory.Moved, error) {
		return l.Ledger.Move(ctx, moves)
	}, func(m inventory.Moved) error { return m.Err })
}

// Orders returns an order store whose group commits show in the traces of their members.
func (t *Tracer) Orders(next order.Store) order.Store {
	if t == nil {
		return next
	}
	return orders{next, t}
}

type orders struct {
	order.Store
	t *Tracer
}

// Apply implements order.Store.
func (o orders) Apply(ctx context.Context, changes []order.Change) ([]order.Changed, error) {
	causes := make([]string, len(changes))
	for i, c := range changes {
		causes[i] = c.TraceParent
	}
	return group(ctx, o.t, transport.Order, "Orders.Apply", causes, func(ctx context.Context) ([]order.Changed, error) {
		return o.Store.Apply(ctx, changes)
	}, func(order.Changed) error { return nil })
}

// Gate returns a gate whose takes show in the traces of their requests.
func (t *Tracer) Gate(next inventory.Gate) inventory.Gate {
	if t == nil {
		return next
	}
	return gate{next}
}

type gate struct{ inventory.Gate }

// Take implements inventory.Gate.
func (g gate) Take(ctx context.Context, take inventory.Take) (inventory.Taken, error) {
	c := calling(ctx)
	taken, err := g.Gate.Take(ctx, take)
	failed, refused := error(nil), err
	if errors.Is(err, inventory.ErrUncertain) || errors.Is(err, inventory.ErrUnavailable) {
		failed, refused = err, nil
	}
	c.ended("Gate.Take", failed, refused, attribute.Int("flashsale.shard", take.Bucket.Shard))
	return taken, err
}

// worth reports whether a call below s gets a span: in a trace that was chosen every one, otherwise one
// that failed, was refused, or took a good part of what counts as slow. Most calls are none of it, and
// cost two looks at the clock.
func (s *Span) worth(took time.Duration, failed, refused error) bool {
	if s == nil {
		return false
	}
	slow := s.rec.t.opts.Slow
	return s.rec.sampled || failed != nil || refused != nil || slow > 0 && took >= slow/10
}

// call is a call to a part of the system, below the span of its context. Nothing is below it.
type call struct {
	above *Span
	began time.Duration
}

func calling(ctx context.Context) call {
	s := spanOf(ctx)
	if s == nil {
		return call{}
	}
	return call{s, s.rec.t.now()}
}

// ended makes the call's span, when it is worth one. A refusal is an answer, a failure is none.
func (c call) ended(name string, failed, refused error, attrs ...attribute.KeyValue) {
	if c.above == nil {
		return
	}
	now := c.above.rec.t.now()
	if !c.above.worth(now-c.began, failed, refused) {
		return
	}
	s := c.above.below(c.above, "", name, "", trace.SpanKindClient)
	if s == nil {
		return
	}
	s.began = c.began
	s.set(attrs...)
	if refused != nil {
		s.set(attribute.String("flashsale.refused", refused.Error()))
	}
	s.finish(failure(failed), now)
}

// answered tells a refusal, which is one of these errors, from a failure.
func answered(err error, refusals ...error) (failed, refused error) {
	for _, r := range refusals {
		if errors.Is(err, r) {
			return nil, err
		}
	}
	return err, nil
}

// Payments returns a payment store whose steps show in the traces of their payments.
func (t *Tracer) Payments(next payment.Store) payment.Store {
	if t == nil {
		return next
	}
	return payments{next}
}

type payments struct{ payment.Store }

// Begin implements payment.Store.
func (p payments) Begin(ctx context.Context, v payment.Payment) (payment.Payment, bool, error) {
	c := calling(ctx)
	now, created, err := p.Store.Begin(ctx, v)
	failed, refused := answered(err, payment.ErrKeyReused)
	c.ended("Payments.Begin", failed, refused)
	return now, created, err
}

// Advance implements payment.Store.
func (p payments) Advance(ctx context.Context, step payment.Step) (payment.Payment, error) {
	c := calling(ctx)
	now, err := p.Store.Advance(ctx, step)
	failed, refused := answered(err, payment.ErrIllegalMove)
	c.ended("Payments.Advance", failed, refused, attribute.String("flashsale.state", string(step.To)))
	return now, err
}

// Provider returns a provider whose calls show in the traces of their payments, as those of a peer.
func (t *Tracer) Provider(next payment.Provider) payment.Provider {
	if t == nil {
		return next
	}
	return provider{next}
}

type provider struct{ payment.Provider }

func (p provider) call(ctx context.Context, name string, key id.ID, do func(context.Context) (payment.Charge, error)) (payment.Charge, error) {
	c := calling(ctx)
	charge, err := do(ctx)
	failed, refused := answered(err, payment.ErrDeclined, payment.ErrCaptured, payment.ErrNoCharge)
	c.ended(name, failed, refused, attribute.String("peer.service", "provider"), attribute.String("flashsale.payment", key.String()))
	return charge, err
}

// Charge implements payment.Provider.
func (p provider) Charge(ctx context.Context, key id.ID, amount money.Money, method string) (payment.Charge, error) {
	return p.call(ctx, "Provider.Charge", key, func(ctx context.Context) (payment.Charge, error) {
		return p.Provider.Charge(ctx, key, amount, method)
	})
}

// Refund implements payment.Provider.
func (p provider) Refund(ctx context.Context, key id.ID) (payment.Charge, error) {
	return p.call(ctx, "Provider.Refund", key, func(ctx context.Context) (payment.Charge, error) { return p.Provider.Refund(ctx, key) })
}

// Notifications returns a store of messages whose writes show in the traces of their orders.
func (t *Tracer) Notifications(next notification.Store) notification.Store {
	if t == nil {
		return next
	}
	return messages{next}
}

type messages struct{ notification.Store }

// Add implements notification.Store.
func (m messages) Add(ctx context.Context, v notification.Message) error {
	c := calling(ctx)
	err := m.Store.Add(ctx, v)
	c.ended("Notifications.Add", err, nil, attribute.String("flashsale.kind", v.Kind))
	return err
}
