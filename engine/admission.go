package engine

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/money"
	"flashsale/reservation"
	"log/slog"
	"sync"
	"time"
)

// SaleReader reads a sale from the ledger: directly, or by asking the inventory service.
type SaleReader interface {
	Sale(ctx context.Context, sale id.ID) (inventory.Sale, error)
}

// Admission draws units from the gate for requests: validated against the sale's terms, from the
// shopper's home shard first, then from the others, and over several shards when it must be.
type Admission struct {
	gate    inventory.Gate
	sales   *saleCache
	clock   func() time.Time
	wait    func(context.Context, time.Duration) error
	pending time.Duration
	log     *slog.Logger
}

// NewAdmission returns an Admission. wait sleeps, or returns the context's error; pending is how long
// a take may stay undecided before the reaper asks the ledger about it; fresh is how old the sale's
// terms may be.
func NewAdmission(gate inventory.Gate, sales SaleReader, clock func() time.Time, wait func(context.Context, time.Duration) error, pending, fresh time.Duration, log *slog.Logger) *Admission {
	return &Admission{
		gate: gate, sales: newSaleCache(sales, clock, fresh), clock: clock, wait: wait, pending: pending, log: log,
	}
}

// refused is a refusal with what the gate remembers of the shopper.
type refused struct {
	error
	had   int  // units the shopper had already: the request may be a repetition that won
	late  bool // the sale was open, and is not any more
	blind bool // not every bucket could be asked: the shopper may have more
}

func (r refused) Unwrap() error { return r.error }

// instead says another error, with what was known of the shopper; of none who was not asked about.
func instead(err, other error) error {
	known := refused{blind: true}
	_ = errors.As(err, &known)
	known.error = other
	return known
}

// reading says when the terms of a sale were read.
type reading int

const (
	current reading = iota // since they were asked for
	recent                 // a moment ago
	old                    // before that: somebody is reading them again
	unread                 // in better days: the ledger did not answer
)

const admitAttempts = 4

// Admit takes the units of a request at the gate and returns the claim for the ledger. Refusals are the reservation errors, and nothing is taken then.
// ErrOverloaded when gate or ledger cannot be reached. promised says that the shopper may be told
// "accepted" by then: the gate keeps the request beside its takes, and one that is left behind may be decided. ErrUncertain
// when that may be so; astray says so beside a claim.
func (a *Admission) Admit(ctx context.Context, req reservation.Request, trace string, promised bool) (claim inventory.Claim, astray bool, err error) {
	var note string
	if promised {
		note = promiseNote(req, trace)
	}
	claim, astray, err = a.admit(ctx, req, trace, note)
	astray = astray && promised
	if err != nil && astray { // what is known of the shopper goes along: he may be repeating what the ledger has
		err = instead(err, reservation.ErrUncertain)
	}
	return claim, astray, err
}

// admit also says whether a take may be left at the gate, or come to it yet, that is not of the claim.
func (a *Admission) admit(ctx context.Context, req reservation.Request, trace, note string) (_ inventory.Claim, astray bool, _ error) {
	for attempt := 0; ; attempt++ {
		sale, from, err := a.sales.get(ctx, req.Sale, attempt > 0)
		if err != nil {
			if errors.Is(err, inventory.ErrUnknownSale) {
				if from != current && attempt == 0 {
					continue // it may have been announced since
				}
				return inventory.Claim{}, astray, reservation.ErrSaleNotOpen
			}
			a.log.WarnContext(ctx, "the sale cannot be read", "sale", req.Sale, "error", err)
			return inventory.Claim{}, astray, instead(err, reservation.ErrOverloaded)
		}
		item, err := a.check(sale, req)
		if errors.Is(err, reservation.ErrSaleNotOpen) && from != current && attempt == 0 && sale.MayOpenAt(a.clock()) {
			continue // an operator may have opened it since the terms were read
		}
		if err != nil {
			return inventory.Claim{}, astray, err
		}
		legs, stale, err := a.draw(ctx, sale, item, req, from == current || attempt > 0, note, &astray)
		if err == nil {
			return inventory.Claim{Request: req, Legs: legs, TraceParent: trace}, astray, nil
		}
		if from == unread && (errors.Is(err, reservation.ErrHeldOut) || errors.Is(err, reservation.ErrSoldOut)) {
			err = instead(err, reservation.ErrOverloaded) // buckets may have changed since the ledger was read
		}
		stale = stale || from == old && errors.Is(err, reservation.ErrSoldOut) // it is the last word, and there may be more stock since
		// A shard that was fenced, closed or out of reach may have units: no "held out" on hearsay.
		if !stale || attempt+1 == admitAttempts || attempt > 0 && errors.Is(err, reservation.ErrHeldOut) {
			return inventory.Claim{}, astray, err
		}
		if a.wait(ctx, time.Duration(attempt+1)*20*time.Millisecond) != nil {
			return inventory.Claim{}, astray, err
		}
	}
}

