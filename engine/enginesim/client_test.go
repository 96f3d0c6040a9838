package enginesim

import (
	"context"
	"encoding/json"
	"errors"
	"flashsale/catalog"
	"flashsale/engine"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/payment"
	"flashsale/payment/simprovider"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"math/rand/v2"
	"time"
)

// client is somebody outside, with what they were told. Everything written here is an answer that
// reached them.
type client struct {
	w      *world
	name   string
	rng    *rand.Rand
	ctx    context.Context
	cancel context.CancelFunc
	gone   bool

	req       reservation.Request
	accepted  bool // "stored, will be decided"
	unsure    bool // some answer did not say for certain that nothing was reserved
	held      bool
	paid      id.ID // the payment that they were told is captured
	cancelled bool
	refunded  bool  // an operator was asked to give the money back
	refusal   error // the last one
	added     int64 // units an operator put on sale
}

// errPatience is when a client hangs up.
var errPatience = errors.New("sim: the client hung up")

// come starts a client.
func (w *world) come(name string, req reservation.Request, live func(*client)) *client {
	c := &client{w: w, name: name, req: req, rng: rand.New(rand.NewPCG(w.seed, uint64(len(w.clients)+2)))}
	c.ctx, c.cancel = context.WithCancel(w.as(context.Background(), name))
	w.clients = append(w.clients, c)
	go func() {
		live(c)
		w.end(name, func() { c.gone = true })
	}()
	return c
}

// request sends a request to a process and waits for the answer. The request can be lost on its
// way, and so can the answer. A nil process is any that is up.
func request[T any](c *client, to *process, what string, f func(context.Context, *process) (T, error)) (T, error) {
	w := c.w
	var none T
	silent := func(bool) error { return errLost }
	sent := 0
	k, err := do(c.ctx, w, nil, what, silent, func() (*work[T], error) {
		sent++
		c.unsure = c.unsure || sent > 1 // an answer is that of one of them
		in := to
		if in == nil {
			var err error
			if in, err = w.some(); err != nil {
				return nil, err
			}
		}
		ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
		w.messages++ // a request that comes twice is two of them
		k := start(w, in, fmt.Sprintf("%s.%d", c.name, w.messages), ctx, func(ctx context.Context) (T, error) { return f(ctx, in) })
		go func() { <-k.done; cancel() }()
		return k, nil
	})
	if err != nil {
		return none, err
	}
	patience, cancel := context.WithTimeout(c.ctx, 12*time.Second)
	defer cancel()
	out, err := k.wait(patience)
	if patience.Err() != nil || errors.Is(err, errLost) {
		return none, errPatience
	}
	// The answer's way back.
	return do(c.ctx, w, nil, what+" answered", silent, func() (T, error) { return out, err })
}

