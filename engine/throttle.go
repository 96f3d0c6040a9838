package engine

import (
	"context"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

// Throttle bounds how many reservations a second are let in, while decisions or payments are under pressure.
type Throttle struct {
	ask   func(context.Context) (Pressure, error)
	clock func() time.Time
	log   *slog.Logger

	mu     sync.Mutex
	rate   float64 // a second; 0: any number
	tokens float64 // of what may be let in now; a second's at most, for who comes does not come evenly
	filled time.Time
	in     int // since the last look
	came   int
	coming float64 // a second
	let    float64 // in a second, over some of them
	begun  float64 // and what began where there was most to do
	done   float64 // and ended there
	best   float64 // of done, not long ago
	room   float64 // for so many more, over half a second
	most   int     // that may be under way, as far as anybody says; 0: any number
	turned int     // away since the last look
	calm   float64 // for so many seconds
	looked time.Time
	lots   lots
	silent int // asks without an answer, in a row; Run's own
}

// NewThrottle returns a Throttle that lets in everybody until Run hears of pressure.
func NewThrottle(pressure func(context.Context) (Pressure, error), clock func() time.Time, log *slog.Logger) *Throttle {
	return &Throttle{ask: pressure, clock: clock, log: log, looked: clock()}
}

// Turned is what becomes of one who comes.
type Turned struct {
	Away  bool
	Again bool    // a server in front may tell others with the same lot the same, for a second or two, without asking here
	Turns float64 // how many come for each who is let in
}

// Come counts one who comes, and says whether he is turned away, so that no more needs to be known of him; who is not may
// Enter. A server in front has each draw a lot, 0 to Lots-1; without one it is -1, and he has no better chance than others.
func (t *Throttle) Come(lot int) Turned {
	now := t.clock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.came++
	t.lots.come(lot)
	if t.rate == 0 || (lot >= 0 || t.lots.asked(rand.IntN(Lots))) && t.token(now) {
		return Turned{}
	}
	t.turned++
	return Turned{Away: true, Again: !t.lots.asked(lot), Turns: t.crowd() / t.rate}
}

// Enter reports whether one more is let in.
func (t *Throttle) Enter() bool {
	now := t.clock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rate > 0 {
		if !t.token(now) {
			t.turned++
			return false
		}
		t.tokens--
	}
	t.in++
	return true
}

// token reports whether there is one.
func (t *Throttle) token(now time.Time) bool {
	t.tokens = min(t.tokens+t.rate*max(now.Sub(t.filled), 0).Seconds(), max(1, t.rate))
	t.filled = now
	return t.tokens >= 1
}

// Rate returns how many a second are let in; 0: any number.
func (t *Throttle) Rate() float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rate
}

// Run asks for the pressure until ctx ends.
func (t *Throttle) Run(ctx context.Context) error {
	return every(ctx, t.log, lookEvery, "throttle", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 4*lookEvery)
		defer cancel()
		p, err := t.ask(ctx)
		if t.silent++; err == nil {
			t.silent = 0
		}
		// Who does not answer for long has no say: reserving goes on while nobody can pay. Another that has too much is heard.
		if t.silent == 0 || t.silent > mostSilent || p.level(0) > wantedPressure {
			t.look(ctx, p)
		}
		return err
	})
}

// While there is too much to do, as many are let in as get done with, and so many more or fewer that the pressure will be the
// wanted one, settle from now: half of what may be is under way then, or fewer, where that is more than gets done in time. Fewer
// still would wait less, but cost more: what is under way at the same time shares commits, and with a fourth of it each costs
// twice as much.
const (
	wantedPressure = 0.5
	settle         = 2.5  // seconds
	remembered     = 10.0 // seconds
	leastShare     = 1.0 / 8
	calmFor        = 4.0 // seconds in which nobody had to be turned away
	back           = 1.3 // times a look
	mostSilent     = 8   // looks: the answer is late when there are many, and that is no reason to let in more
	leastRate      = 1.0
	long           = 4.0 // seconds: what gets done in one says little, for groups move through the services together
	short          = 0.5 // seconds
)

func (t *Throttle) look(ctx context.Context, p Pressure) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock()
	past := now.Sub(t.looked).Seconds()
	if past <= 0 { // the clock was set back
		t.looked = now
		return
	}
	t.coming = smooth(t.coming, float64(t.came), past)
	t.let = average(t.let, float64(t.in)/past, past, long)
	t.begun, t.done = average(t.begun, p.Came, past, long), average(t.done, p.Done, past, long)
	t.in, t.came, t.looked = 0, 0, now
	t.lots.look(past)
	t.best = max(t.done, t.best*math.Exp(-past/remembered))
	if p.Most > 0 {
		t.most = p.Most
	}
	t.room = average(t.room, p.room(t.most, t.best), past, short)
	pressure := p.level(t.done)
	if t.calm += past; t.turned > 0 || pressure > wantedPressure {
		t.calm = 0
	}
	t.turned = 0
	switch {
	case pressure <= wantedPressure && t.rate == 0:
	case t.calm >= calmFor:
		t.rate = 0
		t.log.InfoContext(ctx, "reservations are let in as they come")
	case p.level(0) == 0 && t.rate > 0: // nobody can be asked, or has anything to do
		t.rate *= back
	default:
		if t.rate == 0 {
			t.log.WarnContext(ctx, "reservations are let in no faster than they are decided and paid for", "under_way", p.UnderWay, "late", p.Late, "of", p.Most, "a_second", int(t.done))
			t.filled = now
		}
		t.rate = max(leastRate, max(t.capacity(), t.share()*t.done)+t.share()*t.room/settle)
	}
	want := math.Inf(1)
	if t.rate > 0 {
		want = enough * max(t.rate, t.done)
	}
	t.lots.ask(want)
}

// crowd is how many come, a second, as far as they come to this process; those included who are told no in front.
func (t *Throttle) crowd() float64 { return max(t.coming, t.lots.each*Lots) }

// capacity is how many of those let in here get done with, a second: who never pays, or is told that all is sold, is not in what
// began. As long as nothing began, all do.
func (t *Throttle) capacity() float64 {
	if t.begun < leastRate {
		return t.let
	}
	return t.let * min(t.done/t.begun, 1)
}

// share is which part of those that begin was let in here. Who has just been started, beside others, has a small one.
func (t *Throttle) share() float64 {
	if t.begun <= 0 {
		return 1
	}
	return min(1, max(leastShare, t.let/t.begun))
}

// Lots is how many there are to draw.
const Lots = 64

// lots says with which of them everybody is told no again, without being asked about here: where ten times as many come as
// are let in, nearly all the work would be to say no. A quarter more are to come here than are let in, or get done in all, for
// there may be other processes: enough to let in more when it is time, though whoever is told no in front is told so for a
// second or two.
type lots struct {
	open int     // with the first so many everybody is asked about; 0: with all
	came int     // with those, since the last look
	each float64 // come with one, a second
}

const enough = 1.25

func (l *lots) asked(lot int) bool { return l.open == 0 || lot < l.open }

func (l *lots) come(lot int) {
	if lot >= 0 && l.asked(lot) {
		l.came++
	}
}

func (l *lots) look(past float64) {
	open := l.open
	if open == 0 {
		open = Lots
	}
	l.each = smooth(l.each, float64(l.came)/float64(open), past)
	l.came = 0
}

// ask opens as many lots as bring so many a second.
func (l *lots) ask(want float64) {
	l.open = 0
	if want < l.each*Lots {
		l.open = int(math.Ceil(want / l.each))
	}
}
