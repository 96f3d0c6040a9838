package engine

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"time"
)

// Throttle bounds how many reservations a second are let in, while decisions or payments are under pressure.
type Throttle struct {
	ask   func(context.Context) (Pressure, error)
	clock func() time.Time
	log   *slog.Logger

	mu       sync.Mutex
	rate     float64 // a second; 0: any number
	known    float64 // rate at which they got done when they were too many last; forgotten while they still are
	pressure float64 // at the last look
	tokens   float64 // of what may be let in now; a quarter of a second's at most
	filled   time.Time
	in       int // since the last look
	came     int
	entering float64 // a second
	coming   float64
	let      float64 // entering, over some seconds
	begun    float64 // and what began where there was most to do
	done     float64 // and ended there
	looked   time.Time
	lots     lots
	silent   int // asks without an answer, in a row; Run's own
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
// Enter. A server in front has each draw a lot, 0 to Lots-1; without one it is -1.
func (t *Throttle) Come(lot int) Turned {
	now := t.clock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.came++
	t.lots.come(lot)
	if t.rate == 0 || t.token(now) {
		return Turned{}
	}
	return Turned{Away: true, Again: !t.lots.asked(lot), Turns: t.crowd() / t.rate}
}

// Enter reports whether one more is let in.
func (t *Throttle) Enter() bool {
	now := t.clock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rate > 0 {
		if !t.token(now) {
			return false
		}
		t.tokens--
	}
	t.in++
	return true
}

// token reports whether there is one.
func (t *Throttle) token(now time.Time) bool {
	t.tokens = min(t.tokens+t.rate*max(now.Sub(t.filled), 0).Seconds(), max(1, t.rate*lookEvery.Seconds()))
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

// How the rate follows the pressure: held where half of what may be under way is, or as many are late as get done in a second.
// While there is more, it goes down by so much a look at most, and no further than to a part of what is known to get done;
// when there is less it is soon there again, and feels its way beyond: slowly, for what comes of it is seen seconds later.
const (
	wantedPressure = 0.5
	slowest        = 0.7
	back           = 1.3
	beyond         = 1.03
	drained        = 0.4
	forgotten      = 0.95
	learned        = 1.02
	mostSilent     = 8 // looks: the answer is late when there are many, and that is no reason to let in more
	leastRate      = 1.0
	long           = 4.0 // seconds: what gets done in one says little
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
	t.entering, t.coming = smooth(t.entering, float64(t.in), past), smooth(t.coming, float64(t.came), past)
	t.let = average(t.let, float64(t.in)/past, past, long)
	t.begun, t.done = average(t.begun, p.Came, past, long), average(t.done, p.Done, past, long)
	t.in, t.came, t.looked = 0, 0, now
	t.lots.look(past)
	pressure := p.level(t.done)
	was := t.pressure
	t.pressure = pressure
	switch {
	case pressure <= wantedPressure && t.rate == 0:
	case pressure <= wantedPressure && t.rate > 2*t.crowd()+leastRate: // nobody is turned away
		t.rate, t.known = 0, 0
		t.log.InfoContext(ctx, "reservations are let in as they come")
	case pressure <= wantedPressure && t.rate < t.known:
		t.rate *= back
	case pressure <= wantedPressure:
		t.rate *= beyond
	case was <= wantedPressure: // as many fewer as get done of those that come: the next ones are on their way already
		done := t.entering
		if p.Came > p.Done {
			done *= p.Done / p.Came
		}
		t.known = max(leastRate, done, min(t.let, t.capacity()), t.known/2)
		if t.let < leastRate { // it has just been started, beside others, and knows nothing yet
			t.known = max(t.known, p.Done/4)
		}
		if t.rate == 0 {
			t.log.WarnContext(ctx, "reservations are let in no faster than they are decided and paid for", "under_way", p.UnderWay, "late", p.Late, "of", p.Most, "a_second", int(t.known))
			t.rate, t.filled = t.known, now
		}
		t.rate = min(t.rate, t.known)
	default:
		t.known = max(leastRate, min(max(t.capacity(), t.known*forgotten), t.known*learned))
		t.rate = max(leastRate, t.known*drained, t.rate*max(slowest, 1-2*(1-slowest)*(pressure-wantedPressure)))
	}
	want := math.Inf(1)
	if t.rate > 0 { // no fewer than get done in all: others may let in more than are let in here
		want = max(enough*t.rate, p.Done, t.done)
	}
	t.lots.ask(want)
}

// crowd is how many come, a second, as far as they come to this process; those included who are told no in front.
func (t *Throttle) crowd() float64 { return max(t.coming, t.lots.each*Lots) }

// capacity is how many of those let in here get done, a second.
func (t *Throttle) capacity() float64 {
	if t.begun <= 0 {
		return t.let
	}
	return t.let * t.done / t.begun
}

// Lots is how many there are to draw.
const Lots = 64

// lots says with which of them everybody is told no again, without being asked about here: where ten times as many come as
// are let in, nearly all the work would be to say no. Twice as many are to come here as are let in: enough to let in more
// when it is time, for whoever is told no in front is told so for a second or two.
type lots struct {
	open int     // with the first so many everybody is asked about; 0: with all
	came int     // with those, since the last look
	each float64 // come with one, a second
}

const enough = 2.0

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
