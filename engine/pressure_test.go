package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"flashsale/engine"
	"flashsale/id"
	"flashsale/money"
	"flashsale/order"
	"flashsale/payment"
	"flashsale/payment/sqlitepayment"
	"flashsale/testenv/databases"
	"flashsale/transport"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// till makes payments: so many a second get done, and so many may be under way.
type till struct {
	mu sync.Mutex

	perSecond, under, done, came float64
	asked                        float64 // of those who came, the throttles
	turned                       float64 // away, for there were as many as may be
	longest                      float64 // queue
	most                         int
	shares                       float64     // so many under way get done as fast as can be, for they share commits; fewer take longer each; 0: as long
	takes                        float64     // seconds at the provider, who has any number in hand; 0: no time
	buys                         float64     // the part of those let in who pay; 0: all
	away                         bool        // nobody answers for it
	behind                       bool        // it has not seen how many come
	told                         []time.Time // by a server in front, who has drawn a lot: no, until then; none: no server
	chance                       *rand.Rand
}

func (p *till) pressure(context.Context) (engine.Pressure, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		return engine.Pressure{}, transport.ErrUnavailable
	}
	late := max(0, p.under-p.perSecond) // the first to come is the first to pay
	if p.takes > 0 {
		late = 0
	}
	came := p.came
	if p.behind {
		came = p.perSecond
	}
	return engine.Pressure{UnderWay: int(p.under), Late: int(late), Most: p.most, Came: came, Done: p.speed()}, nil
}

// speed is how many get done a second.
func (p *till) speed() float64 {
	switch {
	case p.takes > 0:
		return p.under / p.takes
	case p.shares == 0:
		return p.perSecond
	}
	return p.perSecond * (0.4 + 0.6*min(1, p.under/p.shares))
}

// goAway leaves nobody who answers, or makes a payment.
func (p *till) goAway() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away, p.perSecond = true, 0
}

// chance draws the same in every run.
func chance() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// enters has somebody come. As nginx does, the server in front says no until the end of the second after.
func (p *till) enters(t *engine.Throttle) bool {
	lot := -1
	if len(p.told) > 0 {
		lot = p.chance.IntN(len(p.told))
		if time.Now().Before(p.told[lot]) {
			return false
		}
	}
	p.asked++
	turned := t.Come(lot)
	if turned.Again {
		p.told[lot] = time.Now().Truncate(time.Second).Add(2 * time.Second)
	}
	return !turned.Away && t.Enter()
}

// run has shoppers come for some time, at a rate, to several throttles; who is let in pays at once. It returns how many
// came, were let in, and have paid, a second.
func (p *till) run(throttles []*engine.Throttle, rate float64, d time.Duration) (came, in, paid float64) {
	const step = 10 * time.Millisecond
	before, due := p.done, 0.0
	for range d / step {
		time.Sleep(step) // in the bubble: the throttles look in between
		entered := 0.0
		for due += rate * step.Seconds(); due >= 1; due-- {
			came++
			if p.enters(throttles[int(came)%len(throttles)]) {
				entered++
			}
		}
		in += entered
		p.mu.Lock()
		if p.buys > 0 {
			entered *= p.buys
		}
		p.came = 0.99*p.came + 0.01*entered/step.Seconds() // over the last second
		p.under += entered
		if over := p.under - float64(p.most); over > 0 {
			p.under, p.turned = p.under-over, p.turned+over
		}
		now := min(p.under, p.speed()*step.Seconds())
		p.under, p.done = p.under-now, p.done+now
		p.longest = max(p.longest, p.under)
		p.mu.Unlock()
	}
	return came / d.Seconds(), in / d.Seconds(), (p.done - before) / d.Seconds()
}

