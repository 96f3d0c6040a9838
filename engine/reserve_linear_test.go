package engine_test

import (
	"context"
	"errors"
	"flashsale/audit"
	"flashsale/engine"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/inventory/inventorytest"
	"flashsale/inventory/pgledger"
	"flashsale/inventory/redisstock"
	"flashsale/money"
	"flashsale/reservation"
	"flashsale/testenv"
	"flashsale/testenv/databases"
	"flashsale/transport"
	"flashsale/transport/inproc"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// Steps that the units of one bucket take, as far as shoppers can tell. Each happens at one point of
// its interval:
//
//   - drawn: a unit left for good, during the call to Reserve that was answered "held";
//   - returned: a cancelled unit can be had again, at some point between the begin of the call to
//     Cancel and the end of the gate's call that applied its credit. "Cancelled" is the ledger's
//     word, and until the gate has been told the unit is on its way: it counts as not free;
//   - none: a call to Reserve was answered "held out". It is legal only if at some point within the
//     call no unit was free;
//   - lent, given back: a take of a repeated request. The ledger has the reservation from the first
//     one, so the gate gets these units back, after the answer. Meanwhile they are not free.
//
// With several buckets, "held out" means that each of them had no unit at a point of its own: a unit
// that goes from one to the other behind a shopper's back can be missed.
type step string

const (
	drawn     step = "drawn"
	returned  step = "returned"
	none      step = "none"
	lent      step = "lent"
	givenBack step = "given back"
)

// shelf is the model of one bucket: how many units are free.
func shelf(stock int64) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return stock },
		Step: func(state, asked, _ any) (bool, any) {
			free := state.(int64)
			switch asked.(step) {
			case drawn, lent:
				return free > 0, free - 1
			case returned, givenBack:
				return free < stock, free + 1
			}
			return free == 0, free
		},
	}
}

func TestShelfTellsRightFromWrong(t *testing.T) {
	t.Parallel()
	type call struct {
		step         step
		began, ended int64
	}
	for name, c := range map[string]struct {
		want  bool
		calls []call
	}{
		"two units, then none":              {true, []call{{drawn, 1, 2}, {drawn, 3, 4}, {none, 5, 6}}},
		"three of two":                      {false, []call{{drawn, 1, 6}, {drawn, 2, 5}, {drawn, 3, 4}}},
		"none while one is left":            {false, []call{{drawn, 1, 2}, {none, 3, 4}, {drawn, 5, 6}}},
		"none beside the last draw":         {true, []call{{drawn, 1, 2}, {drawn, 3, 6}, {none, 4, 5}}},
		"none before it came back":          {true, []call{{drawn, 1, 2}, {drawn, 3, 4}, {returned, 5, 8}, {none, 6, 7}}},
		"none after it came back":           {false, []call{{drawn, 1, 2}, {drawn, 3, 4}, {returned, 5, 6}, {none, 7, 8}}},
		"none while a unit is lent":         {true, []call{{drawn, 1, 2}, {lent, 3, 4}, {none, 5, 6}, {givenBack, 7, 8}}},
		"none after it was given back":      {false, []call{{drawn, 1, 2}, {lent, 3, 4}, {givenBack, 5, 6}, {none, 7, 8}}},
		"came back without having been out": {false, []call{{returned, 1, 2}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &inventorytest.History{}
			for _, c := range c.calls {
				h.Add(c.step, nil, c.began, c.ended)
			}
			if got := h.Linearizable(t, shelf(2)); got != c.want {
				t.Fatalf("the checker says %v", got)
			}
		})
	}
}

// span is when something began and ended.
type span struct{ began, ended int64 }

// watch notes when the gate's own calls began and ended, which shoppers cannot see.
type watch struct {
	engine.GateKeeper
	h *inventorytest.History

	mu     sync.Mutex
	takes  map[id.ID]inventory.Take // those that got units
	took   map[id.ID]span
	aborts map[id.ID]span             // the first of each take
	credit map[inventory.Credit]int64 // bucket and number: when the gate had it
}

func (w *watch) Take(ctx context.Context, k inventory.Take) (inventory.Taken, error) {
	began := w.h.Now()
	taken, err := w.GateKeeper.Take(ctx, k)
	if err == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.takes[k.ID], w.took[k.ID] = k, span{began, w.h.Now()}
	}
	return taken, err
}

