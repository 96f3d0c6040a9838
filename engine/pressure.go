package engine

import (
	"context"
	"encoding/json"
	"errors"
	"flashsale/payment"
	"flashsale/transport"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// A shopper who is let in and cannot pay has cost more than one who is turned away at once: when payments are as many as
// can be made, each further hold only takes from them. So the payment service bounds what it has under way, and the
// reservation service, which asks it and the inventory service, lets in no more than they get done.

// Pressure is what a service has under way, and the most that it takes on: payments in all their processes, decisions in
// the one that is asked.
type Pressure struct {
	UnderWay int     `json:"under_way"`
	Late     int     `json:"late"` // of them: payments nobody has come to for a second, decisions that have taken two
	Most     int     `json:"most"` // 0: no bound
	Came     float64 `json:"came"` // a second, of those that were taken on
	Done     float64 `json:"done"` // a second
	All      int     `json:"-"`    // under way in all services that were asked
}

// level is 1 where no more may be under way, and where as many are late as get done in two seconds: the bound is for
// machines that do hundreds a second, and on one that does fifty everybody would wait ten seconds before it is felt. What
// comes at once when the doors open is not late yet. Nor is anybody for the crowd where nothing gets done: somebody has
// died, and turning shoppers away would not help. usual is what got done a second over some, for a second says little; 0:
// not known.
func (p Pressure) level(usual float64) float64 {
	level := 0.0
	if p.Most > 0 {
		level = float64(p.UnderWay) / float64(p.Most)
	}
	if p.Done >= 1 {
		level = max(level, float64(p.Late)/(muchLate.Seconds()*max(p.Done, usual, fewDone)))
	}
	return level
}

// room is for how many more there is room until the pressure is the wanted one; fewer than none when it is higher. most may be
// under way, or any number if it is 0, and usual is what gets done a second. How long a provider takes says nothing here: what
// it is asked for is under way, but not late.
func (p Pressure) room(most int, usual float64) float64 {
	room := wantedPressure*muchLate.Seconds()*max(usual, fewDone) - float64(p.Late)
	if most > 0 {
		room = min(room, wantedPressure*float64(most)-float64(max(p.UnderWay, p.All)))
	}
	return room
}

const (
	lateAfter = time.Second
	muchLate  = 2 * time.Second
	fewDone   = 32.0 // a second; what one death leaves behind is not an overload
)

// underWay counts payments without an outcome, over all processes. It is as exact as a bound must be: between two looks
// at the store a process knows of its own only.
type underWay struct {
	most     int64
	now      atomic.Int64
	entering atomic.Int64 // here, and perhaps not in the store yet

	mu     sync.Mutex
	looked time.Time
	more   float64 // a second: how fast those under way become more
	last   Pressure
}

// enter takes a place, until entered, unless there is none.
func (u *underWay) enter() bool {
	if entering := u.entering.Add(1); u.now.Load()+entering > u.most { // first: who goes from one to the other counts twice, not never
		u.entering.Add(-1)
		return false
	}
	return true
}

// entered gives the place back; the payment that was begun has it now, if one was.
func (u *underWay) entered(begun bool) {
	if begun {
		u.now.Add(1)
	}
	u.entering.Add(-1)
}

// look takes over what the store has.
func (u *underWay) look(v payment.Traffic, now time.Time) {
	u.now.Store(int64(v.UnderWay))
	u.mu.Lock()
	defer u.mu.Unlock()
	past := max(now.Sub(u.looked), time.Millisecond).Seconds() // the clock may have been set back
	u.more = smooth(u.more, float64(v.UnderWay-u.last.UnderWay), past)
	done := float64(v.Done) / lateAfter.Seconds()
	u.looked, u.last = now, Pressure{UnderWay: v.UnderWay, Late: v.Late, Came: done + u.more, Done: done}
}

// forget has nothing to say until the store can be looked at again: what it was says nothing of what it is.
func (u *underWay) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.looked, u.last, u.more = time.Time{}, Pressure{}, 0
}

// smooth returns a rate over the last second or so, when n more came in the time past: groups of them come together.
func smooth(rate, n, past float64) float64 { return average(rate, n/past, past, 1) }

// average returns a value's average over the last seconds, when it was so much in the time past.
func average(value, now, past, over float64) float64 {
	old := math.Exp(-past / over)
	return old*value + (1-old)*now
}

