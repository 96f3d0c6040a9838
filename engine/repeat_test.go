package engine_test

import (
	"context"
	"errors"
	"flashsale/engine"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/inventory/memstock"
	"flashsale/inventory/sqliteledger"
	"flashsale/money"
	"flashsale/reservation"
	"flashsale/testenv/databases"
	"flashsale/transport"
	"flashsale/transport/inproc"
	"fmt"
	"log/slog"
	"testing"
	"time"
)

// desk is a gate, a ledger and the use cases over them, with one sale of one unit per shopper.
type desk struct {
	t         *testing.T
	ledger    *sqliteledger.Ledger
	gate      *memstock.Gate
	keeper    *engine.Keeper
	admission *engine.Admission
	inventory *engine.Inventory
	reserve   *engine.Reservations
	item      inventory.ItemID
	ahead     time.Duration // of the keeper's clock
}

func openDesk(t *testing.T, stock int64, shards, limit int) *desk {
	t.Helper()
	db := databases.SQLite(t, sqliteledger.Migrations)
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	d := &desk{t: t, ledger: sqliteledger.New(db, time.Now), gate: memstock.New(shards), item: inventory.ItemID{Sale: id.Derive("sale"), SKU: "A"}}
	now := time.Now()
	must(t, d.ledger.Provision(t.Context(), inventory.Provision{Shards: shards, Sale: inventory.Sale{
		ID: d.item.Sale, Status: inventory.Open, OpensAt: now.Add(-time.Hour), EndsAt: now.Add(time.Hour), Limit: limit, HoldFor: time.Minute, Revision: 1,
		Items: []inventory.Item{{SKU: "A", UnitPrice: money.Money{Amount: 100, Currency: "EUR"}, Total: stock}},
	}}))
	d.wire(log)
	must(t, d.keeper.RunOnce(t.Context()))
	return d
}

// wire builds a process over ledger and gate.
func (d *desk) wire(log *slog.Logger) {
	t := d.t
	t.Helper()
	d.keeper = engine.NewKeeper(d.gate, d.ledger, func() time.Time { return time.Now().Add(d.ahead) }, time.Second, log)
	d.admission = engine.NewAdmission(d.gate, d.ledger, time.Now, noWait, time.Minute, time.Millisecond, log)
	d.inventory = engine.NewInventory(d.ledger, d.ledger, d.admission, d.keeper, d.gate.Shards(), time.Now, log)
	t.Cleanup(d.inventory.Close)
	bus := inproc.New()
	bus.Handle(transport.Inventory, d.inventory.Handle)
	bus.Handle(transport.Order, func(context.Context, transport.Envelope) ([]transport.Envelope, error) { return nil, nil })
	must(t, bus.Start(t.Context()))
	flow := engine.NewFlow(bus, time.Second, log)
	d.reserve = engine.NewReservations(d.admission, flow, d.ledger, open(), false, time.Now, log)
	t.Cleanup(d.reserve.Close)
}

// open is a throttle that turns nobody away.
func open() *engine.Throttle {
	return engine.NewThrottle(func(context.Context) (engine.Pressure, error) { return engine.Pressure{}, nil }, time.Now, slog.New(slog.DiscardHandler))
}

func noWait(ctx context.Context, _ time.Duration) error { return ctx.Err() }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (d *desk) request(who, key string) reservation.Request {
	return reservation.Request{User: id.Derive(who), Key: key, Sale: d.item.Sale, SKU: d.item.SKU, Quantity: 1}
}

// slow is a queue that is out of reach: it says so after a while, in which something happens.
type slow struct{ meanwhile func() }

// Send implements transport.Sender.
func (q slow) Send(context.Context, transport.Service, transport.Envelope) (transport.Receipt, error) {
	q.meanwhile()
	return transport.Receipt{}, transport.ErrUnavailable
}