func (w *watch) Abort(ctx context.Context, takes []inventory.TakeRef) error {
	began := w.h.Now()
	err := w.GateKeeper.Abort(ctx, takes)
	if err == nil {
		w.back(takes, began)
	}
	return err
}

func (w *watch) Withdraw(ctx context.Context, takes []inventory.TakeRef) (bool, error) {
	began := w.h.Now()
	all, err := w.GateKeeper.Withdraw(ctx, takes)
	if err == nil && all {
		w.back(takes, began)
	}
	return all, err
}

func (w *watch) back(takes []inventory.TakeRef, began int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range takes {
		if _, twice := w.aborts[k.ID]; !twice {
			w.aborts[k.ID] = span{began, w.h.Now()}
		}
	}
}

func (w *watch) Credit(ctx context.Context, b inventory.BucketID, epoch int64, credits []inventory.Credit) (int64, error) {
	applied, err := w.GateKeeper.Credit(ctx, b, epoch, credits)
	w.mu.Lock()
	defer w.mu.Unlock()
	for seq := applied; seq > 0 && err == nil; seq-- {
		number := inventory.Credit{Bucket: b, Seq: seq}
		if _, known := w.credit[number]; known {
			break
		}
		w.credit[number] = w.h.Now()
	}
	return applied, err
}

// street is a sale before real servers, with shoppers whose calls are recorded.
type street struct {
	t       *testing.T
	h       *inventorytest.History // gives the moments
	gate    *watch
	ledger  *pgledger.Ledger
	keeper  *engine.Keeper
	reserve *engine.Reservations
	item    inventory.ItemID
	stock   int64 // of each bucket
	news    chan struct{}

	mu      sync.Mutex
	held    map[id.ID]span // by shopper: the call that made the reservation
	out     []span         // calls that were answered "held out"
	cancels map[id.ID]span // by shopper
	odd     []string       // answers that nobody should get
}

// openStreet puts a few units on sale; wrap breaks the gate, or leaves it as it is.
func openStreet(t *testing.T, shards int, wrap func(engine.GateKeeper) engine.GateKeeper) *street {
	t.Helper()
	pool := databases.Postgres(t, pgledger.Migrations)
	redis, err := redisstock.Open(t.Context(), testenv.Redis(t, shards), redisstock.Options{})
	must(t, err)
	t.Cleanup(redis.Close)
	h := &inventorytest.History{}
	s := &street{
		t: t, h: h, ledger: pgledger.New(pool), item: inventory.ItemID{Sale: id.Derive("sale"), SKU: "A"}, stock: 3,
		news: make(chan struct{}, 1), held: map[id.ID]span{}, cancels: map[id.ID]span{},
		gate: &watch{
			GateKeeper: wrap(redis), h: h, takes: map[id.ID]inventory.Take{}, took: map[id.ID]span{}, aborts: map[id.ID]span{}, credit: map[inventory.Credit]int64{},
		},
	}
	now := time.Now()
	must(t, s.ledger.Provision(t.Context(), inventory.Provision{Shards: shards, Sale: inventory.Sale{
		ID: s.item.Sale, Status: inventory.Open, OpensAt: now.Add(-time.Hour), EndsAt: now.Add(time.Hour), HoldFor: time.Hour, Revision: 1,
		Items: []inventory.Item{{SKU: "A", UnitPrice: money.Money{Amount: 100, Currency: "EUR"}, Total: s.stock * int64(shards)}},
	}}))
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	s.keeper = engine.NewKeeper(s.gate, s.ledger, time.Now, time.Hour, log)
	must(t, s.keeper.RunOnce(t.Context())) // opens the buckets; without another pass nothing is evened out
	admission := engine.NewAdmission(s.gate, s.ledger, time.Now, noWait, time.Minute, time.Second, log)
	service := engine.NewInventory(s.ledger, s.ledger, admission, s.keeper, shards, time.Now, log)
	t.Cleanup(service.Close)
	bus := inproc.New()
	bus.Handle(transport.Inventory, service.Handle)
	must(t, bus.Start(t.Context()))
	s.reserve = engine.NewReservations(admission, engine.NewFlow(bus, time.Second, log), s.ledger, open(), false, time.Now, log)
	t.Cleanup(s.reserve.Close)
	return s
}