// final reports whether an answer to a reservation is a decision against it.
func final(err error) bool {
	for _, e := range []error{
		reservation.ErrSoldOut, reservation.ErrHeldOut, reservation.ErrLimitReached, reservation.ErrSaleNotOpen,
		reservation.ErrUnknownItem, reservation.ErrQuantity, reservation.ErrKeyReused,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// open lets the crowd come, and sometimes an operator with more stock.
func (w *world) open() {
	for n := range w.weather.shoppers {
		name := fmt.Sprintf("c%d", n)
		req := reservation.Request{ // some share an account, so that limits matter
			User: id.Derive("user", fmt.Sprint(w.rng.IntN(w.weather.shoppers))), Key: name,
			Sale: w.item.Sale, SKU: w.item.SKU, Quantity: 1 + w.rng.IntN(3),
		}
		if limit := w.weather.limit; limit > 0 {
			req.Quantity = min(req.Quantity, limit)
		}
		w.come(name, req, (*client).shop)
	}
	if w.rng.IntN(2) == 0 {
		w.come("operator", reservation.Request{}, (*client).restock)
	}
}

func (c *client) pause(most time.Duration) {
	_ = sleep(c.ctx, time.Duration(c.rng.Int64N(int64(most))))
}

// shop is a shopper's visit.
func (c *client) shop() {
	c.pause(8 * time.Second)
	for range 8 {
		if c.reserve(nil) || c.refusal != nil {
			break
		}
		c.pause(2 * time.Second)
	}
	if !c.held {
		return
	}
	c.pause(3 * time.Second)
	switch n := c.rng.IntN(100); {
	case n < 55:
		c.pay("pay", fmt.Sprint("tok_", c.name), 8)
		if !c.paid.IsZero() && c.rng.IntN(4) == 0 {
			c.pause(5 * time.Second)
			c.refund()
		}
	case n < 65: // two tabs: two payments of one order
		c.pay("tab one", simprovider.MethodOK, 1)
		c.pay("tab two", simprovider.MethodOK, 8)
	case n < 80:
		c.cancelHold()
	}
}

// reserve asks once, and follows an accepted request until it is decided. It reports whether the
// shopper knows that the units are theirs.
func (c *client) reserve(to *process) bool {
	from, since := c.w.now()
	out, err := request(c, to, "reserve", func(ctx context.Context, p *process) (engine.Outcome, error) {
		if p.reservations.Come(-1).Away {
			return engine.Outcome{}, reservation.ErrOverloaded
		}
		return p.reservations.Reserve(ctx, c.req, "")
	})
	switch {
	case err == nil && out.Decided:
		c.held = c.held || out.Reservation.State != reservation.Refused
		c.accepted = true
		return c.held
	case err == nil:
		c.accepted = true
		return c.follow()
	case final(err):
		c.refuse(err, from, since)
	case errors.Is(err, reservation.ErrOverloaded):
		c.w.end("a no to "+c.name, c.nothing)
	default:
		c.unsure = c.unsure || !errors.Is(err, reservation.ErrInFlight)
	}
	return false
}

// nothing holds "nothing was reserved" against the books: neither is there a row, nor anything that could still make one.
func (c *client) nothing() {
	w, rid := c.w, c.req.ID()
	if c.unsure || c.accepted {
		return // of an earlier request
	}
	if row := w.ledger.reservations[rid]; row != nil && row.State != reservation.Refused {
		w.fail("%s's %s was told that nothing is reserved, and it is %s", c.name, short(rid), row.State)
	}
	for _, s := range w.gate.shards {
		for _, b := range s.buckets {
			for _, p := range b.pending {
				var note struct {
					Key string `json:"k"`
				}
				if b.run == s.run && json.Unmarshal([]byte(p.Note), &note) == nil && p.User == c.req.User && note.Key == c.req.Key {
					w.fail("%s's %s was told that nothing is reserved, and a take of it is at the gate", c.name, short(rid))
				}
			}
		}
	}
	for _, m := range w.queue {
		if m.envelope.Subject == rid && m.envelope.Type == inventory.EventRequested {
			w.fail("%s's %s was told that nothing is reserved, and is in the queue", c.name, short(rid))
		}
	}
}

// refuse notes a decision against the shopper and has it held against the books.
func (c *client) refuse(err error, from int, since time.Time) {
	c.refusal = err
	c.w.end("refusal of "+c.name, func() { c.w.justified(c.req, err, from, since) })
}

// follow polls a request that was accepted.
func (c *client) follow() bool {
	for range 40 {
		c.pause(2 * time.Second)
		r, err := request(c, nil, "status", func(ctx context.Context, p *process) (reservation.Reservation, error) {
			return p.reservations.Status(ctx, c.req.User, c.req.ID())
		})
		switch {
		case err != nil || r.State == reservation.Requested:
		case r.State == reservation.Refused:
			c.refusal = reservation.Refusal(r.Reason)
			return false
		default:
			c.held = true
			return true
		}
	}
	return false
}

// pay pays with a key until the shopper knows how it ended.
func (c *client) pay(key, method string, tries int) {
	for range tries {
		p, err := request(c, nil, key, func(ctx context.Context, p *process) (engine.Payment, error) {
			return p.payments.Pay(ctx, c.req.User, c.req.ID(), key, method, "")
		})
		switch {
		case err == nil && p.Decided && (p.Payment.State == payment.Captured):
			c.paid = p.Payment.ID
			return
		case err == nil && p.Decided, errors.Is(err, reservation.ErrExpired), errors.Is(err, reservation.ErrIllegalMove):
			return
		}
		c.pause(3 * time.Second)
	}
}

func (c *client) cancelHold() {
	for range 5 {
		out, err := request(c, nil, "cancel", func(ctx context.Context, p *process) (engine.Outcome, error) {
			return p.reservations.Cancel(ctx, c.req.User, c.req.ID(), "")
		})
		if err == nil && out.Decided && out.Reservation.State == reservation.Cancelled {
			c.cancelled = true
			return
		}
		c.pause(2 * time.Second)
	}
}

func (c *client) refund() {
	c.refunded = true
	for range 5 {
		_, err := request(c, nil, "refund", func(ctx context.Context, p *process) (engine.Payment, error) {
			return p.payments.Refund(ctx, c.req.ID(), "")
		})
		if err == nil {
			return
		}
		c.pause(2 * time.Second)
	}
}

// restock adds stock and says so until it was heard, as the catalogue's outbox does.
func (c *client) restock() {
	c.pause(10 * time.Second)
	qty := 1 + int64(c.rng.IntN(4))
	e := transport.Repeatable(catalog.EventStockAdded, transport.Catalog, c.w.item.Sale, "more", time.Now(), "", catalog.StockData{
		Addition: id.Derive("addition"), Sale: c.w.item.Sale, SKU: c.w.item.SKU, Quantity: qty,
	})
	for {
		_, err := request(c, nil, "add stock", func(ctx context.Context, p *process) (transport.Receipt, error) { return p.flow.Dispatch(ctx, e) })
		if err == nil {
			c.added = qty
			return
		}
		if c.ctx.Err() != nil {
			return
		}
		c.pause(2 * time.Second)
	}
}

// now is the step and the time, for somebody who looks back later.
func (w *world) now() (int, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.step, time.Now()
}

// sellThrough buys what is left, one unit at a time and by all processes in turn, until each of
// them says that the sale is sold out.
func (w *world) sellThrough() {
	w.note("SELL-THROUGH")
	said := map[*process]bool{}
	waits := 0
	for n := 0; len(said) < len(w.procs) && w.err == nil; n++ {
		p := w.procs[n%len(w.procs)]
		if said[p] {
			continue
		}
		name := fmt.Sprintf("last%d", n)
		req := reservation.Request{User: id.Derive("last", name), Key: "k", Sale: w.item.Sale, SKU: w.item.SKU, Quantity: 1}
		c := w.come(name, req, func(c *client) {
			for range 10 {
				if c.reserve(p) || c.refusal != nil {
					break
				}
				_ = sleep(c.ctx, time.Second)
			}
			if c.held {
				c.pay("pay", simprovider.MethodOK, 60)
			}
		})
		if !w.until("a last shopper comes", func() string {
			if !c.gone {
				return c.name + " is still busy"
			}
			return ""
		}) {
			return
		}
		switch {
		case errors.Is(c.refusal, reservation.ErrSoldOut):
			said[p] = true
		case c.held && !c.paid.IsZero():
		default:
			if waits++; waits > 20 {
				w.fail("stranded: %s sells nothing more, and is not sold out: %v", p.name, c.refusal)
				return
			}
			w.advance()
		}
	}
	w.until("all is sold", w.quiet)
}

// justified holds a refusal against what the books had at some time since the request came.
func (w *world) justified(req reservation.Request, refusal error, from int, since time.Time) {
	w.saw("told: " + refusal.Error())
	switch {
	case errors.Is(refusal, reservation.ErrHeldOut):
		if w.couldTake(from, w.step, req.Quantity) {
			w.fail("%s: held out, while the shards always had enough", short(req.ID()))
		}
	case errors.Is(refusal, reservation.ErrSoldOut):
		if !since.IsZero() && !w.wasSoldOut(since.Add(-termsAge-time.Millisecond)) {
			w.fail("%s: sold out, while units were not paid for", short(req.ID()))
		}
	case errors.Is(refusal, reservation.ErrLimitReached):
		asked := 0
		for _, c := range w.clients {
			if c.req.User == req.User {
				asked += c.req.Quantity
			}
		}
		if asked <= w.weather.limit {
			w.fail("%s: over the limit of %d, while the shopper asked for %d in all", short(req.ID()), w.weather.limit, asked)
		}
	default:
		w.fail("%s: refused: %w", short(req.ID()), refusal)
	}
}

// promisedTooMany: the gate never promises what the ledger does not have.
func (w *world) promisedTooMany(d inventory.Decision) {
	if errors.Is(d.Err, inventory.ErrNoUnits) {
		w.fail("the gate has promised units that the ledger does not have")
	}
}
