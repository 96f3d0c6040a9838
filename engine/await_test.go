package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"flashsale/engine"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slowBooks answers every question after a moment, and counts them.
type slowBooks struct {
	engine.ReservationReader
	away    error
	decided time.Time // nobody is, before

	mu             sync.Mutex
	questions, now int
	most           int // at the same time
}

func (b *slowBooks) Rows(_ context.Context, ids []id.ID) (rows []reservation.Reservation, err error) {
	b.mu.Lock()
	b.questions++
	b.now++
	b.most = max(b.most, b.now)
	b.mu.Unlock()
	time.Sleep(100 * time.Millisecond) // of the bubble's clock
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.now--; b.away != nil {
		return nil, b.away
	}
	for i := len(ids) - 1; i >= 0; i-- { // in any order
		if ids[i][15]%2 == 0 && !time.Now().Before(b.decided) {
			rows = append(rows, reservation.Reservation{ID: ids[i], User: owner, State: reservation.Held})
		}
	}
	return rows, nil
}

// owner has all reservations.
var owner = id.Derive("owner")

// TestAwait: hundreds who wait for a decision are told soon after it, while one question at a time is asked, a fifth of the
// time at most, and none when nobody waits. Somebody else's reservation is not told; a ledger that is away is asked again.
func TestAwait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		books := &slowBooks{decided: time.Now().Add(5 * time.Second)}
		s := engine.NewReservations(nil, nil, books, open(), true, time.Now, slog.New(slog.DiscardHandler))
		defer s.Close()
		began := time.Now()
		var all sync.WaitGroup
		for n := range 900 {
			v := id.DeriveFor(owner, "reservation", fmt.Sprint(n/2)) // two wait for each
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				r, err := s.Await(ctx, owner, v)
				took := time.Since(began)
				if v[15]%2 == 0 && (r.State != reservation.Held || took < 5*time.Second || took > 6*time.Second) ||
					v[15]%2 == 1 && (r.State != reservation.Requested || took != 10*time.Second) || r.ID != v || err != nil {
					t.Errorf("%s is %+v after %s (%v)", v, r, took, err)
				}
			})
		}
		all.Wait()
		asked := books.questions
		if asked > 21 || asked < 15 || books.most > 1 { // each takes 100 ms
			t.Errorf("in ten seconds %d questions are asked, %d at the same time", asked, books.most)
		}
		time.Sleep(time.Minute) // of the bubble's clock
		if now := books.questions; now > asked+1 {
			t.Errorf("when nobody waits there are %d more questions", now-asked)
		}
		books.away = transport.ErrUnavailable
		go func() {
			time.Sleep(time.Second) // of the bubble's clock
			books.mu.Lock()
			defer books.mu.Unlock()
			books.away = nil
		}()
		other := id.Derive("somebody else")
		for user, want := range map[id.ID]error{owner: nil, other: reservation.ErrNotFound} {
			v := id.DeriveFor(user, "reservation", "even")
			v[15] &^= 1
			if _, err := s.Await(t.Context(), user, v); !errors.Is(err, want) {
				t.Errorf("%s of %s: %v, want %v", v, user, err, want)
			}
			if _, err := s.Await(t.Context(), id.Derive("a third"), v); !errors.Is(err, reservation.ErrNotFound) {
				t.Errorf("a third is told of %s: %v", v, err)
			}
		}
	})
}

// TestAwaitBesideClose: who waits when the process stops, and who comes then, wait until their time is over.
func TestAwaitBesideClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		books := &slowBooks{decided: time.Now().Add(time.Hour)}
		s := engine.NewReservations(nil, nil, books, open(), true, time.Now, slog.New(slog.DiscardHandler))
		began := time.Now()
		var all sync.WaitGroup
		wait := func() {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if r, err := s.Await(ctx, owner, id.DeriveFor(owner, "reservation", "0")); err != nil || r.State != reservation.Requested || ctx.Err() == nil {
				t.Errorf("%+v, %v after %s", r, err, time.Since(began))
			}
		}
		all.Go(wait)
		time.Sleep(time.Second) // of the bubble's clock
		s.Close()
		s.Close()
		if took := time.Since(began); took > 1200*time.Millisecond { // a look under way takes 100 ms
			t.Errorf("the stop waits until %s", took)
		}
		asked := books.questions
		all.Go(wait)
		all.Wait()
		if books.questions != asked {
			t.Errorf("%d questions after the stop", books.questions-asked)
		}
	})
}

// stuckLedger commits nothing while somebody else holds the lock.
type stuckLedger struct {
	inventory.Ledger
	lock *sync.RWMutex
}

func (l stuckLedger) Commit(ctx context.Context, claims []inventory.Claim) ([]inventory.Decision, error) {
	l.lock.RLock()
	defer l.lock.RUnlock()
	return l.Ledger.Commit(ctx, claims)
}