// shop has shoppers reserve a unit each, some of them twice at the same time, and cancel. The keeper
// tells the gate behind their backs; when shop returns it has told everything.
func (s *street) shop() {
	var keeper, clients sync.WaitGroup
	closed := make(chan struct{})
	keeper.Go(func() {
		for {
			select {
			case <-s.news:
				s.keeper.Tell(s.t.Context())
			case <-closed:
				return
			}
		}
	})
	for c := range 6 {
		random := rand.New(rand.NewPCG(7, uint64(c)))
		clients.Go(func() {
			for n := range 8 {
				who, twice := id.Derive("shopper", fmt.Sprint(c, n)), random.IntN(3) == 0
				var calls sync.WaitGroup
				if twice {
					calls.Go(func() { s.buy(who, twice) })
				}
				s.buy(who, twice)
				calls.Wait()
				s.mu.Lock()
				_, mine := s.held[who]
				s.mu.Unlock()
				if mine && random.IntN(4) > 0 {
					s.cancel(who)
				}
			}
		})
	}
	clients.Wait()
	close(closed)
	keeper.Wait()
	s.keeper.Tell(s.t.Context())
}

// drain buys what is left one by one, gives every unit back, and buys once more. Nothing overlaps, so
// however the shoppers before were interleaved, a gate that lost a unit, or the way back to it, says
// "held out" where that cannot be.
func (s *street) drain() {
	for n := range int(s.stock)*4 + 1 {
		s.buy(id.Derive("late shopper", fmt.Sprint(n)), false)
	}
	s.mu.Lock()
	var mine []id.ID
	for who := range s.held {
		if _, gone := s.cancels[who]; !gone {
			mine = append(mine, who)
		}
	}
	s.mu.Unlock()
	for _, who := range mine {
		s.cancel(who)
	}
	s.keeper.Tell(s.t.Context())
	s.buy(id.Derive("last shopper"), false)
}

func (s *street) request(who id.ID) reservation.Request {
	return reservation.Request{User: who, Key: "k", Sale: s.item.Sale, SKU: s.item.SKU, Quantity: 1}
}

func (s *street) buy(who id.ID, twice bool) {
	began := s.h.Now()
	out, err := s.reserve.Reserve(s.t.Context(), s.request(who), "")
	call := span{began, s.h.Now()}
	s.tell()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil && out.Replayed && twice:
	case err == nil && !out.Replayed && out.Reservation.State == reservation.Held:
		s.held[who] = call
	case errors.Is(err, reservation.ErrHeldOut):
		s.out = append(s.out, call)
	case errors.Is(err, reservation.ErrInFlight) && twice:
	default:
		s.odd = append(s.odd, fmt.Sprintf("reserve: %+v, %v", out, err))
	}
}

func (s *street) cancel(who id.ID) {
	began := s.h.Now()
	out, err := s.reserve.Cancel(s.t.Context(), who, s.request(who).ID(), "")
	call := span{began, s.h.Now()}
	s.tell()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancels[who] = call; err != nil || out.Reservation.State != reservation.Cancelled {
		s.odd = append(s.odd, fmt.Sprintf("cancel: %+v, %v", out, err))
	}
}

func (s *street) tell() {
	select {
	case s.news <- struct{}{}:
	default: // the keeper will come by anyway
	}
}

// histories returns the steps of each bucket.
func (s *street) histories() map[inventory.BucketID]*inventorytest.History {
	rows, err := s.ledger.Buckets(s.t.Context(), nil)
	must(s.t, err)
	of := map[inventory.BucketID]*inventorytest.History{}
	for _, row := range rows {
		of[row.ID] = &inventorytest.History{}
		for _, call := range s.out {
			of[row.ID].Add(none, nil, call.began, call.ended)
		}
		credits, err := s.ledger.Credits(s.t.Context(), row.ID, 0, 1000)
		must(s.t, err)
		for _, c := range credits {
			told, ok := s.gate.credit[inventory.Credit{Bucket: row.ID, Seq: c.Seq}]
			if !ok {
				s.t.Errorf("the gate was not told of credit %+v", c)
			}
			of[row.ID].Add(returned, nil, s.cancels[c.User].began, told)
		}
	}
	for take, k := range s.gate.takes {
		if back, ok := s.gate.aborts[take]; ok {
			of[k.Bucket].Add(lent, nil, s.gate.took[take].began, s.gate.took[take].ended)
			of[k.Bucket].Add(givenBack, nil, back.began, back.ended)
		} else {
			of[k.Bucket].Add(drawn, nil, s.held[k.User].began, s.held[k.User].ended)
		}
	}
	return of
}