// TestGivenUpWhileDecided: a request waits for the queue, in vain, for longer than its take may be undecided. It is not told
// that nothing is reserved when somebody is deciding it from the gate, and its units are not given to another then.
func TestGivenUpWhileDecided(t *testing.T) {
	t.Parallel()
	decides := func(d *desk) { must(d.t, d.keeper.RedriveOnce(d.t.Context())) }
	finds := func(d *desk) {
		d.ahead = 2 * time.Minute // the take is overdue
		must(d.t, d.keeper.RunOnce(d.t.Context()))
		d.ahead = 0
	}
	for name, c := range map[string]struct {
		meanwhile, then []func(*desk)
		told            error
		held            int
	}{
		"nobody has looked":   {nil, []func(*desk){finds, decides}, reservation.ErrOverloaded, 0},
		"it has been found":   {[]func(*desk){finds}, []func(*desk){decides}, reservation.ErrUncertain, 1},
		"it has been decided": {[]func(*desk){finds, decides}, nil, reservation.ErrUncertain, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := openDesk(t, 5, 1, 0)
			d.keeper.Redrive(d.inventory.Handle)
			log := slog.New(slog.DiscardHandler)
			queue := slow{func() {
				for _, f := range c.meanwhile {
					f(d)
				}
			}}
			reserve := engine.NewReservations(d.admission, engine.NewFlow(queue, time.Second, log), d.ledger, open(), true, time.Now, log)
			t.Cleanup(reserve.Close)
			req := d.request("ann", "k")
			if _, err := reserve.Reserve(t.Context(), req, ""); !errors.Is(err, c.told) {
				t.Errorf("told %v, want %v", err, c.told)
			}
			for _, f := range c.then {
				f(d)
			}
			d.keeper.Tell(t.Context())
			bound, err := d.ledger.Bound(t.Context(), d.item, req.User)
			levels, lerr := d.gate.Levels(t.Context(), []inventory.BucketID{{Item: d.item}})
			must(t, errors.Join(err, lerr))
			if left := levels[0]; bound != c.held || left.Available != int64(5-c.held) || left.Pending != 0 {
				t.Errorf("%d units are held, want %d; the gate has %+v of 5", bound, c.held, left)
			}
		})
	}
}

// draw takes the units of a request at the gate, as a process does that then goes no further.
func (d *desk) draw(req reservation.Request) inventory.Claim {
	d.t.Helper()
	claim, _, err := d.admission.Admit(d.t.Context(), req, "", true)
	must(d.t, err)
	return claim
}

// deliver hands a promised claim to the inventory, as a queue does.
func (d *desk) deliver(c inventory.Claim) (transport.Receipt, error) { return d.hand(c, true) }

func (d *desk) hand(c inventory.Claim, promised bool) (transport.Receipt, error) {
	e := transport.Repeatable(inventory.EventRequested, transport.Reservation, c.Request.ID(), c.Legs[0].Take.String(), time.Now(), "", inventory.NewClaimData(c, promised))
	events, err := d.inventory.Handle(d.t.Context(), e)
	return transport.Receipt{Decided: true, Events: events}, err
}

// TestRepeatedWhileUndecided: a request that is repeated before the ledger has decided the first is
// told so; it is not refused because of its own units.
func TestRepeatedWhileUndecided(t *testing.T) {
	t.Parallel()
	for name, setting := range map[string]struct {
		stock int64
		limit int
		final error // of another request of the shopper, once the first is decided
	}{
		"at the limit":     {stock: 5, limit: 1, final: reservation.ErrLimitReached},
		"at the last unit": {stock: 1, limit: 0, final: reservation.ErrHeldOut},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := openDesk(t, setting.stock, 1, setting.limit)
			mine, other := d.request("ann", "k"), d.request("ann", "another")
			claim := d.draw(mine)
			for _, req := range []reservation.Request{mine, other} {
				if _, err := d.reserve.Reserve(t.Context(), req, ""); !errors.Is(err, reservation.ErrInFlight) {
					t.Errorf("%s while the first is undecided: %v", req.Key, err)
				}
			}
			_, err := d.deliver(claim)
			must(t, err)
			out, err := d.reserve.Reserve(t.Context(), mine, "")
			if err != nil || !out.Replayed || out.Reservation.State != reservation.Held {
				t.Errorf("the same request again: %+v, %v", out, err)
			}
			if _, err := d.reserve.Reserve(t.Context(), other, ""); !errors.Is(err, setting.final) {
				t.Errorf("another request: %v, want %v", err, setting.final)
			}
		})
	}
}

// blindfold is a gate that has lost sight of a shard.
type blindfold struct {
	engine.GateKeeper
	shard int
	why   error
}

func (g blindfold) Take(ctx context.Context, k inventory.Take) (inventory.Taken, error) {
	if k.Bucket.Shard == g.shard {
		return inventory.Taken{}, g.why
	}
	return g.GateKeeper.Take(ctx, k)
}

// silent is a ledger that cannot be read.
type silent struct{ engine.LedgerReader }

func (silent) Find(context.Context, id.ID) (reservation.Reservation, error) {
	return reservation.Reservation{}, errors.New("no answer")
}