// TestThrottle: with less to do than can be done everybody is let in; with three and with ten times as much nearly as many
// are let in as can pay, whatever the number of processes, and payments never wait long; behind it everybody is let in
// again; and while nobody can be asked nobody is turned away. A server in front that says no again changes none of that, and
// keeps most of those from the throttles who have come for nothing.
func TestThrottle(t *testing.T) {
	t.Parallel()
	deciding := func(context.Context) (engine.Pressure, error) { return engine.Pressure{UnderWay: 5}, nil }
	for _, c := range []struct {
		processes int
		perSecond float64
		times     []float64
		behind    bool
		shares    float64
		takes     float64
		buys      float64
	}{
		{1, 200, []float64{3, 10}, false, 0, 0, 0},
		{2, 200, []float64{3, 10}, false, 0, 0, 0},
		{4, 50, []float64{3, 10}, false, 0, 0, 0},
		{1, 30, []float64{3, 10}, false, 0, 0, 0},
		{2, 3000, []float64{3, 10}, false, 0, 0, 0},
		{1, 50, []float64{60, 3}, true, 0, 0, 0},
		{1, 350, []float64{3, 10}, false, 180, 0, 0},
		{2, 350, []float64{3, 10}, false, 180, 0, 0},
		{1, 25, []float64{3, 10}, false, 0, 10, 0},
		{2, 25, []float64{3, 10}, false, 0, 10, 0},
		{1, 200, []float64{10}, false, 0, 0, 0.5},
		{2, 200, []float64{30}, false, 0, 0, 0.1},
	} {
		for _, lots := range []int{0, engine.Lots} {
			t.Run(fmt.Sprintf("%+v, %d lots", c, lots), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					p := &till{perSecond: c.perSecond, most: 512, behind: c.behind, shares: c.shares, takes: c.takes, buys: c.buys, told: make([]time.Time, lots), chance: chance()}
					var all []*engine.Throttle
					for range c.processes {
						th := engine.NewThrottle(engine.Worst(p.pressure, deciding), time.Now, slog.New(slog.DiscardHandler))
						go func() { _ = th.Run(ctx) }()
						all = append(all, th)
					}
					if came, in, _ := p.run(all, 0.8*c.perSecond, 20*time.Second); in != came {
						t.Errorf("of %.0f a second only %.0f are let in on a quiet day", came, in)
					}
					for _, times := range c.times {
						_, _, _ = p.run(all, times*c.perSecond, 20*time.Second) // until it is known
						p.turned, p.done, p.longest, p.asked = 0, 0, 0, 0
						_, in, paid := p.run(all, times*c.perSecond, time.Minute)
						least, most := 0.95, 1.1
						if c.takes > 0 { // as many as may be under way, not as fast as can be
							least, most = 0.85, 1.2
						}
						perSecond := c.perSecond // that are to be let in
						if c.buys > 0 {
							perSecond /= c.buys
							least, most = 0.85, 1.2
						}
						if paid < least*c.perSecond || in > most*perSecond {
							t.Errorf("at %.0f times as many: %.0f a second are let in, and %.0f pay", times, in, paid)
						}
						if asked := p.asked / 60; lots > 0 && asked > 1.3*float64(max(2, c.processes))*perSecond+engine.Lots {
							t.Errorf("at %.0f times as many the throttles are asked %.0f times a second", times, asked)
						}
						if wait := p.longest / c.perSecond; wait > 6+c.takes {
							t.Errorf("at %.0f times as many who is let in waits for %.1f s", times, wait)
						}
						if p.turned > 0.02*p.done {
							t.Errorf("at %.0f times as many %.0f are let in and cannot pay, and %.0f pay", times, p.turned, p.done)
						}
					}
					_, _, _ = p.run(all, 0.5*c.perSecond, 20*time.Second)
					if came, in, _ := p.run(all, 0.5*c.perSecond, 10*time.Second); in != came {
						t.Errorf("behind it only %.0f of %.0f a second are let in", in, came)
					}
					_, _, _ = p.run(all, 3*c.perSecond, 5*time.Second)
					p.goAway()
					_, _, _ = p.run(all, 3*c.perSecond, 20*time.Second)
					if came, in, _ := p.run(all, 3*c.perSecond, 10*time.Second); in != came {
						t.Errorf("while nobody can be asked only %.0f of %.0f a second are let in", in, came)
					}
				})
			})
		}
	}
}

// TestThrottleBehindNginx: nginx says no again for every process. One that comes to others in the middle of a crowd, and knows
// nothing yet, soon has its part and keeps nobody from the others till then; nor does one that can let in nobody.
func TestThrottleBehindNginx(t *testing.T) {
	t.Parallel()
	const perSecond = 200
	for _, stuck := range []bool{false, true} {
		t.Run(fmt.Sprintf("stuck: %v", stuck), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				p := &till{perSecond: perSecond, most: 512, told: make([]time.Time, engine.Lots), chance: chance()}
				throttle := func(pressure func(context.Context) (engine.Pressure, error)) *engine.Throttle {
					return engine.NewThrottle(pressure, time.Now, slog.New(slog.DiscardHandler))
				}
				all := []*engine.Throttle{throttle(p.pressure), throttle(p.pressure)}
				for _, th := range all {
					go func() { _ = th.Run(ctx) }()
				}
				_, _, _ = p.run(all, 10*perSecond, 20*time.Second)
				p.mu.Lock()
				p.under = float64(p.most) // in its worst moment
				p.mu.Unlock()
				pressure := p.pressure
				if stuck {
					pressure = func(context.Context) (engine.Pressure, error) {
						return engine.Pressure{UnderWay: 900, Most: 512, Came: perSecond, Done: perSecond}, nil
					}
				}
				another := throttle(pressure)
				_, _, _ = p.run(all, 10*perSecond, 10*time.Millisecond) // until it looks for the first time, and has seen nobody
				go func() { _ = another.Run(ctx) }()
				all = append(all, another)
				_, _, paid := p.run(all, 10*perSecond, 20*time.Second)
				if rate := another.Rate(); paid < 0.9*perSecond || stuck != (rate < 5) {
					t.Errorf("of %d a second %.0f pay; the other process lets in %.0f", perSecond, paid, rate)
				}
			})
		})
	}
}