// TestReserveOrder: what shoppers are told while they reserve and cancel the last units at the same
// time could have been told one after the other, and afterwards gate and ledger agree.
func TestReserveOrder(t *testing.T) {
	t.Parallel()
	for _, shards := range []int{1, 2} {
		t.Run(fmt.Sprint(shards, " buckets"), func(t *testing.T) {
			t.Parallel()
			s := openStreet(t, shards, func(g engine.GateKeeper) engine.GateKeeper { return g })
			s.shop()
			s.drain()
			for _, h := range s.histories() {
				h.Check(t, shelf(s.stock))
			}
			if len(s.odd) > 0 {
				t.Errorf("odd answers: %v", s.odd)
			}
			if len(s.out) == 0 || len(s.cancels) == 0 {
				t.Errorf("%d were told that all is held, %d cancelled: the case shows nothing", len(s.out), len(s.cancels))
			}
			rows, err := s.ledger.Buckets(t.Context(), nil)
			must(t, err)
			for _, row := range rows {
				levels, err := s.gate.Levels(t.Context(), []inventory.BucketID{row.ID})
				must(t, err)
				levels[0].Pending = 0 // a take is settled behind the answer
				if want := (inventory.Level{Epoch: row.Epoch, Available: row.Available(), Seq: row.CreditSeq}); levels[0] != want {
					t.Errorf("the gate has %+v, the ledger %+v", levels[0], want)
				}
			}
			if checks, err := s.ledger.Audit(t.Context()); err != nil || !audit.Clean(checks) {
				t.Errorf("audit %+v, %v", checks, err)
			}
		})
	}
}

// broken is a gate that is wrong in one way.
type broken struct {
	engine.GateKeeper
	asked   atomic.Int64
	dry     atomic.Bool
	again   bool // every third take's answer is lost, and the take is sent again as another one
	forgets bool // credits are sent once and their answer is not looked at; they are lost
	flag    bool // "sold out" is remembered, and never cleared
}

func (b *broken) Take(ctx context.Context, k inventory.Take) (inventory.Taken, error) {
	if b.flag && b.dry.Load() {
		return inventory.Taken{}, inventory.ErrShort
	}
	if b.again && b.asked.Add(1)%3 == 0 {
		if taken, err := b.GateKeeper.Take(ctx, k); err != nil {
			return taken, err
		}
		k.ID = id.New(time.Now())
	}
	taken, err := b.GateKeeper.Take(ctx, k)
	b.dry.Store(b.dry.Load() || errors.Is(err, inventory.ErrShort))
	return taken, err
}

func (b *broken) Credit(ctx context.Context, bucket inventory.BucketID, epoch int64, credits []inventory.Credit) (int64, error) {
	if b.forgets {
		return credits[len(credits)-1].Seq, nil
	}
	return b.GateKeeper.Credit(ctx, bucket, epoch, credits)
}

// TestReserveOrderFindsBrokenGates: over a gate that is wrong, shoppers see what cannot be explained.
func TestReserveOrderFindsBrokenGates(t *testing.T) {
	t.Parallel()
	for name, b := range map[string]*broken{
		"a decrement that is repeated": {again: true}, "credits that nobody waits for": {forgets: true}, "a flag that stays": {flag: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStreet(t, 1, func(g engine.GateKeeper) engine.GateKeeper { b.GateKeeper = g; return b })
			s.shop()
			s.drain()
			for _, h := range s.histories() {
				if h.Linearizable(t, shelf(s.stock)) {
					t.Error("the checker accepts it")
				}
			}
		})
	}
}