// mute reads the terms of sales while it is not lost.
type mute struct {
	engine.SaleReader
	lost *bool
}

func (m mute) Sale(ctx context.Context, sale id.ID) (inventory.Sale, error) {
	if *m.lost {
		return inventory.Sale{}, errors.New("no answer")
	}
	return m.SaleReader.Sale(ctx, sale)
}

// TestRepeatedWhileAShardIsAway: a reservation is found again although the shard that counted it cannot be asked; and where
// the ledger cannot be asked either, nobody is told that nothing was done.
func TestRepeatedWhileAShardIsAway(t *testing.T) {
	t.Parallel()
	for _, why := range []error{inventory.ErrClosed, inventory.ErrUnavailable, inventory.ErrUncertain} {
		for shard := range 4 {
			promise := shard >= 2
			shard %= 2
			t.Run(fmt.Sprint(shard, promise, why), func(t *testing.T) {
				t.Parallel()
				d := openDesk(t, 2, 2, 0)
				for _, who := range []string{"ann", "bob"} {
					if _, err := d.reserve.Reserve(t.Context(), d.request(who, "k"), ""); err != nil {
						t.Fatal(err)
					}
				}
				log, lost := slog.New(slog.DiscardHandler), false
				admission := engine.NewAdmission(blindfold{d.gate, shard, why}, mute{d.ledger, &lost}, time.Now, noWait, time.Minute, time.Millisecond, log)
				ask := func(read engine.LedgerReader, who string) (engine.Outcome, error) {
					r := engine.NewReservations(admission, engine.NewFlow(inproc.New(), time.Second, log), read, open(), promise, time.Now, log)
					defer r.Close()
					return r.Reserve(t.Context(), d.request(who, "k"), "")
				}
				for _, who := range []string{"ann", "bob"} {
					if out, err := ask(d.ledger, who); err != nil || !out.Replayed || out.Reservation.State != reservation.Held {
						t.Errorf("%s again: %+v, %v", who, out, err)
					}
					for _, lost = range []bool{true, false} { // the terms too, or the rows only
						if _, err := ask(silent{d.ledger}, who); !errors.Is(err, reservation.ErrUncertain) {
							t.Errorf("%s again, without the ledger (terms lost: %t): %v", who, lost, err)
						}
					}
				}
				want := reservation.ErrHeldOut
				if promise && errors.Is(why, inventory.ErrUncertain) { // her take may be there
					want = reservation.ErrUncertain
				}
				if _, err := ask(d.ledger, "eve"); !errors.Is(err, want) {
					t.Errorf("somebody else: %v, want %v", err, want)
				}
			})
		}
	}
}

// TestRepeatedWhileItsShardIsAway: what a shopper has accepted, or another call is just committing, is on a shard that goes
// away. Nobody can know then whether there is something, and there is.
func TestRepeatedWhileItsShardIsAway(t *testing.T) {
	t.Parallel()
	for _, why := range []error{inventory.ErrClosed, inventory.ErrUnavailable, inventory.ErrUncertain} {
		for _, promise := range []bool{false, true} {
			t.Run(fmt.Sprint(promise, why), func(t *testing.T) {
				t.Parallel()
				d := openDesk(t, 5, 1, 0)
				req := d.request("ann", "k")
				claim := d.draw(req)
				log := slog.New(slog.DiscardHandler)
				admission := engine.NewAdmission(blindfold{d.gate, 0, why}, d.ledger, time.Now, noWait, time.Minute, time.Millisecond, log)
				again := engine.NewReservations(admission, engine.NewFlow(inproc.New(), time.Second, log), d.ledger, open(), promise, time.Now, log)
				t.Cleanup(again.Close)
				if _, err := again.Reserve(t.Context(), req, ""); !errors.Is(err, reservation.ErrUncertain) {
					t.Errorf("again, with the first undecided: %v, want %v", err, reservation.ErrUncertain)
				}
				r, err := d.hand(claim, promise)
				must(t, err)
				if _, held := r.Find(inventory.EventHeld); !held {
					t.Errorf("the first: %+v", r.Events)
				}
				if out, err := again.Reserve(t.Context(), req, ""); err != nil || !out.Replayed {
					t.Errorf("again, with the first decided: %+v, %v", out, err)
				}
			})
		}
	}
}