// Pressure returns the payments under way, and how many may be.
func (s *Payments) Pressure() Pressure {
	s.load.mu.Lock()
	defer s.load.mu.Unlock()
	p := s.load.last
	p.UnderWay, p.Most = int(max(s.load.now.Load()+s.load.entering.Load(), 0)), int(s.load.most)
	return p
}

// work counts what one process has begun and not ended.
type work struct {
	begun, ended, done atomic.Int64

	mu     sync.Mutex
	looked time.Time
	was    [2]int64 // begun and done, then
	marks  []mark   // of the looks within muchLate, and of the last before
	last   Pressure
}

// mark is how many had begun at a look.
type mark struct {
	at    time.Time
	begun int64
}

func (w *work) begin() { w.begun.Add(1) }

func (w *work) end(done bool) {
	w.ended.Add(1)
	if done {
		w.done.Add(1)
	}
}

// pressure returns what is under way here, not what waits in a queue before it: with 512 at most out of RabbitMQ that
// tells of a process that decides fewer than some two hundred a second. What begins first is taken to end first: late are those
// begun before muchLate, as far as they have not ended.
func (w *work) pressure(now time.Time) Pressure {
	w.mu.Lock()
	defer w.mu.Unlock()
	ended := w.ended.Load() // before begun: there are never fewer than none under way
	begun, done := w.begun.Load(), w.done.Load()
	past := now.Sub(w.looked)
	if past >= lookEvery/2 { // several ask
		w.last.Came = smooth(w.last.Came, float64(begun-w.was[0]), past.Seconds())
		w.last.Done = smooth(w.last.Done, float64(done-w.was[1]), past.Seconds())
		w.looked, w.was = now, [2]int64{begun, done}
		w.marks = append(w.marks, mark{now, begun})
	} else if past < 0 { // the clock was set back
		w.looked, w.marks = now, nil
	}
	for len(w.marks) > 1 && now.Sub(w.marks[1].at) >= muchLate {
		w.marks = w.marks[1:]
	}
	w.last.UnderWay, w.last.Late = int(begun-ended), 0
	if len(w.marks) > 0 && now.Sub(w.marks[0].at) >= muchLate {
		w.last.Late = int(max(0, w.marks[0].begun-ended))
	}
	return w.last
}

// Worst asks several services for their pressure, all at once, and returns the highest, with what is under way in all and
// the errors of those that do not answer.
func Worst(asks ...func(context.Context) (Pressure, error)) func(context.Context) (Pressure, error) {
	return func(ctx context.Context) (worst Pressure, err error) {
		all, errs := make([]Pressure, len(asks)), make([]error, len(asks))
		var asked sync.WaitGroup
		for i, ask := range asks {
			asked.Go(func() { all[i], errs[i] = ask(ctx) })
		}
		asked.Wait()
		under := 0
		for i, p := range all {
			if errs[i] != nil {
				continue
			}
			under += p.UnderWay
			if p.level(0) > worst.level(0) {
				worst = p
			}
		}
		worst.All = under
		return worst, errors.Join(errs...)
	}
}

// lookEvery is how often pressure is looked at, and asked for.
const lookEvery = 250 * time.Millisecond

// Look counts the payments under way in the store each quarter of a second, until ctx ends.
func (s *Payments) Look(ctx context.Context) error {
	return every(ctx, s.log, lookEvery, "look at payments under way", s.LookOnce)
}

// LookOnce counts the payments under way in the store.
func (s *Payments) LookOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 4*lookEvery)
	defer cancel()
	v, err := s.store.Traffic(ctx, lateAfter)
	if err != nil {
		s.load.forget()
		return err
	}
	s.load.look(v, s.clock())
	return nil
}

const askPressure = "payment.pressure"

// Answer is the transport.Answerer of the service.
func (s *Payments) Answer(_ context.Context, q transport.Question) (json.RawMessage, error) {
	if q.Name != askPressure {
		return nil, transport.Permanent(fmt.Errorf("engine: payment has no answer to %q", q.Name))
	}
	return json.Marshal(s.Pressure())
}

// RemotePayments asks the payment service.
type RemotePayments struct{ To transport.Asker }

// Pressure returns what the service has under way.
func (r RemotePayments) Pressure(ctx context.Context) (Pressure, error) {
	return ask[Pressure](ctx, r.To, transport.Payment, askPressure, struct{}{})
}
