package engine

import (
	"context"
	"errors"
	"flashsale/audit"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/order"
	"flashsale/payment"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"iter"
	"time"
)

// OwnAudit is a service's part of the audit: what it can check in its own database.
type OwnAudit interface {
	Audit(ctx context.Context) ([]audit.Check, error)
}

// Queues is a transport that stores envelopes, as the audit sees it.
type Queues interface {
	// Depths returns how many envelopes wait, and how many are dead letters.
	Depths(ctx context.Context) (waiting, dead int, err error)
}

// Audit holds what the audit reads. Every part may be nil: what is not given is not checked and
// not reported.
type Audit struct {
	Own       []OwnAudit
	Inventory inventory.Auditor
	Books     inventory.Books
	Gate      inventory.Keeper
	Orders    order.Auditor
	Payments  payment.Auditor
	Provider  payment.Provider
	Outboxes  map[transport.Service]transport.Outbox
	Queues    Queues
	Clock     func() time.Time
}

const settlePoll = 100 * time.Millisecond

// Settle waits until nothing is on its way (outboxes and queues empty, takes concluded, credits
// applied), or until ctx ends. An audit across services is exact only then.
func (a Audit) Settle(ctx context.Context) error {
	for {
		moving, err := a.moving(context.WithoutCancel(ctx)) // the wait ends, not the look
		if err != nil || !moving {
			return err
		}
		select {
		case <-ctx.Done():
			return nil // the audit shows what is still moving
		case <-time.After(settlePoll):
		}
	}
}

func (a Audit) moving(ctx context.Context) (bool, error) {
	for service, box := range a.Outboxes {
		n, _, err := box.Backlog(ctx)
		if err != nil {
			return false, fmt.Errorf("audit: outbox of %s: %w", service, err)
		}
		if n > 0 {
			return true, nil
		}
	}
	if a.Queues != nil {
		waiting, _, err := a.Queues.Depths(ctx)
		if err != nil || waiting > 0 {
			return waiting > 0, err
		}
	}
	if a.Gate == nil || a.Books == nil {
		return false, nil
	}
	rows, levels, err := a.levels(ctx)
	for i := range rows {
		if levels[i].Away { // it moves if the keeper has still to give what it has to the others
			if rows[i].Available() > 0 {
				return true, err
			}
			continue
		}
		if levels[i].Pending > 0 || levels[i].Seq != rows[i].CreditSeq || levels[i].Epoch != rows[i].Epoch {
			return true, err
		}
	}
	return false, err
}

// Run returns every check that can be made with the parts given.
func (a Audit) Run(ctx context.Context) ([]audit.Check, error) {
	var checks []audit.Check
	own := a.Own
	if a.Inventory != nil {
		own = append([]OwnAudit{a.Inventory}, own...)
	}
	for _, part := range own {
		cs, err := part.Audit(ctx)
		if err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		checks = append(checks, cs...)
	}
	for _, part := range []func(context.Context) ([]audit.Check, error){a.across, a.provider, a.outboxes, a.gate, a.queues} {
		cs, err := part(ctx)
		if err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		checks = append(checks, cs...)
	}
	return checks, nil
}

// across walks the statements of inventory, orders and payments side by side, in the order of the
// ids that they share, and needs no more memory than one order's lines.
func (a Audit) across(ctx context.Context) ([]audit.Check, error) {
	if a.Inventory == nil || a.Orders == nil || a.Payments == nil {
		return nil, nil
	}
	holds, endHolds := pull(ctx, a.Inventory.Statement)
	defer endHolds()
	orders, endOrders := pull(ctx, a.Orders.Statement)
	defer endOrders()
	pays, endPays := pull(ctx, a.Payments.Statement)
	defer endPays()

	var t tally
	hold, order, pay := holds(), orders(), pays()
	for hold.ok || order.ok || pay.ok {
		at := least(
			place{hold.v.Reservation, hold.ok}, place{order.v.Order, order.ok}, place{pay.v.Order, pay.ok})
		var one bundle
		if hold.ok && hold.v.Reservation == at {
			one.hold = &hold.v
		}
		if order.ok && order.v.Order == at {
			one.order = &order.v
		}
		for pay.ok && pay.v.Order == at {
			one.pays = append(one.pays, pay.v)
			pay = pays()
		}
		t.add(one)
		if one.hold != nil {
			hold = holds()
		}
		if one.order != nil {
			order = orders()
		}
	}
	if err := errors.Join(hold.err, order.err, pay.err); err != nil {
		return nil, err
	}
	return t.checks(), nil
}