// check holds a request against the sale's terms. The ledger checks status, limit and item again.
func (a *Admission) check(sale inventory.Sale, req reservation.Request) (inventory.Item, error) {
	if now := a.clock(); !sale.OpenAt(now) {
		// Once it was open, the request may be the repetition of one that was made then.
		return inventory.Item{}, refused{error: reservation.ErrSaleNotOpen, late: sale.Status != inventory.Scheduled && !now.Before(sale.OpensAt)}
	}
	most := reservation.MaxQuantity
	if sale.Limit > 0 && sale.Limit < most {
		most = sale.Limit
	}
	for _, item := range sale.Items {
		if item.SKU != req.SKU {
			continue
		}
		if req.Quantity < 1 || req.Quantity > most {
			return item, reservation.ErrQuantity
		}
		if (req.Seen != money.Money{}) && req.Seen != item.UnitPrice {
			return item, reservation.ErrPrice
		}
		return item, nil
	}
	return inventory.Item{}, reservation.ErrUnknownItem
}

// draw takes the units. current says that the terms are as new as they get. stale says that a bucket could not be asked, so
// that the refusal is not the whole truth.
func (a *Admission) draw(ctx context.Context, sale inventory.Sale, item inventory.Item, req reservation.Request, current bool, note string, astray *bool) (legs []inventory.Leg, stale bool, err error) {
	n := len(item.Buckets)
	if n == 0 {
		return nil, true, reservation.ErrOverloaded
	}
	home := inventory.HomeShard(req.User, n)
	had, blind, free, ledgered := 0, false, int64(0), int64(0)
	refuse := func(why error) error { return refused{error: why, had: had, blind: blind} }
	left := make([]int64, n)
	// The whole quantity from one bucket, from the home shard on: first those that had units when the
	// terms were read, then the others, for units may have come back.
	for k := range 2 * n {
		i := (home + k) % n
		b := item.Buckets[i]
		if (b.Available() > 0) != (k < n) {
			continue
		}
		if sale.Limit > 0 && had+req.Quantity > sale.Limit {
			return nil, false, refuse(reservation.ErrLimitReached)
		}
		ledgered += b.Available()
		leg, taken, err := a.take(ctx, sale, b, req, req.Quantity, had, note, astray)
		had += taken.UserHas
		switch {
		case err == nil:
			return []inventory.Leg{leg}, false, nil
		case errors.Is(err, inventory.ErrShort):
			left[i] = taken.Available
			free += taken.Available
		case errors.Is(err, reservation.ErrLimitReached):
			return nil, false, refuse(reservation.ErrLimitReached)
		default: // closed or away: where the ledger has nothing now, the gate has nothing either; fenced: the terms are old
			blind = true
			stale = stale || b.Available() > 0 || !current || errors.Is(err, inventory.ErrFenced)
		}
		if ctx.Err() != nil {
			return nil, false, refuse(reservation.ErrOverloaded)
		}
	}
	if sale.Limit > 0 && had+req.Quantity > sale.Limit {
		return nil, false, refuse(reservation.ErrLimitReached)
	}
	if free >= int64(req.Quantity) { // combined, in the order of the shards, as the ledger locks
		need := req.Quantity
		for i := range n {
			want := min(int64(need), left[i])
			if want <= 0 {
				continue
			}
			leg, _, err := a.take(ctx, sale, item.Buckets[i], req, int(want), 0, note, astray)
			if err != nil {
				continue
			}
			legs = append(legs, leg)
			if need -= int(want); need == 0 {
				return legs, false, nil
			}
		}
		*astray = !a.giveBack(ctx, legs) || *astray
		stale = true // somebody was faster in between: look again
	}
	if stale {
		return nil, true, refuse(reservation.ErrOverloaded)
	}
	if _, sold := item.Sum(); sold == item.Total {
		return nil, false, refuse(reservation.ErrSoldOut)
	}
	// The ledger may know units that no bucket of the gate shows: they are being given back, or are on
	// their way from one bucket to another.
	return nil, ledgered >= int64(req.Quantity), refuse(reservation.ErrHeldOut)
}

// take asks one bucket; elsewhere are the units that the shopper has in others. A take whose answer was lost is withdrawn at once: it was never handed to the
// ledger. It is astray all the same: the gate may get it after that. The reaper finds it after its deadline.
func (a *Admission) take(ctx context.Context, sale inventory.Sale, b inventory.Bucket, req reservation.Request, qty, elsewhere int, note string, astray *bool) (inventory.Leg, inventory.Taken, error) {
	now := a.clock()
	t := inventory.Take{ID: id.New(now), Bucket: b.ID, Epoch: b.Epoch, User: req.User, Qty: qty, Deadline: now.Add(a.pending), Note: note}
	if sale.Limit > 0 {
		t.Limit = sale.Limit - elsewhere
	}
	leg := inventory.Leg{Take: t.ID, Bucket: b.ID, Epoch: b.Epoch, Qty: qty}
	taken, err := a.gate.Take(ctx, t)
	if errors.Is(err, inventory.ErrUncertain) {
		a.giveBack(ctx, []inventory.Leg{leg})
		*astray = true
	}
	return leg, taken, err
}