// TestFencedWhileAShardIsAway: a call's take was fenced, and it cannot take another because a shard is away, where an earlier
// call of the same request may be committing one. It does not say that nothing was done.
func TestFencedWhileAShardIsAway(t *testing.T) {
	t.Parallel()
	d := openDesk(t, 5, 1, 0)
	req := d.request("ann", "k")
	first := d.draw(req)
	b := inventory.BucketID{Item: d.item}
	_, _, err := d.ledger.Reopen(t.Context(), b, first.Legs[0].Epoch)
	must(t, err)
	log := slog.New(slog.DiscardHandler)
	d.admission = engine.NewAdmission(blindfold{d.gate, 0, inventory.ErrUnavailable}, d.ledger, time.Now, noWait, time.Minute, time.Millisecond, log)
	d.inventory = engine.NewInventory(d.ledger, d.ledger, d.admission, d.keeper, d.gate.Shards(), time.Now, log)
	t.Cleanup(d.inventory.Close)
	if _, err := d.hand(first, false); err == nil || transport.NothingHandled(err) {
		t.Errorf("the call: %v, want one that may have had an effect", err)
	}
	if _, err := d.deliver(first); !errors.Is(err, transport.ErrOverloaded) {
		t.Errorf("a delivery of an accepted one: %v, want it again", err)
	}
}

// TestRepeatedWhileNothingIsKnown: a process that has not read the terms of a sale yet, and cannot, does not say for certain
// that a request did nothing: it may be the repetition of one that won.
func TestRepeatedWhileNothingIsKnown(t *testing.T) {
	t.Parallel()
	d := openDesk(t, 5, 1, 0)
	req := d.request("ann", "k")
	if _, err := d.reserve.Reserve(t.Context(), req, ""); err != nil {
		t.Fatal(err)
	}
	log, lost := slog.New(slog.DiscardHandler), true
	admission := engine.NewAdmission(d.gate, mute{d.ledger, &lost}, time.Now, noWait, time.Minute, time.Millisecond, log)
	ask := func(read engine.LedgerReader) (engine.Outcome, error) {
		r := engine.NewReservations(admission, engine.NewFlow(inproc.New(), time.Second, log), read, open(), false, time.Now, log)
		defer r.Close()
		return r.Reserve(t.Context(), req, "")
	}
	if out, err := ask(d.ledger); err != nil || !out.Replayed {
		t.Errorf("again: %+v, %v", out, err)
	}
	if _, err := ask(silent{d.ledger}); !errors.Is(err, reservation.ErrUncertain) {
		t.Errorf("again, and nothing can be looked up: %v, want %v", err, reservation.ErrUncertain)
	}
}

// TestPromiseIsNotRefusedByItsTwin: an accepted request lies in the queue while the gate loses its
// memory; the shopper repeats it and draws again. The first delivery, fenced, must not be refused
// because the second one's units are in the gate.
func TestPromiseIsNotRefusedByItsTwin(t *testing.T) {
	t.Parallel()
	for name, setting := range map[string]struct {
		stock int64
		limit int
	}{"at the limit": {5, 1}, "at the last unit": {1, 0}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := openDesk(t, setting.stock, 1, setting.limit)
			req := d.request("ann", "k")
			first := d.draw(req)
			b := inventory.BucketID{Item: d.item}
			row, users, err := d.ledger.Reopen(t.Context(), b, first.Legs[0].Epoch)
			must(t, err)
			must(t, d.gate.Install(t.Context(), b, inventory.Level{Epoch: row.Epoch, Available: row.Available(), Seq: row.CreditSeq}, users))
			second := d.draw(req)
			if _, err := d.deliver(first); !errors.Is(err, transport.ErrOverloaded) {
				t.Fatalf("the first delivery, with its twin undecided: %v", err)
			}
			if _, err := d.hand(first, false); err == nil || transport.NothingHandled(err) { // whoever waits for it may yet win by the twin
				t.Fatalf("the first call, with its twin undecided: %v", err)
			}
			for _, c := range []inventory.Claim{second, first} {
				r, err := d.deliver(c)
				must(t, err)
				if _, held := r.Find(inventory.EventHeld); !held {
					t.Errorf("not held: %+v", r.Events)
				}
			}
			must(t, d.keeper.RunOnce(t.Context()))
			n, err := d.ledger.Bound(t.Context(), d.item, req.User)
			sale, serr := d.ledger.Sale(t.Context(), d.item.Sale)
			must(t, errors.Join(err, serr))
			if free := sale.Items[0].Buckets[0].Available(); n != 1 || free != setting.stock-1 {
				t.Errorf("bound %d, available %d", n, free)
			}
		})
	}
}