// bundle is everything the services know under one id.
type bundle struct {
	hold  *inventory.Line
	order *order.Line
	pays  []payment.Line
}

type tally struct {
	active, orphanHolds, orphanOrders int
	wrongState                        int
	paid, captured                    int64
	wrongMoney                        int
}

func (t *tally) add(b bundle) {
	if b.hold != nil && b.hold.State != reservation.Refused {
		t.active++
		if b.order == nil {
			t.orphanHolds++
		}
	}
	if b.order != nil && b.hold == nil {
		t.orphanOrders++
	}
	if b.hold != nil && b.order != nil && b.order.State != orderState(b.hold.State) {
		t.wrongState++
	}
	// captured − refunded = the price of what is paid, per reservation.
	var captured, paid int64
	for _, p := range b.pays {
		if p.State == payment.Captured {
			captured += p.Amount.Amount
		}
	}
	if b.hold != nil && b.hold.State == reservation.Paid {
		paid = b.hold.Total.Amount
	}
	if captured != paid {
		t.wrongMoney++
	}
	t.captured += captured
	t.paid += paid
}

func (t *tally) checks() []audit.Check {
	return []audit.Check{
		{
			Equation: 6, Name: "one order per reservation, in the same state",
			Figures: fmt.Sprintf("reservations %d, without an order %d, orders without a reservation %d, states that differ %d",
				t.active, t.orphanHolds, t.orphanOrders, t.wrongState),
			OK: t.orphanHolds == 0 && t.orphanOrders == 0 && t.wrongState == 0,
		},
		{
			Equation: 6, Name: "captured − refunded = price of what is paid",
			Figures: fmt.Sprintf("captured %d, paid %d (minor units), orders that differ %d", t.captured, t.paid, t.wrongMoney),
			OK:      t.wrongMoney == 0,
		},
	}
}

// orderState is the state of the order of a reservation.
func orderState(s reservation.State) order.State {
	switch s {
	case reservation.Paid:
		return order.Confirmed
	case reservation.Refunded:
		return order.Refunded
	case reservation.Held, reservation.Paying:
		return order.Open
	}
	return order.Cancelled
}

type place struct {
	id id.ID
	ok bool
}

func least(places ...place) id.ID {
	var min id.ID
	found := false
	for _, p := range places {
		if p.ok && (!found || string(p.id[:]) < string(min[:])) {
			min, found = p.id, true
		}
	}
	return min
}

type line[T any] struct {
	v   T
	ok  bool
	err error
}

// pull turns a statement that calls back into one that is asked line by line.
func pull[T any](ctx context.Context, statement func(context.Context, func(T) error) error) (next func() line[T], end func()) {
	stop := errors.New("stop")
	seq := iter.Seq[line[T]](func(yield func(line[T]) bool) {
		err := statement(ctx, func(v T) error {
			if !yield(line[T]{v: v, ok: true}) {
				return stop
			}
			return nil
		})
		if err != nil && !errors.Is(err, stop) {
			yield(line[T]{err: err})
		}
	})
	n, end := iter.Pull(seq)
	return func() line[T] {
		l, _ := n()
		return l
	}, end
}

