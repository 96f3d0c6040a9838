package enginesim

import (
	"cmp"
	"context"
	"errors"
	"flashsale/engine"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/money"
	"flashsale/order"
	"flashsale/payment"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing/synctest"
	"time"
)

// process is one instance of the service: the engine as cmd wires it, over adapters that can be
// cut off. Once dead, whatever it still does has no effect.
type process struct {
	w      *world
	name   string
	dead   bool // written by the scheduler under the world's lock
	ctx    context.Context
	cancel context.CancelFunc

	flow         *engine.Flow
	reservations *engine.Reservations
	inventory    *engine.Inventory
	orders       *engine.Orders
	payments     *engine.Payments
	handlers     map[transport.Service]transport.Handler
	loops        sync.WaitGroup
}

// books is everything a process asks of the ledger.
type books interface {
	inventory.Ledger
	inventory.Sales
	inventory.Books
	inventory.Balance
	inventory.History
	transport.Outbox
}

// boot starts a process with an empty memory over the same stores.
func (w *world) boot(i int) {
	w.booted++
	p := &process{w: w, name: fmt.Sprintf("P%d", w.booted)}
	p.ctx, p.cancel = context.WithCancel(w.as(context.Background(), "start"))
	w.procs[i] = p
	w.note("%s starts", p.name)

	log := slog.New(slog.DiscardHandler)
	var stock engine.GateKeeper = gateOf{p}
	var led books = ledgerOf{p}
	var pays payment.Store = paymentsOf{p}
	var send transport.Sender = wire{p}
	if v := w.variant; v.gate != nil {
		stock = v.gate(p, stock)
	}
	if v := w.variant; v.ledger != nil {
		led = v.ledger(p, led)
	}
	if v := w.variant; v.payments != nil {
		pays = v.payments(p, pays)
	}
	if v := w.variant; v.sender != nil {
		send = v.sender(p, send)
	}
	var sales engine.SaleReader = led
	var holds engine.LedgerReader = led
	if w.weather.remote {
		sales, holds = engine.RemoteInventory{To: wire{p}}, engine.RemoteInventory{To: wire{p}}
	}
	admission := func(name string, sales engine.SaleReader) *engine.Admission {
		return engine.NewAdmission(stock, terms{p, name, sales}, time.Now, p.wait, pendFor, termsAge, log)
	}
	p.flow = engine.NewFlow(send, stepBound, log)
	keeper := engine.NewKeeper(stock, led, time.Now, goneAfter, log)
	p.inventory = engine.NewInventory(led, led, admission("terms of inventory", led), keeper, w.gate.Shards(), time.Now, log)
	p.reservations = engine.NewReservations(admission("terms of reservation", sales), p.flow, holds, engine.NewThrottle(engine.Worst(engine.RemotePayments{To: wire{p}}.Pressure, engine.RemoteInventory{To: wire{p}}.Pressure), time.Now, log), w.weather.async, time.Now, log)
	p.orders = engine.NewOrders(ordersOf{p}, w.orders, holds, sales, time.Now, termsAge)
	p.payments = engine.NewPayments(pays, providerOf{p}, engine.RemoteOrders{To: wire{p}}, p.flow, patience, mostPaying, time.Now, log)
	p.flow.Keep(transport.Inventory, boxOf{p, &w.ledger.outbox, "ledger"})
	p.flow.Keep(transport.Order, boxOf{p, &w.orders.outbox, "orders"})
	p.flow.Keep(transport.Payment, boxOf{p, &w.payments.outbox, "payments"})
	p.handlers = map[transport.Service]transport.Handler{
		transport.Inventory:    p.flow.Handler(transport.Inventory, p.inventory.Handle),
		transport.Order:        p.flow.Handler(transport.Order, p.orders.Handle),
		transport.Payment:      p.flow.Handler(transport.Payment, p.payments.Handle),
		transport.Notification: func(context.Context, transport.Envelope) ([]transport.Envelope, error) { return nil, nil },
	}
	keeper.Redrive(func(ctx context.Context, e transport.Envelope) ([]transport.Envelope, error) {
		// Many at once: each has its own name, and begins in a step of its own.
		d, err := transport.Decode[inventory.ClaimData](e)
		if err != nil {
			return nil, err
		}
		ctx = w.as(ctx, fmt.Sprintf("redrive %s of take %d", short(e.Subject), w.gate.order(d.Legs[0].Take)))
		if _, err := do(ctx, w, p, "begins", nil, func() (struct{}, error) { w.saw("decided from the gate"); return struct{}{}, nil }); err != nil {
			return nil, err
		}
		return p.handlers[transport.Inventory](ctx, e)
	})
	var history inventory.History = led
	if w.weather.remote {
		history = engine.RemoteInventory{To: wire{p}}
	}
	swept := func(of *places, name string) engine.Sweep {
		return engine.Sweep{Places: placesOf{p, of, name}, From: history, Flow: p.flow, Age: sweepAge, Log: log}
	}
	for name, loop := range map[string]func(context.Context) error{
		// Not Keeper.Run: it is woken between two steps, and how much it then tells would be a race.
		"keeper":  p.loop(keepEvery, keeper.RunOnce),
		"redrive": p.loop(keepEvery, keeper.RedriveOnce),
		"tell":    p.loop(tellEvery, func(ctx context.Context) error { keeper.Tell(ctx); return nil }),
		"expirer": func(ctx context.Context) error { return p.inventory.Expirer(ctx, p.flow, keepEvery) },
		"prober":  func(ctx context.Context) error { return p.payments.Prober(ctx, keepEvery, probeAge) },
		"flow":    p.flow.Run,
		"orders": func(ctx context.Context) error {
			return swept(&w.orders.places, "orders").Run(ctx, "orders", p.orders.SweepOnce)
		},
		"payments": func(ctx context.Context) error {
			return swept(&w.payments.places, "payments").Run(ctx, "payments", p.payments.SweepOnce)
		},
	} {
		if !w.weather.async && (name == "orders" || name == "payments") {
			continue // nothing is lost on its way
		}
		ctx := w.as(p.ctx, name)
		p.loops.Go(func() { _ = loop(ctx) })
	}
}