// giveBack withdraws takes that were never handed to the ledger, and reports whether the gate has done it. It has not when it
// is away, or has given them to the reaper because their deadline was over meanwhile.
func (a *Admission) giveBack(ctx context.Context, legs []inventory.Leg) bool {
	if len(legs) == 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	all, err := a.gate.Withdraw(ctx, refs(legs))
	if err != nil || !all {
		a.log.WarnContext(ctx, "takes that are not withdrawn wait for the reaper", "bucket", legs[0].Bucket, "takes", len(legs), "error", err)
	}
	return err == nil && all
}

func refs(legs []inventory.Leg) []inventory.TakeRef {
	rs := make([]inventory.TakeRef, len(legs))
	for i, l := range legs {
		rs[i] = inventory.TakeRef{ID: l.Take, Bucket: l.Bucket, Epoch: l.Epoch}
	}
	return rs
}

// saleCache keeps the terms of sales for a moment. While one caller reads a sale again, the others
// go on with what is there.
type saleCache struct {
	read  SaleReader
	clock func() time.Time
	fresh time.Duration

	mu    sync.Mutex
	sales map[id.ID]*cachedSale
}

type cachedSale struct {
	mu      sync.Mutex
	sale    inventory.Sale
	err     error
	at      time.Time     // of the last answer
	known   time.Time     // of the last answer that was the ledger's
	unread  bool          // the last read failed
	begun   uint64        // reads begun
	ended   uint64        // reads ended; there is one at a time, so these are the first ones
	reading chan struct{} // closed when the read under way ends; nil when there is none
}

// maxTermsAge bounds how old the terms may be that are used while somebody reads them again: after a
// quiet time the first requests would be told "sold out" from before it.
const maxTermsAge = 2 * time.Second

// maxUnread bounds how long the last terms are used while the ledger cannot be asked, so that a sale
// goes on accepting. The ledger holds every claim against its own terms.
const maxUnread = 5 * time.Minute

// maxCachedSales bounds the memory that requests for sales that do not exist can take.
const maxCachedSales = 20_000

func newSaleCache(read SaleReader, clock func() time.Time, fresh time.Duration) *saleCache {
	return &saleCache{read: read, clock: clock, fresh: fresh, sales: map[id.ID]*cachedSale{}}
}

// get returns a sale, and when it was read. With must set the read began after the call: what an
// operator was told is done counts. There is one read of a sale at a time, however many ask.
func (c *saleCache) get(ctx context.Context, sale id.ID, must bool) (inventory.Sale, reading, error) {
	c.mu.Lock()
	e := c.sales[sale]
	if e == nil {
		if len(c.sales) >= maxCachedSales {
			clear(c.sales)
		}
		e = &cachedSale{}
		c.sales[sale] = e
	}
	c.mu.Unlock()

	e.mu.Lock()
	defer e.mu.Unlock()
	for next := e.begun + 1; ; { // the first read that is current
		age := c.clock().Sub(e.at)
		fresh := age < c.fresh || e.err == nil && e.reading != nil && age < maxTermsAge
		if e.ended >= next || !must && e.ended > 0 && fresh {
			from := recent
			switch {
			case e.unread:
				from = unread
			case e.ended >= next:
				from = current
			case age >= c.fresh:
				from = old
			}
			return e.sale, from, e.err
		}
		if e.reading == nil {
			e.begun++
			e.reading = make(chan struct{})
			go c.refresh(context.WithoutCancel(ctx), sale, e) // all wait for it alike: it ends with none of them
		}
		wait := e.reading
		e.mu.Unlock()
		select {
		case <-wait:
			e.mu.Lock()
		case <-ctx.Done():
			e.mu.Lock()
			return inventory.Sale{}, unread, ctx.Err()
		}
	}
}

func (c *saleCache) refresh(ctx context.Context, sale id.ID, e *cachedSale) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s, err := c.read.Sale(ctx, sale)
	e.mu.Lock()
	defer e.mu.Unlock()
	now := c.clock()
	e.unread = false
	switch {
	case err == nil:
		e.known = now
	case !errors.Is(err, inventory.ErrUnknownSale) && !e.known.IsZero() && now.Sub(e.known) < maxUnread:
		s, err, e.unread = e.sale, nil, true
	}
	e.sale, e.err, e.at = s, err, now
	e.ended = e.begun
	close(e.reading)
	e.reading = nil
}
