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

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// group runs one transaction that does the work of many steps. The transaction is a trace of its own,
// linked to its members: it is nobody's child. Each member gets a span of the same time below its own
// step, linked to the transaction when that is kept.
func group[A any](ctx context.Context, t *Tracer, service transport.Service, name string, causes []string, do func(context.Context) ([]A, error), refused func(A) error) ([]A, error) {
	g := t.open(ctx, parentOf{trace: newTraceID()}, service, name, "group", trace.SpanKindInternal)
	members := make([]*Span, len(causes))
	sampled := false
	for i, cause := range causes {
		step := t.under(cause)
		if members[i] = step.below(ctx, service, name, "", trace.SpanKindInternal); members[i] == nil {
			continue
		}
		if step.rec.sampled {
			sampled = true
			g.link(step)
		}
	}
	g.rec.sampled = sampled
	g.set(attribute.Int("flashsale.group.size", len(causes)))
	answers, err := do(g)
	g.end(failure(err))
	for i, m := range members {
		if m == nil {
			continue
		}
		m.set(attribute.Int("flashsale.group.size", len(causes)))
		if err == nil && i < len(answers) {
			if why := refused(answers[i]); why != nil {
				m.set(attribute.String("flashsale.refused", why.Error()))
			}
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
	ctx, s := part(ctx, "Gate.Take", "")
	taken, err := g.Gate.Take(ctx, take)
	s.set(attribute.Int("flashsale.shard", take.Bucket.Shard))
	switch {
	case errors.Is(err, inventory.ErrUncertain), errors.Is(err, inventory.ErrUnavailable):
		s.end(failure(err))
	default: // a refusal is an answer
		s.said(err)
	}
	return taken, err
}

// said ends a span whose call was answered, with a refusal perhaps.
func (s *Span) said(refusal error) {
	if refusal != nil {
		s.set(attribute.String("flashsale.refused", refusal.Error()))
	}
	s.end("")
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
	ctx, s := part(ctx, "Payments.Begin", "")
	now, created, err := p.Store.Begin(ctx, v)
	if errors.Is(err, payment.ErrKeyReused) {
		s.said(err)
	} else {
		s.end(failure(err))
	}
	return now, created, err
}

// Advance implements payment.Store.
func (p payments) Advance(ctx context.Context, step payment.Step) (payment.Payment, error) {
	ctx, s := part(ctx, "Payments.Advance", "")
	s.set(attribute.String("flashsale.state", string(step.To)))
	now, err := p.Store.Advance(ctx, step)
	if errors.Is(err, payment.ErrIllegalMove) {
		s.said(err)
	} else {
		s.end(failure(err))
	}
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
	ctx, s := part(ctx, name, "")
	s.set(attribute.String("peer.service", "provider"), attribute.String("flashsale.payment", key.String()))
	c, err := do(ctx)
	switch {
	case errors.Is(err, payment.ErrDeclined), errors.Is(err, payment.ErrCaptured), errors.Is(err, payment.ErrNoCharge):
		s.said(err)
	default:
		s.end(failure(err))
	}
	return c, err
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
	ctx, s := part(ctx, "Notifications.Add", "")
	s.set(attribute.String("flashsale.kind", v.Kind))
	err := m.Store.Add(ctx, v)
	s.end(failure(err))
	return err
}