// TestDecidingPressure: who waits for a decision is told to those who let shoppers in, before anybody can pay; and they
// turn shoppers away while it is more than gets done in time.
func TestDecidingPressure(t *testing.T) {
	t.Parallel()
	const few, many = 150, 700
	d := openDesk(t, few+many, 1, 0)
	var lock sync.RWMutex
	var later atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	s := engine.NewInventory(stuckLedger{d.ledger, &lock}, d.ledger, d.admission, d.keeper, 1, clock, slog.New(slog.DiscardHandler))
	defer s.Close()
	ask := func(ctx context.Context) (p engine.Pressure, err error) {
		b, err := s.Answer(ctx, transport.Question{Name: "inventory.pressure", Data: []byte("{}")})
		if err == nil {
			err = json.Unmarshal(b, &p)
		}
		return p, err
	}
	pressure := func() engine.Pressure {
		t.Helper()
		p, err := ask(t.Context())
		must(t, err)
		return p
	}
	var all sync.WaitGroup
	come := func(n int, key string) {
		t.Helper()
		for i := range n {
			c := d.draw(d.request(fmt.Sprint(key, i), key))
			e := transport.Repeatable(inventory.EventRequested, transport.Reservation, c.Request.ID(), c.Legs[0].Take.String(), time.Now(), "", inventory.NewClaimData(c, true))
			all.Go(func() {
				if _, err := s.Handle(t.Context(), e); err != nil {
					t.Error(err)
				}
			})
		}
		// Nobody tells when the last has come to the ledger: it is asked.
		again := time.NewTicker(time.Millisecond)
		defer again.Stop()
		for deadline := time.Now().Add(10 * time.Second); pressure().UnderWay < n; <-again.C {
			if time.Now().After(deadline) {
				t.Fatalf("of %d who wait it is told of %+v", n, pressure())
			}
		}
	}
	if p := pressure(); p != (engine.Pressure{}) {
		t.Errorf("before anybody comes: %+v", p)
	}
	lock.Lock()
	unlock := sync.OnceFunc(lock.Unlock)
	defer func() { unlock() }() // whatever fails: the service ends what it has begun
	come(few, "few")
	for _, c := range []struct {
		after time.Duration
		late  int
	}{{time.Second, 0}, {500 * time.Millisecond, 0}, {2 * time.Second, few}} {
		later.Add(int64(c.after))
		if p := pressure(); p.UnderWay != few || p.Late != c.late || p.Came == 0 || p.Done != 0 {
			t.Errorf("while %d wait, %s later: %+v", few, c.after, p)
		}
	}
	unlock()
	all.Wait()
	later.Add(int64(time.Second))
	if p := pressure(); p.UnderWay != 0 || p.Late != 0 || p.Done < 32 {
		t.Errorf("when all are decided: %+v", p)
	}
	lock.Lock()
	unlock = sync.OnceFunc(lock.Unlock)
	come(many, "many")
	later.Add(int64(200 * time.Millisecond))
	pressure() // all have come by this look
	later.Add(int64(2 * time.Second))
	if p := pressure(); p.UnderWay != many || p.Late != many || p.Done < 1 {
		t.Errorf("while %d wait: %+v", many, p)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var looks atomic.Int64
	th := engine.NewThrottle(engine.Worst(func(context.Context) (engine.Pressure, error) {
		looks.Add(1)
		return engine.Pressure{}, transport.ErrUnavailable // who pays is away: this one is heard all the same
	}, ask), time.Now, slog.New(slog.DiscardHandler))
	for range 1000 {
		if !th.Enter() {
			t.Fatal("somebody is turned away before anybody was asked")
		}
	}
	all.Go(func() { _ = th.Run(ctx) })
	for th.Rate() == 0 {
		if pause := time.After(time.Millisecond); ctx.Err() != nil {
			t.Fatalf("with %+v nobody is turned away", pressure())
		} else {
			<-pause
		}
	}
	if n := looks.Load(); n > 4 {
		t.Errorf("it is heard at look %d only", n)
	}
	cancel()
	unlock()
	all.Wait()
}

// TestWorst: of several services the one counts that has most to do, and one that does not answer is not passed over.
func TestWorst(t *testing.T) {
	t.Parallel()
	says := func(p engine.Pressure, err error) func(context.Context) (engine.Pressure, error) {
		return func(context.Context) (engine.Pressure, error) { return p, err }
	}
	calm := engine.Pressure{UnderWay: 500, Most: 1024, Done: 400}
	busy := engine.Pressure{UnderWay: 300, Late: 200, Done: 50}
	is := func(p engine.Pressure, all int) bool {
		want := busy
		want.All = all
		return p == want
	}
	for _, c := range []struct {
		asks []func(context.Context) (engine.Pressure, error)
		all  int
	}{
		{[]func(context.Context) (engine.Pressure, error){says(calm, nil), says(busy, nil)}, 800},
		{[]func(context.Context) (engine.Pressure, error){says(busy, nil), says(calm, nil)}, 800},
		{[]func(context.Context) (engine.Pressure, error){says(busy, nil), says(engine.Pressure{}, nil)}, 300},
	} {
		if p, err := engine.Worst(c.asks...)(t.Context()); err != nil || !is(p, c.all) {
			t.Errorf("the worst is %+v, %v", p, err)
		}
	}
	if p, err := engine.Worst(says(busy, nil), says(calm, transport.ErrUnavailable))(t.Context()); !is(p, 300) || !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("when one does not answer: %+v, %v", p, err)
	}
}