// loop makes a pass at once and then each interval, until the process stops.
func (p *process) loop(interval time.Duration, pass func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		for {
			_ = pass(ctx)
			if err := sleep(ctx, interval); err != nil {
				return err
			}
		}
	}
}

// wait is how long an admission waits before it looks again. Waking up is a step of its own: of
// several that wake up at the same time, the seed says who goes first.
func (p *process) wait(ctx context.Context, d time.Duration) error {
	if err := sleep(ctx, d); err != nil {
		return err
	}
	_, err := do(ctx, p.w, p, "wakes up", nil, func() (struct{}, error) { return struct{}{}, nil })
	return err
}

// terms reads sales on behalf of a cache: whose request it was that had it read again is chance.
type terms struct {
	p    *process
	name string
	from engine.SaleReader
}

// Sale implements engine.SaleReader.
func (t terms) Sale(ctx context.Context, sale id.ID) (inventory.Sale, error) {
	return t.from.Sale(t.p.w.as(ctx, t.name), sale)
}

// grouped names the caller of a group's call, which is nobody's in particular.
func (p *process) grouped(ctx context.Context) context.Context {
	if who(ctx).name == "expirer" {
		return ctx
	}
	return p.w.as(ctx, "group")
}

// kill ends a process between two steps. What it had asked for may still have its effect; nobody
// hears of it.
func (w *world) kill(p *process) {
	w.note("%s dies", p.name)
	w.saw("a process dies")
	w.mu.Lock()
	p.dead = true
	var mine []*call
	w.parked = slices.DeleteFunc(w.parked, func(c *call) bool {
		if c.proc == p {
			mine = append(mine, c)
		}
		return c.proc == p
	})
	w.mu.Unlock()
	for _, c := range mine {
		_ = c.run(died)
	}
	w.look()
	p.cancel()
	for _, c := range mine {
		close(c.resume)
	}
	synctest.Wait()
	p.inventory.Close()
	p.reservations.Close()
	p.orders.Close()
	p.loops.Wait()
}

