package enginesim

import (
	"context"
	"errors"
	"flashsale/engine"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/payment"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"sync"
)

// variant is a way to build the engine wrongly: a contract that does not keep its word, at the
// place where the popular mistake would be. The zero variant is the engine as it is.
type variant struct {
	name     string
	flaws    gateFlaws
	gate     func(*process, engine.GateKeeper) engine.GateKeeper
	ledger   func(*process, books) books
	payments func(*process, payment.Store) payment.Store
	sender   func(*process, transport.Sender) transport.Sender
}

// variants lists the popular mistakes. Each of them must be caught.
func variants() []variant {
	return []variant{
		{name: "acknowledged after the take, before the commit", sender: func(p *process, next transport.Sender) transport.Sender { return hasty{next, p} }},
		{name: "plain DECR: no epoch, no pending record", gate: func(p *process, next engine.GateKeeper) engine.GateKeeper {
			return &plainDecr{GateKeeper: next, p: p, drawn: map[id.ID]int{}}
		}},
		{
			name:   "credits are fired and forgotten",
			gate:   func(p *process, next engine.GateKeeper) engine.GateKeeper { return forgetfulGate{next, p} },
			ledger: func(p *process, next books) books { return forgetfulBooks{next, p} },
		},
		{name: "a reaper by timeout, without tombstones", ledger: func(p *process, next books) books { return impatient{next, p} }},
		{name: "a take script that is not safe to run twice", flaws: gateFlaws{repeatTakes: true}},
		{name: "payments without compare-and-set", payments: func(_ *process, next payment.Store) payment.Store { return careless{next} }},
		{name: "a permanent local sold-out flag", gate: func(_ *process, next engine.GateKeeper) engine.GateKeeper {
			return &resigned{GateKeeper: next, dry: map[inventory.BucketID]bool{}}
		}},
		{name: "a restarted shard is trusted with its snapshot", flaws: gateFlaws{anyRun: true}},
		{name: "credits without numbers", flaws: gateFlaws{anySeq: true}},
		{name: "who gives up gives back, whoever else may be deciding", gate: func(_ *process, next engine.GateKeeper) engine.GateKeeper { return rash{next} }},
	}
}

// hasty says "held" as soon as the gate has given units, and hands the claim over afterwards.
type hasty struct {
	transport.Sender
	p *process
}

func (h hasty) Send(ctx context.Context, to transport.Service, e transport.Envelope) (transport.Receipt, error) {
	if e.Type != inventory.EventRequested {
		return h.Sender.Send(ctx, to, e)
	}
	d, err := transport.Decode[inventory.ClaimData](e)
	if err != nil {
		return transport.Receipt{}, err
	}
	r := d.Claim("").Request
	row := reservation.Reservation{ID: r.ID(), User: r.User, Sale: r.Sale, SKU: r.SKU, Quantity: r.Quantity, State: reservation.Held, CreatedAt: e.Time}
	go func() { _, _ = h.Sender.Send(h.p.w.as(h.p.ctx, who(ctx).name), to, e) }()
	return transport.Receipt{Decided: true, Events: []transport.Envelope{inventory.Held(row, "")}}, nil
}

// plainDecr counts with DECR and INCR. A counter that is missing is loaded from the ledger by
// whoever comes first; only the process that took units knows that it did.
type plainDecr struct {
	engine.GateKeeper
	p     *process
	mu    sync.Mutex
	drawn map[id.ID]int
}

// load returns the counter of a bucket. It runs in the scheduler's steps.
func (g *plainDecr) load(b inventory.BucketID) (*counter, error) {
	w := g.p.w
	s, row := w.gate.shards[b.Shard], w.ledger.buckets[b]
	if s.away {
		return nil, inventory.ErrUnavailable
	}
	if s.buckets[b] == nil {
		s.buckets[b] = &counter{available: row.Available(), seq: row.CreditSeq, pending: map[id.ID]inventory.Pending{}, handed: map[id.ID]bool{}, users: map[id.ID]int{}}
	}
	c := s.buckets[b]
	c.run, c.epoch = s.run, row.Epoch
	return c, nil
}

func (g *plainDecr) Take(ctx context.Context, t inventory.Take) (inventory.Taken, error) {
	taken, err := do(ctx, g.p.w, g.p, fmt.Sprintf("gate.decr %d of shard %d", t.Qty, t.Bucket.Shard), gateSilence, func() (inventory.Taken, error) {
		c, err := g.load(t.Bucket)
		if err != nil {
			return inventory.Taken{}, err
		}
		if c.available < int64(t.Qty) {
			return inventory.Taken{Available: c.available}, inventory.ErrShort
		}
		c.available -= int64(t.Qty)
		return inventory.Taken{Available: c.available}, nil
	})
	if err == nil {
		g.mu.Lock()
		g.drawn[t.ID] = t.Qty
		g.mu.Unlock()
	}
	return taken, err
}