// TestWithoutALot: who comes past the server in front has no better chance than who is told no there.
func TestWithoutALot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		p := &till{perSecond: 200, most: 512, told: make([]time.Time, engine.Lots), chance: chance()}
		th := engine.NewThrottle(p.pressure, time.Now, slog.New(slog.DiscardHandler))
		go func() { _ = th.Run(ctx) }()
		all := []*engine.Throttle{th}
		_, _, _ = p.run(all, 2000, 20*time.Second)
		in := 0
		const times = 400
		for range times {
			_, _, _ = p.run(all, 2000, 50*time.Millisecond)
			if turned := th.Come(-1); !turned.Away {
				in++
			} else if turned.Again {
				t.Fatal("nobody in front can say so again")
			}
		}
		if in < times/40 || in > times/4 {
			t.Errorf("of %d without a lot %d are asked in; of all a tenth is", times, in)
		}
	})
}

// TestWhenIsTooMany: many under way are too many, and many that nobody has come to for a second, of those that get done;
// what one death leaves behind is not, nor is what waits where nothing gets done. A till that does not answer now and then
// changes nothing, and has no say when it never does.
func TestWhenIsTooMany(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		p       engine.Pressure
		answers func(n int) bool
		turns   bool
	}{
		"few":                 {p: engine.Pressure{UnderWay: 500, Most: 1024, Done: 300}},
		"many":                {p: engine.Pressure{UnderWay: 900, Most: 1024, Done: 100}, turns: true},
		"some late":           {p: engine.Pressure{UnderWay: 100, Late: 90, Most: 1024, Done: 100}},
		"many late":           {p: engine.Pressure{UnderWay: 500, Late: 400, Most: 1024, Done: 100}, turns: true},
		"late after a death":  {p: engine.Pressure{UnderWay: 30, Late: 30, Most: 1024, Done: 2}},
		"nothing gets done":   {p: engine.Pressure{UnderWay: 400, Late: 400, Most: 1024}},
		"it often is silent":  {p: engine.Pressure{UnderWay: 900, Most: 1024, Done: 100}, answers: func(n int) bool { return n%4 == 0 }, turns: true},
		"it is always silent": {p: engine.Pressure{UnderWay: 600, Most: 1024, Done: 300}, answers: func(n int) bool { return n < 8 }},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			asked := 0
			th := engine.NewThrottle(func(context.Context) (engine.Pressure, error) {
				if asked++; c.answers != nil && !c.answers(asked) {
					return engine.Pressure{}, transport.ErrUnavailable
				}
				return c.p, nil
			}, time.Now, slog.New(slog.DiscardHandler))
			go func() { _ = th.Run(ctx) }()
			came, in := 0, 0
			for n := range 6000 { // a hundred a second for a minute
				time.Sleep(10 * time.Millisecond) // of the bubble's clock
				entered := !th.Come(-1).Away && th.Enter()
				if n < 5000 {
					continue
				}
				if came++; entered {
					in++
				}
			}
			if c.turns != (in < came/2) || !c.turns && in != came {
				t.Errorf("%s: of %d who come in the last ten seconds %d are let in", name, came, in)
			}
		})
	}
}

// nobodys has no orders.
type nobodys struct{}

func (nobodys) Order(context.Context, id.ID, id.ID) (order.Order, error) {
	return order.Order{}, order.ErrNotFound
}