// alive returns the processes that are up.
func (w *world) alive() []*process {
	return slices.DeleteFunc(slices.Clone(w.procs), func(p *process) bool { return p.dead })
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// gateOf is the gate as a process reaches it.
type gateOf struct{ p *process }

func gateSilence(certain bool) error {
	if certain {
		return inventory.ErrUnavailable
	}
	return inventory.ErrUncertain
}

func shardsOf(refs []inventory.TakeRef) string {
	refs = slices.SortedFunc(slices.Values(refs), func(a, b inventory.TakeRef) int {
		return cmp.Or(a.Bucket.Compare(b.Bucket), cmp.Compare(a.Epoch, b.Epoch))
	})
	s := ""
	for _, r := range refs {
		s += fmt.Sprintf(" %d@%d", r.Bucket.Shard, r.Epoch)
	}
	return s
}

// reach fails when a shard is away.
func (g gateOf) reach(b inventory.BucketID) error {
	if g.p.w.gate.shards[b.Shard].away {
		return inventory.ErrUnavailable
	}
	return nil
}

// split tells the shards that can be reached, and says so when one cannot.
func (g gateOf) split(refs []inventory.TakeRef, tell func(context.Context, []inventory.TakeRef) error) error {
	var here []inventory.TakeRef
	var err error
	for _, r := range refs {
		if away := g.reach(r.Bucket); away != nil {
			err = away
		} else {
			here = append(here, r)
		}
	}
	if told := tell(context.Background(), here); told != nil {
		return told
	}
	return err
}

// Take implements inventory.Gate.
func (g gateOf) Take(ctx context.Context, t inventory.Take) (inventory.Taken, error) {
	return do(ctx, g.p.w, g.p, fmt.Sprintf("gate.take %d of shard %d@%d", t.Qty, t.Bucket.Shard, t.Epoch), gateSilence, func() (inventory.Taken, error) {
		if err := g.reach(t.Bucket); err != nil {
			return inventory.Taken{}, err
		}
		return g.p.w.gate.Take(ctx, t)
	})
}

// Settle implements inventory.Gate.
func (g gateOf) Settle(ctx context.Context, takes []inventory.TakeRef) error {
	return g.conclude(ctx, "gate.settle", takes, g.p.w.gate.Settle)
}

// Abort implements inventory.Gate.
func (g gateOf) Abort(ctx context.Context, takes []inventory.TakeRef) error {
	return g.conclude(ctx, "gate.abort", takes, g.p.w.gate.Abort)
}

// Withdraw implements inventory.Gate.
func (g gateOf) Withdraw(ctx context.Context, takes []inventory.TakeRef) (all bool, err error) {
	all = len(takes) == 0
	err = g.conclude(ctx, "gate.withdraw", takes, func(ctx context.Context, here []inventory.TakeRef) (err error) {
		all, err = g.p.w.gate.Withdraw(ctx, here)
		g.p.w.saw(fmt.Sprintf("withdrawn: %v", all))
		return err
	})
	return all, err
}

func (g gateOf) conclude(ctx context.Context, what string, takes []inventory.TakeRef, tell func(context.Context, []inventory.TakeRef) error) error {
	if len(takes) == 0 {
		return nil
	}
	_, err := do(ctx, g.p.w, g.p, what+shardsOf(takes), gateSilence, func() (struct{}, error) { return struct{}{}, g.split(takes, tell) })
	return err
}

// Install implements inventory.Keeper.
func (g gateOf) Install(ctx context.Context, b inventory.BucketID, l inventory.Level, users map[id.ID]int) error {
	_, err := do(ctx, g.p.w, g.p, fmt.Sprintf("gate.install shard %d %+v", b.Shard, l), gateSilence, func() (struct{}, error) {
		if err := g.reach(b); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, g.p.w.gate.Install(ctx, b, l, users)
	})
	return err
}

// Credit implements inventory.Keeper.
func (g gateOf) Credit(ctx context.Context, b inventory.BucketID, epoch int64, credits []inventory.Credit) (int64, error) {
	return do(ctx, g.p.w, g.p, fmt.Sprintf("gate.credit shard %d@%d from %d, %d credits", b.Shard, epoch, credits[0].Seq, len(credits)), gateSilence, func() (int64, error) {
		if err := g.reach(b); err != nil {
			return 0, err
		}
		return g.p.w.gate.Credit(ctx, b, epoch, credits)
	})
}

// Levels implements inventory.Keeper. A shard that does not answer is away, and that is no error.
func (g gateOf) Levels(ctx context.Context, buckets []inventory.BucketID) ([]inventory.Level, error) {
	what := "gate.levels"
	for _, b := range buckets {
		what += fmt.Sprintf(" %d", b.Shard)
	}
	levels, err := do(ctx, g.p.w, g.p, what, gateSilence, func() ([]inventory.Level, error) { return g.p.w.gate.Levels(ctx, buckets) })
	if err != nil && !errors.Is(err, errDied) {
		levels, err = make([]inventory.Level, len(buckets)), nil
		for i := range levels {
			levels[i].Away = true
		}
	}
	return levels, err
}

// Overdue implements inventory.Keeper.
func (g gateOf) Overdue(ctx context.Context, b inventory.BucketID, now time.Time, limit int) ([]inventory.Pending, error) {
	return do(ctx, g.p.w, g.p, fmt.Sprintf("gate.overdue shard %d", b.Shard), gateSilence, func() ([]inventory.Pending, error) {
		if err := g.reach(b); err != nil {
			return nil, err
		}
		return g.p.w.gate.Overdue(ctx, b, now, limit)
	})
}

// Shards implements inventory.Keeper.
func (g gateOf) Shards() int { return g.p.w.gate.Shards() }

func storeSilence(bool) error { return errLost }

// ledgerOf is the ledger as a process reaches it.
type ledgerOf struct{ p *process }

// Commit implements inventory.Ledger.
func (l ledgerOf) Commit(ctx context.Context, claims []inventory.Claim) ([]inventory.Decision, error) {
	w := l.p.w
	return do(l.p.grouped(ctx), w, l.p, fmt.Sprintf("ledger.commit %d claims", len(claims)), storeSilence, func() ([]inventory.Decision, error) {
		ds, err := w.ledger.Commit(ctx, claims)
		for i, d := range ds {
			w.note("  %s: %s %v %v", short(claims[i].Request.ID()), d.Reservation.State, d.Outcomes, errText(d.Err))
			w.saw("claim: " + decision(d))
			if len(claims[i].Legs) > 1 && d.Err == nil {
				w.saw("claim: held over several shards")
			}
			if len(claims) > 1 {
				w.saw("claim: in a group")
			}
			w.promisedTooMany(d)
		}
		return ds, err
	})
}

func decision(d inventory.Decision) string {
	switch {
	case d.Err != nil:
		return d.Err.Error()
	case d.Replayed:
		return "replayed"
	}
	return "held"
}

// Move implements inventory.Ledger.
func (l ledgerOf) Move(ctx context.Context, moves []inventory.Move) ([]inventory.Moved, error) {
	w := l.p.w
	return do(l.p.grouped(ctx), w, l.p, fmt.Sprintf("ledger.move %d moves", len(moves)), storeSilence, func() ([]inventory.Moved, error) {
		as, err := w.ledger.Move(ctx, moves)
		for i, a := range as {
			w.note("  %s: %s, now %s, applied %v %s", short(moves[i].Reservation), moves[i].Kind, a.Reservation.State, a.Applied, errText(a.Err))
			if a.Applied {
				w.saw("move: " + string(moves[i].Kind))
			} else {
				w.saw("move: not made")
			}
		}
		return as, err
	})
}

// Refuse implements inventory.Ledger.
func (l ledgerOf) Refuse(ctx context.Context, refusals []inventory.Refusal) ([]reservation.Reservation, error) {
	w := l.p.w
	return do(ctx, w, l.p, fmt.Sprintf("ledger.refuse %s %s", short(refusals[0].Request.ID()), refusals[0].Reason), storeSilence, func() ([]reservation.Reservation, error) {
		for _, f := range refusals {
			w.saw("refused: " + f.Reason)
			if w.ledger.reservations[f.Request.ID()] == nil {
				w.justified(f.Request, reservation.Refusal(f.Reason), who(ctx).step, time.Time{})
			}
		}
		return w.ledger.Refuse(ctx, refusals)
	})
}

// Find implements inventory.Ledger.
func (l ledgerOf) Find(ctx context.Context, v id.ID) (reservation.Reservation, error) {
	return do(ctx, l.p.w, l.p, "ledger.find "+short(v), storeSilence, func() (reservation.Reservation, error) { return l.p.w.ledger.Find(ctx, v) })
}

// Bound implements inventory.Ledger.
func (l ledgerOf) Bound(ctx context.Context, item inventory.ItemID, user id.ID) (int, error) {
	return do(ctx, l.p.w, l.p, "ledger.bound "+short(user), storeSilence, func() (int, error) { return l.p.w.ledger.Bound(ctx, item, user) })
}

// Due implements inventory.Ledger. A question without an answer is no step: nothing can go wrong.
func (l ledgerOf) Due(ctx context.Context, limit int) ([]id.ID, error) {
	if due, err := l.p.w.ledger.Due(ctx, limit); len(due) == 0 {
		return nil, err
	}
	return do(ctx, l.p.w, l.p, "ledger.due", storeSilence, func() ([]id.ID, error) { return l.p.w.ledger.Due(ctx, limit) })
}

// Provision implements inventory.Sales.
func (l ledgerOf) Provision(ctx context.Context, v inventory.Provision) error {
	_, err := do(ctx, l.p.w, l.p, "ledger.provision", storeSilence, func() (struct{}, error) { return struct{}{}, l.p.w.ledger.Provision(ctx, v) })
	return err
}

// SetStatus implements inventory.Sales.
func (l ledgerOf) SetStatus(ctx context.Context, s inventory.Sale) error {
	_, err := do(ctx, l.p.w, l.p, "ledger.status "+string(s.Status), storeSilence, func() (struct{}, error) { return struct{}{}, l.p.w.ledger.SetStatus(ctx, s) })
	return err
}

// AddStock implements inventory.Sales.
func (l ledgerOf) AddStock(ctx context.Context, a inventory.Addition) ([]inventory.BucketID, error) {
	return do(ctx, l.p.w, l.p, "ledger.addstock", storeSilence, func() ([]inventory.BucketID, error) { return l.p.w.ledger.AddStock(ctx, a) })
}

// Sale implements inventory.Sales.
func (l ledgerOf) Sale(ctx context.Context, sale id.ID) (inventory.Sale, error) {
	return do(ctx, l.p.w, l.p, "ledger.sale", storeSilence, func() (inventory.Sale, error) { return l.p.w.ledger.Sale(ctx, sale) })
}

// Buckets implements inventory.Books.
func (l ledgerOf) Buckets(ctx context.Context, of []inventory.ItemID) ([]inventory.Bucket, error) {
	return do(ctx, l.p.w, l.p, "ledger.buckets", storeSilence, func() ([]inventory.Bucket, error) { return l.p.w.ledger.Buckets(ctx, of) })
}

type opened struct {
	row   inventory.Bucket
	users map[id.ID]int
}

// Reopen implements inventory.Books.
func (l ledgerOf) Reopen(ctx context.Context, b inventory.BucketID, from int64) (inventory.Bucket, map[id.ID]int, error) {
	o, err := do(ctx, l.p.w, l.p, fmt.Sprintf("ledger.reopen %d", b.Shard), storeSilence, func() (opened, error) {
		row, users, err := l.p.w.ledger.Reopen(ctx, b, from)
		if err == nil {
			l.p.w.saw("a bucket is opened again")
		} else {
			l.p.w.saw("a bucket is opened by another")
		}
		return opened{row, users}, err
	})
	return o.row, o.users, err
}

// Credits implements inventory.Books.
func (l ledgerOf) Credits(ctx context.Context, b inventory.BucketID, after int64, limit int) ([]inventory.Credit, error) {
	return do(ctx, l.p.w, l.p, fmt.Sprintf("ledger.credits %d after %d", b.Shard, after), storeSilence, func() ([]inventory.Credit, error) {
		return l.p.w.ledger.Credits(ctx, b, after, limit)
	})
}

// Tombstone implements inventory.Books.
func (l ledgerOf) Tombstone(ctx context.Context, takes []inventory.Pending) ([]inventory.LegOutcome, error) {
	return do(ctx, l.p.w, l.p, fmt.Sprintf("ledger.tombstone %d takes of %d", len(takes), takes[0].Bucket.Shard), storeSilence, func() ([]inventory.LegOutcome, error) {
		outcomes, err := l.p.w.ledger.Tombstone(ctx, takes)
		for _, o := range outcomes {
			l.p.w.saw("reaped: " + string(o))
		}
		return outcomes, err
	})
}

// Transfer implements inventory.Balance.
func (l ledgerOf) Transfer(ctx context.Context, t inventory.Transfer) (inventory.LegOutcome, error) {
	return do(ctx, l.p.w, l.p, fmt.Sprintf("ledger.transfer %d from %d to %d", t.Leg.Qty, t.Leg.Bucket.Shard, t.To), storeSilence, func() (inventory.LegOutcome, error) {
		outcome, err := l.p.w.ledger.Transfer(ctx, t)
		l.p.w.saw("transfer: " + string(outcome))
		return outcome, err
	})
}

// Evacuate implements inventory.Balance.
func (l ledgerOf) Evacuate(ctx context.Context, from inventory.BucketID, to []int) ([]inventory.BucketID, error) {
	return do(ctx, l.p.w, l.p, fmt.Sprintf("ledger.evacuate %d to %v", from.Shard, to), storeSilence, func() ([]inventory.BucketID, error) {
		credited, err := l.p.w.ledger.Evacuate(ctx, from, to)
		if len(credited) > 0 {
			l.p.w.saw("units are evacuated")
		}
		return credited, err
	})
}

// Spread implements inventory.Balance.
func (l ledgerOf) Spread(ctx context.Context, shards int) error {
	_, err := do(ctx, l.p.w, l.p, "ledger.spread", storeSilence, func() (struct{}, error) { return struct{}{}, l.p.w.ledger.Spread(ctx, shards) })
	return err
}

// Steps implements inventory.History.
func (l ledgerOf) Steps(ctx context.Context, after int64, age time.Duration, limit int) ([]inventory.Step, error) {
	if steps, err := l.p.w.ledger.Steps(ctx, after, age, limit); len(steps) == 0 {
		return nil, err
	}
	return do(ctx, l.p.w, l.p, "ledger.steps", storeSilence, func() ([]inventory.Step, error) { return l.p.w.ledger.Steps(ctx, after, age, limit) })
}

// Rows implements inventory.History.
func (l ledgerOf) Rows(ctx context.Context, ids []id.ID) ([]reservation.Reservation, error) {
	return do(ctx, l.p.w, l.p, fmt.Sprintf("ledger.rows %d", len(ids)), storeSilence, func() ([]reservation.Reservation, error) { return l.p.w.ledger.Rows(ctx, ids) })
}

// Unsent implements transport.Outbox.
func (l ledgerOf) Unsent(ctx context.Context, age time.Duration, limit int) ([]transport.Envelope, error) {
	return boxOf{l.p, &l.p.w.ledger.outbox, "ledger"}.Unsent(ctx, age, limit)
}

// MarkSent implements transport.Outbox.
func (l ledgerOf) MarkSent(ctx context.Context, ids []id.ID) error {
	return boxOf{l.p, &l.p.w.ledger.outbox, "ledger"}.MarkSent(ctx, ids)
}

// Backlog implements transport.Outbox.
func (l ledgerOf) Backlog(ctx context.Context) (int, time.Duration, error) {
	return l.p.w.ledger.Backlog(ctx)
}

// boxOf is an outbox as a process reaches it.
type boxOf struct {
	p    *process
	box  *outbox
	name string
}

// Unsent implements transport.Outbox.
func (b boxOf) Unsent(ctx context.Context, age time.Duration, limit int) ([]transport.Envelope, error) {
	if b.box.idle(age) {
		return nil, nil
	}
	return do(ctx, b.p.w, b.p, b.name+".unsent", storeSilence, func() ([]transport.Envelope, error) { return b.box.Unsent(ctx, age, limit) })
}

// MarkSent implements transport.Outbox.
func (b boxOf) MarkSent(ctx context.Context, ids []id.ID) error {
	_, err := do(ctx, b.p.w, b.p, fmt.Sprintf("%s.sent %d", b.name, len(ids)), storeSilence, func() (struct{}, error) { return struct{}{}, b.box.MarkSent(ctx, ids) })
	return err
}

// Backlog implements transport.Outbox.
func (b boxOf) Backlog(ctx context.Context) (int, time.Duration, error) { return b.box.Backlog(ctx) }

// placesOf is a table of places as a process reaches it.
type placesOf struct {
	p    *process
	of   *places
	name string
}

type leased struct {
	upto int64
	mine bool
}

// Place implements transport.Places.
func (s placesOf) Place(ctx context.Context, sweep string, hold time.Duration) (int64, bool, error) {
	v, err := do(ctx, s.p.w, s.p, s.name+".place", storeSilence, func() (leased, error) {
		upto, mine, err := s.of.Place(ctx, sweep, hold)
		return leased{upto, mine}, err
	})
	return v.upto, v.mine, err
}

// SetPlace implements transport.Places.
func (s placesOf) SetPlace(ctx context.Context, sweep string, upto int64) error {
	_, err := do(ctx, s.p.w, s.p, fmt.Sprintf("%s.place %d", s.name, upto), storeSilence, func() (struct{}, error) {
		return struct{}{}, s.of.SetPlace(ctx, sweep, upto)
	})
	return err
}

// ordersOf is the order store as a process reaches it.
type ordersOf struct{ p *process }

// Apply implements order.Store.
func (s ordersOf) Apply(ctx context.Context, changes []order.Change) ([]order.Changed, error) {
	what := "orders.apply"
	for _, c := range changes {
		what += " " + string(c.Order.State)
	}
	return do(s.p.grouped(ctx), s.p.w, s.p, what, storeSilence, func() ([]order.Changed, error) { return s.p.w.orders.Apply(ctx, changes) })
}

// Find implements order.Store.
func (s ordersOf) Find(ctx context.Context, v id.ID) (order.Order, error) {
	return do(ctx, s.p.w, s.p, "orders.find "+short(v), storeSilence, func() (order.Order, error) { return s.p.w.orders.Find(ctx, v) })
}

// States implements order.Store.
func (s ordersOf) States(ctx context.Context, ids []id.ID) (map[id.ID]order.State, error) {
	return do(ctx, s.p.w, s.p, fmt.Sprintf("orders.states %d", len(ids)), storeSilence, func() (map[id.ID]order.State, error) { return s.p.w.orders.States(ctx, ids) })
}

// List implements order.Store.
func (s ordersOf) List(ctx context.Context, user id.ID, after order.Cursor, limit int) ([]order.Order, error) {
	return s.p.w.orders.List(ctx, user, after, limit)
}

// paymentsOf is the payment store as a process reaches it.
type paymentsOf struct{ p *process }

type begun struct {
	p       payment.Payment
	created bool
}

// Begin implements payment.Store.
func (s paymentsOf) Begin(ctx context.Context, p payment.Payment) (payment.Payment, bool, error) {
	b, err := do(ctx, s.p.w, s.p, "payments.begin "+short(p.ID), storeSilence, func() (begun, error) {
		now, created, err := s.p.w.payments.Begin(ctx, p)
		return begun{now, created}, err
	})
	return b.p, b.created, err
}

// Advance implements payment.Store.
func (s paymentsOf) Advance(ctx context.Context, step payment.Step) (payment.Payment, error) {
	return do(ctx, s.p.w, s.p, fmt.Sprintf("payments.advance %s to %s", short(step.Payment), step.To), storeSilence, func() (payment.Payment, error) {
		return s.p.w.payments.Advance(ctx, step)
	})
}

// Find implements payment.Store.
func (s paymentsOf) Find(ctx context.Context, v id.ID) (payment.Payment, error) {
	return do(ctx, s.p.w, s.p, "payments.find "+short(v), storeSilence, func() (payment.Payment, error) { return s.p.w.payments.Find(ctx, v) })
}

// ForOrder implements payment.Store.
func (s paymentsOf) ForOrder(ctx context.Context, v id.ID) ([]payment.Payment, error) {
	return do(ctx, s.p.w, s.p, "payments.fororder "+short(v), storeSilence, func() ([]payment.Payment, error) { return s.p.w.payments.ForOrder(ctx, v) })
}

// Stuck implements payment.Store.
func (s paymentsOf) Stuck(ctx context.Context, states []payment.State, age time.Duration, limit int) ([]payment.Payment, error) {
	if ps, err := s.p.w.payments.Stuck(ctx, states, age, limit); len(ps) == 0 {
		return nil, err
	}
	return do(ctx, s.p.w, s.p, "payments.stuck", storeSilence, func() ([]payment.Payment, error) { return s.p.w.payments.Stuck(ctx, states, age, limit) })
}

// Traffic implements payment.Store. Nobody in the simulation looks at it.
func (s paymentsOf) Traffic(ctx context.Context, age time.Duration) (payment.Traffic, error) {
	return s.p.w.payments.Traffic(ctx, age)
}

// Decided implements payment.Store.
func (s paymentsOf) Decided(ctx context.Context, after time.Time, age time.Duration, limit int) ([]payment.Payment, error) {
	if ps, err := s.p.w.payments.Decided(ctx, after, age, limit); len(ps) == 0 {
		return nil, err
	}
	return do(ctx, s.p.w, s.p, "payments.decided", storeSilence, func() ([]payment.Payment, error) { return s.p.w.payments.Decided(ctx, after, age, limit) })
}

// providerOf is the payment provider as a process reaches it.
type providerOf struct{ p *process }

func providerSilence(bool) error { return payment.ErrUnknown }

// Charge implements payment.Provider.
func (v providerOf) Charge(ctx context.Context, key id.ID, amount money.Money, method string) (payment.Charge, error) {
	return v.ask(ctx, "charge", key, func() (payment.Charge, error) {
		return v.p.w.provider.Charge(context.Background(), key, amount, method)
	})
}

// Lookup implements payment.Provider.
func (v providerOf) Lookup(ctx context.Context, key id.ID) (payment.Charge, error) {
	return v.ask(ctx, "lookup", key, func() (payment.Charge, error) { return v.p.w.provider.Lookup(context.Background(), key) })
}

// Void implements payment.Provider.
func (v providerOf) Void(ctx context.Context, key id.ID) (payment.Charge, error) {
	return v.ask(ctx, "void", key, func() (payment.Charge, error) { return v.p.w.provider.Void(context.Background(), key) })
}

// Refund implements payment.Provider.
func (v providerOf) Refund(ctx context.Context, key id.ID) (payment.Charge, error) {
	return v.ask(ctx, "refund", key, func() (payment.Charge, error) { return v.p.w.provider.Refund(context.Background(), key) })
}

func (v providerOf) ask(ctx context.Context, what string, key id.ID, f func() (payment.Charge, error)) (payment.Charge, error) {
	return do(ctx, v.p.w, v.p, "provider."+what+" "+short(key), providerSilence, func() (payment.Charge, error) {
		c, err := f()
		if err == nil {
			v.p.w.saw("provider: " + what)
		} else {
			v.p.w.saw("provider: " + what + ": " + err.Error())
		}
		return c, err
	})
}

// Statement implements payment.Provider.
func (v providerOf) Statement(ctx context.Context, charge func(payment.Charge) error) error {
	return v.p.w.provider.Statement(ctx, charge)
}

// short names an id in the log. Only ids that are the same in every run of a seed may be named.
func short(v id.ID) string { return v.String()[24:] }

var price = money.Money{Amount: 990, Currency: "EUR"}