func (g *plainDecr) Settle(context.Context, []inventory.TakeRef) error { return nil }

func (g *plainDecr) Abort(ctx context.Context, takes []inventory.TakeRef) error {
	for _, t := range takes {
		g.mu.Lock()
		qty := g.drawn[t.ID]
		delete(g.drawn, t.ID)
		g.mu.Unlock()
		if qty == 0 {
			continue
		}
		_, err := do(ctx, g.p.w, g.p, fmt.Sprintf("gate.incr %d of shard %d", qty, t.Bucket.Shard), gateSilence, func() (struct{}, error) {
			c, err := g.load(t.Bucket)
			if err == nil {
				c.available += int64(qty)
			}
			return struct{}{}, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (g *plainDecr) Withdraw(ctx context.Context, takes []inventory.TakeRef) (bool, error) {
	err := g.Abort(ctx, takes)
	return err == nil, err
}

func (g *plainDecr) Levels(ctx context.Context, buckets []inventory.BucketID) ([]inventory.Level, error) {
	return do(ctx, g.p.w, g.p, "gate.get", gateSilence, func() ([]inventory.Level, error) {
		out := make([]inventory.Level, len(buckets))
		for i, b := range buckets {
			if c, err := g.load(b); err != nil {
				out[i].Away = true
			} else {
				out[i] = inventory.Level{Epoch: c.epoch, Available: c.available, Seq: c.seq}
			}
		}
		return out, nil
	})
}

// forgetfulBooks hands every credit out once; forgetfulGate adds whatever it gets. What is lost in
// between is lost.
type forgetfulBooks struct {
	books
	p *process
}

func (l forgetfulBooks) Credits(ctx context.Context, b inventory.BucketID, after int64, limit int) ([]inventory.Credit, error) {
	w := l.p.w
	return do(ctx, w, l.p, fmt.Sprintf("ledger.credits %d, once", b.Shard), storeSilence, func() ([]inventory.Credit, error) {
		credits, err := w.ledger.Credits(ctx, b, after, limit)
		if c := w.gate.find(b); c != nil && len(credits) > 0 {
			c.seq = credits[len(credits)-1].Seq
		}
		return credits, err
	})
}

type forgetfulGate struct {
	engine.GateKeeper
	p *process
}

func (g forgetfulGate) Credit(ctx context.Context, b inventory.BucketID, epoch int64, credits []inventory.Credit) (int64, error) {
	w := g.p.w
	return do(ctx, w, g.p, fmt.Sprintf("gate.incr shard %d", b.Shard), gateSilence, func() (int64, error) {
		c, err := w.gate.open(b, epoch)
		if w.gate.shards[b.Shard].away {
			err = inventory.ErrUnavailable
		}
		if err != nil {
			return 0, err
		}
		for _, v := range credits {
			c.back(v.User, v.Qty)
		}
		return credits[len(credits)-1].Seq, nil
	})
}

// impatient takes a take that the ledger does not have for one that it will never have.
type impatient struct {
	books
	p *process
}

func (l impatient) Tombstone(ctx context.Context, takes []inventory.Pending) ([]inventory.LegOutcome, error) {
	return do(ctx, l.p.w, l.p, "ledger.lookup", storeSilence, func() ([]inventory.LegOutcome, error) {
		out := make([]inventory.LegOutcome, len(takes))
		for i, t := range takes {
			if out[i] = l.p.w.ledger.legs[t.ID].outcome; out[i] == "" {
				out[i] = inventory.Aborted
			}
		}
		return out, nil
	})
}

// careless moves a payment wherever it is told, whatever has become of it.
type careless struct{ payment.Store }

func (s careless) Advance(ctx context.Context, step payment.Step) (payment.Payment, error) {
	step.From = []payment.State{
		payment.Requested, payment.Charging, payment.Unknown, payment.Captured,
		payment.Declined, payment.Refused, payment.Refunding, payment.Refunded,
	}
	return s.Store.Advance(ctx, step)
}

// rash takes every take back that it has made, and believes that this undoes it.
type rash struct{ engine.GateKeeper }

func (g rash) Withdraw(ctx context.Context, takes []inventory.TakeRef) (bool, error) {
	err := g.Abort(ctx, takes)
	return err == nil, err
}

// resigned does not ask a bucket again that it has once seen empty.
type resigned struct {
	engine.GateKeeper
	mu  sync.Mutex
	dry map[inventory.BucketID]bool
}

func (g *resigned) Take(ctx context.Context, t inventory.Take) (inventory.Taken, error) {
	g.mu.Lock()
	dry := g.dry[t.Bucket]
	g.mu.Unlock()
	if dry {
		return inventory.Taken{}, inventory.ErrShort
	}
	taken, err := g.GateKeeper.Take(ctx, t)
	if errors.Is(err, inventory.ErrShort) && taken.Available == 0 {
		g.mu.Lock()
		g.dry[t.Bucket] = true
		g.mu.Unlock()
	}
	return taken, err
}