// TestMostPaying: when as many payments are under way as may be, in whatever process they began, a further one is turned
// away and leaves no trace; and is taken on when one of them has an outcome. What is late and what got done is told, too.
func TestMostPaying(t *testing.T) {
	t.Parallel()
	db := databases.SQLite(t, sqlitepayment.Migrations)
	now := time.Now()
	clock := func() time.Time { return now }
	store := sqlitepayment.New(db, clock)
	log := slog.New(slog.DiscardHandler)
	s := engine.NewPayments(store, nil, nobodys{}, engine.NewFlow(nil, time.Second, log), time.Second, 2, clock, log)
	user := id.Derive("user")
	pay := func(want error) {
		t.Helper()
		must(t, s.LookOnce(t.Context()))
		if _, err := s.Pay(t.Context(), user, id.Derive("order"), "key", "tok_ok", ""); !errors.Is(err, want) {
			t.Fatalf("pay with %+v: %v, want %v", s.Pressure(), err, want)
		}
	}
	var begun []id.ID
	for n := range 2 { // of another process
		pay(order.ErrNotFound) // it was taken on: there is no such order
		p, _, err := store.Begin(t.Context(), payment.Payment{ID: id.Derive("payment", fmt.Sprint(n)), Order: id.Derive("order", fmt.Sprint(n)), User: user, Amount: money.Money{Amount: 1, Currency: "EUR"}, State: payment.Requested})
		must(t, err)
		begun = append(begun, p.ID)
	}
	pay(transport.ErrOverloaded)
	for _, c := range []struct {
		later time.Duration
		late  int
	}{{0, 0}, {2 * time.Second, 2}, {2 * time.Minute, 0}} { // and stuck
		now = now.Add(c.later)
		must(t, s.LookOnce(t.Context()))
		if p := s.Pressure(); p.UnderWay != 2 || p.Most != 2 || p.Late != c.late || p.Done != 0 {
			t.Errorf("%s later the pressure is %+v, want %d of them late", c.later, p, c.late)
		}
	}
	_, err := store.Advance(t.Context(), payment.Step{Payment: begun[0], From: []payment.State{payment.Requested}, To: payment.Charging})
	must(t, err)
	pay(transport.ErrOverloaded)
	_, err = store.Advance(t.Context(), payment.Step{Payment: begun[0], From: []payment.State{payment.Charging}, To: payment.Captured})
	must(t, err)
	pay(order.ErrNotFound)
	b, err := s.Answer(t.Context(), transport.Question{Name: "payment.pressure", Data: []byte("{}")})
	must(t, err)
	var told engine.Pressure
	if must(t, json.Unmarshal(b, &told)); told.UnderWay != 1 || told.Most != 2 || told.Done != 1 {
		t.Errorf("others are told %s", b)
	}
	if _, err := s.Answer(t.Context(), transport.Question{Name: "payment.nothing"}); !transport.IsPermanent(err) {
		t.Errorf("an unknown question: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.LookOnce(gone); err == nil || s.Pressure().Done != 0 {
		t.Errorf("when the store cannot be looked at (%v) it is told what was: %+v", err, s.Pressure())
	}
}

// slowOrders answers when it is let.
type slowOrders struct{ come, answer chan struct{} }

func (s slowOrders) Order(context.Context, id.ID, id.ID) (order.Order, error) {
	s.come <- struct{}{}
	<-s.answer
	return order.Order{}, order.ErrNotFound
}

// TestMostPayingAtOnce: those who come before the first of them is in the store do not get past the bound together.
func TestMostPayingAtOnce(t *testing.T) {
	t.Parallel()
	const most, come = 2, 6
	slow := slowOrders{make(chan struct{}, come), make(chan struct{})}
	log := slog.New(slog.DiscardHandler)
	s := engine.NewPayments(nil, nil, slow, engine.NewFlow(nil, time.Second, log), time.Second, most, time.Now, log)
	said := make(chan error, come)
	pay := func() {
		_, err := s.Pay(t.Context(), id.Derive("user"), id.Derive("order"), "key", "tok_ok", "")
		said <- err
	}
	for range most {
		go pay()
		<-slow.come
	}
	if p := s.Pressure(); p.UnderWay != most {
		t.Errorf("%d are under way, want %d", p.UnderWay, most)
	}
	for range come - most {
		go pay()
		if err := <-said; !errors.Is(err, transport.ErrOverloaded) {
			t.Errorf("one more is told %v", err)
		}
	}
	close(slow.answer)
	for range most {
		if err := <-said; !errors.Is(err, order.ErrNotFound) {
			t.Errorf("who came first is told %v", err)
		}
	}
	if p := s.Pressure(); p.UnderWay != 0 {
		t.Errorf("%d are under way when all have gone", p.UnderWay)
	}
}