// provider compares our captured payments with the provider's own statement.
func (a Audit) provider(ctx context.Context) ([]audit.Check, error) {
	if a.Provider == nil || a.Payments == nil {
		return nil, nil
	}
	type standing struct{ ours, theirs int64 }
	open := map[id.ID]standing{}
	err := a.Payments.Statement(ctx, func(l payment.Line) error {
		if l.State == payment.Captured || l.State == payment.Refunding {
			open[l.Payment] = standing{ours: l.Amount.Amount}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = a.Provider.Statement(ctx, func(c payment.Charge) error {
		if c.Captured && !c.Refunded {
			s := open[c.Key]
			s.theirs += c.Amount.Amount
			open[c.Key] = s
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var ours, theirs int64
	differ := 0
	for _, s := range open {
		ours += s.ours
		theirs += s.theirs
		if s.ours != s.theirs {
			differ++
		}
	}
	return []audit.Check{{
		Equation: 6, Name: "provider statement = payments",
		Figures: fmt.Sprintf("ours %d, the provider's %d (minor units), charges that differ %d", ours, theirs, differ), OK: differ == 0,
	}}, nil
}

const outboxBound = time.Minute

func (a Audit) outboxes(ctx context.Context) ([]audit.Check, error) {
	if len(a.Outboxes) == 0 {
		return nil, nil
	}
	total, oldest := 0, time.Duration(0)
	for _, box := range a.Outboxes {
		n, age, err := box.Backlog(ctx)
		if err != nil {
			return nil, err
		}
		total += n
		oldest = max(oldest, age)
	}
	return []audit.Check{{
		Equation: 7, Name: "nothing unsent in an outbox for long",
		Figures: fmt.Sprintf("outboxes %d, unsent %d, oldest %s of at most %s", len(a.Outboxes), total, oldest.Round(time.Millisecond), outboxBound),
		OK:      oldest <= outboxBound,
	}}, nil
}

func (a Audit) levels(ctx context.Context) ([]inventory.Bucket, []inventory.Level, error) {
	rows, err := a.Books.Buckets(ctx, nil)
	if err != nil {
		return nil, nil, err
	}
	ids := make([]inventory.BucketID, len(rows))
	for i, r := range rows {
		ids[i] = r.ID
	}
	levels, err := a.Gate.Levels(ctx, ids)
	return rows, levels, err
}

func (a Audit) gate(ctx context.Context) ([]audit.Check, error) {
	if a.Gate == nil || a.Books == nil {
		return nil, nil
	}
	rows, levels, err := a.levels(ctx)
	if err != nil {
		return nil, err
	}
	var epochs, differ, away int
	var available, pending, free, unapplied int64
	for i, row := range rows {
		l := levels[i]
		if l.Away {
			away++
			if row.Available() > 0 {
				differ++ // nobody can buy what is there
			}
			continue
		}
		if l.Epoch != row.Epoch {
			epochs++
			continue
		}
		var late int64
		if l.Seq < row.CreditSeq {
			credits, err := a.Books.Credits(ctx, row.ID, l.Seq, int(row.CreditSeq-l.Seq))
			if err != nil {
				return nil, err
			}
			for _, c := range credits {
				late += c.Qty
			}
		}
		available += l.Available
		pending += l.Pending
		free += row.Available()
		unapplied += late
		if l.Available+l.Pending != row.Available()-late {
			differ++
		}
	}
	return []audit.Check{{
		Equation: 8, Name: "gate: epochs equal; available + pending = granted − held − sold − unapplied credits",
		Figures: fmt.Sprintf("buckets %d, of another epoch %d, on shards away %d, available %d, pending %d, ledger %d, unapplied %d, buckets that differ %d",
			len(rows), epochs, away, available, pending, free, unapplied, differ),
		OK: epochs == 0 && differ == 0,
	}}, nil
}

func (a Audit) queues(ctx context.Context) ([]audit.Check, error) {
	if a.Queues == nil {
		return nil, nil
	}
	waiting, dead, err := a.Queues.Depths(ctx)
	if err != nil {
		return nil, err
	}
	return []audit.Check{{
		Equation: 9, Name: "queues drained, no dead letters",
		Figures: fmt.Sprintf("waiting %d, dead letters %d", waiting, dead), OK: waiting == 0 && dead == 0,
	}}, nil
}

// Standing is where the units of a sale are.
type Standing struct {
	Total, Held, Sold int64 // by the ledger
	Available         int64 // by the gate
}

// SettleSale waits until no unit of the sale is held and nothing is on its way, or until ctx ends,
// and returns where the units are.
func (a Audit) SettleSale(ctx context.Context, sales SaleReader, sale id.ID) (Standing, error) {
	for {
		last := context.WithoutCancel(ctx)
		now, err := a.standing(last, sales, sale)
		if err != nil {
			return now, err
		}
		moving, err := a.moving(last)
		if err != nil || now.Held == 0 && !moving {
			return now, err
		}
		select {
		case <-ctx.Done():
			return now, nil // the audit shows what is still moving
		case <-time.After(settlePoll):
		}
	}
}

func (a Audit) standing(ctx context.Context, sales SaleReader, sale id.ID) (Standing, error) {
	var s Standing
	terms, err := sales.Sale(ctx, sale)
	if err != nil {
		return s, err
	}
	var ids []inventory.BucketID
	for _, item := range terms.Items {
		held, sold := item.Sum()
		s.Total += item.Total
		s.Held += held
		s.Sold += sold
		for _, b := range item.Buckets {
			ids = append(ids, b.ID)
		}
	}
	levels, err := a.Gate.Levels(ctx, ids)
	for _, l := range levels {
		s.Available += l.Available
	}
	return s, err
}
