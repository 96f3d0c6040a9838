package enginesim

import (
	"cmp"
	"context"
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/payment"
	"flashsale/payment/simprovider"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"
)

// world is one seeded run. Every call of the engine to an adapter, every message and every request
// of a shopper is parked until the scheduler lets it go on. The scheduler lets one thing happen at
// a time, when everything else is at rest, so the seed alone decides what happens. Time is the
// bubble's: it stands still unless the scheduler moves it.
type world struct {
	seed    uint64
	rng     *rand.Rand // the scheduler's; whoever else needs chance has a generator of their own
	weather weather
	variant variant
	verbose bool

	ledger   *ledger
	orders   *orders
	payments *payments
	gate     *gate
	provider *simprovider.Provider
	item     inventory.ItemID
	procs    []*process
	queue    []*message
	messages int
	ghosts   []ghost
	clients  []*client
	booted   int

	turn []*call        // what is parked, for the step that is next
	calm bool           // no more faults
	seen map[string]int // how often what happened
	log  []string
	err  error // the first violation
	free [][]level
	full []span

	mu     sync.Mutex // guards what follows against the goroutines that run between two steps
	step   int        // written by the scheduler only, which reads it as it likes
	parked []*call
	ended  []ending
}

// weather says how much goes wrong in a run, per thousand steps or calls.
type weather struct {
	lost, after, twice, late int // of calls
	crash, wipe, stale, away int // of steps
	jump                     int // of steps: time leaps ahead, and whatever was under way is late
	delay                    int // of messages: they take seconds, not a moment
	slow                     int // of the choices of a commit: another call goes first; a fourth of it of transfers: they hang for many seconds
	redeliver                int // of messages
	forget                   int // of steps: the queue loses every message in it
	stuck                    int // of publications: they wait for seconds, and are not made
	async, remote            bool
	shards, limit, stock     int
	processes, shoppers      int
	methods                  simprovider.Faults
}

func newWeather(rng *rand.Rand) weather {
	often := func(most int) int { // half of the runs are spared one kind of trouble
		if rng.IntN(2) == 0 {
			return 0
		}
		return 1 + rng.IntN(most)
	}
	v := weather{
		lost: often(40), after: often(40), twice: often(120), late: often(40),
		crash: often(12), wipe: often(8), stale: often(8), away: often(5), jump: often(15), delay: often(150), slow: often(950), redeliver: often(150),
		async: rng.IntN(2) == 0, remote: rng.IntN(2) == 0,
		shards: 1 + rng.IntN(3), limit: rng.IntN(4), stock: 2 + rng.IntN(8),
		processes: 1 + rng.IntN(3), shoppers: 6 + rng.IntN(10),
		methods: simprovider.Faults{Decline: 0.1, Timeout: 0.1, LostReply: 0.1, Seed: rng.Uint64()},
	}
	if v.async {
		v.stuck = often(150)
	}
	// What was accepted is in the queue and at the gate: one of them may lose everything, not both at once.
	if v.async && rng.IntN(2) == 0 {
		v.forget, v.wipe, v.stale, v.away = 1+rng.IntN(8), 0, 0, 0
	}
	return v
}

// call is a call to an adapter that waits for the scheduler.
type call struct {
	key       string
	step      int
	proc      *process // nil for a client's
	faulty    bool
	commits   bool      // hands claims to the ledger
	transfers bool      // moves units from one bucket to another
	until     time.Time // a transfer hangs
	run       func(fate) error
	resume    chan struct{}
}

// ghost is a call whose caller has given up and that will still take effect.
type ghost struct {
	key string
	run func()
}

// ending is what the scheduler does once a piece of work has ended.
type ending struct {
	key string
	run func()
}

// fate is what becomes of a call.
type fate string

const (
	done  fate = "done"
	lost  fate = "lost"        // no effect, no answer
	after fate = "answer lost" // it has its effect, no answer
	twice fate = "done twice"  // repeated below the contract; the second answer counts
	late  fate = "late"        // no answer, and the effect comes later
	died  fate = "caller died" // with or without the effect
)

// errDied is what a dead process gets from everything.
var errDied = errors.New("sim: the process is dead")

// errLost is an answer that did not come.
var errLost = errors.New("sim: the connection was lost")

// do parks a call and returns what became of it. silent makes the error of a call without an answer;
// certain says that it surely had no effect.
func do[T any](ctx context.Context, w *world, p *process, what string, silent func(certain bool) error, effect func() (T, error)) (T, error) {
	var out, none T
	var err error
	c := &call{key: who(ctx).name + " " + what, proc: p, faulty: silent != nil, commits: strings.HasPrefix(what, "ledger.commit"), transfers: strings.HasPrefix(what, "ledger.transfer"), resume: make(chan struct{})}
	if p != nil {
		c.key = p.name + " " + c.key
	}
	c.run = func(f fate) error {
		switch f {
		case done:
			out, err = effect()
		case twice:
			_, _ = effect()
			out, err = effect()
		case lost:
			err = silent(w.rng.IntN(2) == 0)
		case after:
			_, _ = effect()
			err = silent(false)
		case late:
			w.ghosts = append(w.ghosts, ghost{c.key, func() { _, _ = effect() }})
			err = silent(false)
		case died:
			if w.rng.IntN(2) == 0 {
				_, _ = effect()
			}
			err = errDied
		}
		return err
	}
	if !w.park(c) {
		return none, errDied
	}
	<-c.resume
	return out, err
}

func (w *world) park(c *call) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.proc != nil && c.proc.dead {
		return false
	}
	c.step = w.step
	w.parked = append(w.parked, c)
	return true
}

// end has the scheduler do something, when the goroutine that asks for it is through.
func (w *world) end(key string, run func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = append(w.ended, ending{key, run})
}

type whoKey struct{}

// doer names on whose behalf a call is made, and since which step.
type doer struct {
	name string
	step int
}

func (w *world) as(ctx context.Context, name string) context.Context {
	step, _ := w.now()
	return context.WithValue(ctx, whoKey{}, doer{name, step})
}

func who(ctx context.Context) doer {
	d, _ := ctx.Value(whoKey{}).(doer)
	return d
}

func (w *world) note(format string, args ...any) {
	if w.verbose {
		w.log = append(w.log, fmt.Sprintf("%5d %8s  ", w.step, time.Since(epoch).Round(time.Millisecond))+fmt.Sprintf(format, args...))
	}
}

// epoch is when every bubble's time begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// saw counts what happened, so that a test can say that it did.
func (w *world) saw(what string) { w.seen[what]++ }

// fail records a violation; the first one counts.
func (w *world) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
		w.note("VIOLATION: %v", w.err)
	}
}

func (w *world) chance(perMille int) bool { return w.rng.IntN(1000) < perMille }

// rest waits until every goroutine waits for the scheduler or for time, and does what has ended.
func (w *world) rest() {
	for {
		synctest.Wait()
		w.mu.Lock()
		ended := w.ended
		w.ended = nil
		slices.SortStableFunc(w.parked, func(a, b *call) int { return cmp.Or(cmp.Compare(a.step, b.step), strings.Compare(a.key, b.key)) })
		w.turn = append(w.turn[:0], w.parked...)
		w.mu.Unlock()
		if len(ended) == 0 {
			return
		}
		slices.SortStableFunc(ended, func(a, b ending) int { return strings.Compare(a.key, b.key) })
		for _, e := range ended {
			e.run()
		}
	}
}

// release lets a parked call go on.
func (w *world) release(c *call, f fate) {
	w.mu.Lock()
	w.parked = slices.DeleteFunc(w.parked, func(o *call) bool { return o == c })
	w.mu.Unlock()
	err := c.run(f)
	w.note("%s: %s %v", c.key, f, errText(err))
	if f != done {
		w.saw("a call: " + string(f))
	}
	w.look()
	close(c.resume)
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return "(" + err.Error() + ")"
}

func (w *world) fate(c *call) fate {
	if w.calm || !c.faulty {
		return done
	}
	n := w.rng.IntN(1000)
	for _, f := range []struct {
		share int
		fate  fate
	}{{w.weather.lost, lost}, {w.weather.after, after}, {w.weather.twice, twice}, {w.weather.late, late}} {
		if n < f.share {
			return f.fate
		}
		n -= f.share
	}
	return done
}

// act makes one step: something that waits goes on, time moves, or something breaks.
func (w *world) act() {
	w.mu.Lock()
	w.step++
	w.mu.Unlock()
	if !w.calm && w.trouble() {
		return
	}
	ready := w.ready()
	n := len(w.turn) + len(ready) + len(w.ghosts)
	switch {
	case n == 0 && w.calm:
		w.pass(time.Second)
		return
	case n == 0 || w.chance(60):
		w.advance()
		return
	}
	i := w.rng.IntN(n)
	if i < len(w.turn) && w.turn[i].commits && !w.calm && w.chance(w.weather.slow) {
		i = w.rng.IntN(n)
	}
	if i < len(w.turn) && w.hangs(w.turn[i]) {
		w.advance()
		return
	}
	switch {
	case i < len(w.turn):
		w.release(w.turn[i], w.fate(w.turn[i]))
	case i < len(w.turn)+len(ready):
		w.deliver(ready[i-len(w.turn)])
	default:
		i -= len(w.turn) + len(ready)
		g := w.ghosts[i]
		w.ghosts = slices.Delete(w.ghosts, i, i+1)
		w.note("%s: takes effect now", g.key)
		g.run()
		w.look()
	}
}

// hangs reports whether a transfer waits for longer than its take may: whoever makes it was stopped, or the network was.
func (w *world) hangs(c *call) bool {
	if w.calm || !c.transfers || !c.until.IsZero() {
		return time.Now().Before(c.until)
	}
	c.until = time.Now()
	if w.chance(w.weather.slow / 4) {
		c.until = c.until.Add(time.Duration(8+w.rng.IntN(10)) * time.Second)
	}
	return time.Now().Before(c.until)
}

// advance moves time; loops and patience wake up on the way.
func (w *world) advance() {
	d := time.Duration(20+w.rng.IntN(280)) * time.Millisecond
	if !w.calm && w.chance(w.weather.jump*3) {
		d = time.Duration(2+w.rng.IntN(8)) * time.Second
	}
	w.pass(d)
}

func (w *world) pass(d time.Duration) {
	w.note("time + %s", d)
	time.Sleep(d) // of the bubble: no real time passes
}

// trouble breaks something, or mends it.
func (w *world) trouble() bool {
	shard := w.rng.IntN(w.weather.shards)
	switch {
	case w.chance(w.weather.crash):
		p := w.procs[w.rng.IntN(len(w.procs))]
		if p.dead {
			return false
		}
		w.kill(p)
	case w.chance(30):
		for i, p := range w.procs {
			if p.dead {
				w.boot(i)
				return true
			}
		}
		return false
	case w.chance(w.weather.forget):
		w.forget()
	case w.chance(w.weather.wipe):
		w.note("shard %d restarts empty", shard)
		w.gate.restart(shard, false)
	case w.chance(w.weather.stale):
		w.note("shard %d restarts with an old snapshot", shard)
		w.gate.restart(shard, true)
	case w.chance(w.weather.stale * 3):
		w.note("shard %d takes a snapshot", shard)
		w.gate.save(shard)
	case w.chance(w.weather.away):
		w.note("shard %d is away", shard)
		w.gate.shards[shard].away = true
	case w.chance(25) && w.gate.shards[shard].away:
		w.note("shard %d is back", shard)
		w.gate.shards[shard].away = false
	default:
		return false
	}
	w.look()
	return true
}

// forget empties the queue, but for what the catalogue says, which is not part of this. A message that
// is being handled is no longer in it, and will not come back.
func (w *world) forget() {
	w.queue = slices.DeleteFunc(w.queue, func(m *message) bool {
		if m.envelope.Source == transport.Catalog {
			return false
		}
		if !m.out {
			w.note("the queue loses m%d: %s %s", m.n, m.envelope.Type, short(m.envelope.Subject))
			w.saw("lost by the queue: " + m.envelope.Type)
		}
		return true
	})
}

// level is what could be taken from a shard from a step on.
type level struct {
	step int
	free int64
}

// span is a time in which every unit was paid for.
type span struct {
	from, to time.Time
	open     bool
}

// look keeps the history that refusals are held against, and watches the bucket rows.
func (w *world) look() {
	for shard := range w.free {
		b := inventory.BucketID{Item: w.item, Shard: shard}
		now := w.gate.free(b, w.ledger.buckets[b].Epoch)
		if h := w.free[shard]; len(h) == 0 || h[len(h)-1].free != now {
			w.free[shard] = append(h, level{w.step, now})
		}
	}
	var held, sold, granted int64
	for _, b := range w.ledger.buckets {
		held, sold, granted = held+b.Held, sold+b.Sold, granted+b.Granted
		if b.Held < 0 || b.Sold < 0 || b.Held+b.Sold > b.Granted {
			w.fail("oversold: bucket %d has granted %d, held %d, sold %d", b.ID.Shard, b.Granted, b.Held, b.Sold)
		}
	}
	last := len(w.full) - 1
	open := last >= 0 && w.full[last].open
	switch {
	case sold == granted && !open:
		w.full = append(w.full, span{from: time.Now(), open: true})
	case sold != granted && open:
		w.full[last].to, w.full[last].open = time.Now(), false
	}
}

// couldTake reports whether, at its lowest between two steps, what the shards had would still
// have been enough: then no order of asking them makes "held out" true.
func (w *world) couldTake(from, to, qty int) bool {
	var sum int64
	for _, h := range w.free {
		least := int64(1 << 40)
		for i, l := range h {
			if l.step <= to && (i+1 == len(h) || h[i+1].step >= from) {
				least = min(least, l.free)
			}
		}
		sum += least
	}
	return sum >= int64(qty)
}

// wasSoldOut reports whether every unit was paid for at some time since.
func (w *world) wasSoldOut(since time.Time) bool {
	return slices.ContainsFunc(w.full, func(s span) bool { return s.open || !s.to.Before(since) })
}

const (
	holdFor   = 8 * time.Second
	pendFor   = 3 * time.Second
	keepEvery = time.Second
	tellEvery = 150 * time.Millisecond
	goneAfter = 3 * time.Second
	termsAge  = 250 * time.Millisecond
	patience  = 3 * time.Second
	probeAge  = 4 * time.Second
	sweepAge  = 6 * time.Second
	stepBound = 15 * time.Second
	// mostPaying is more than there are shoppers: nobody is turned away.
	mostPaying = 1000
	// restWithin is how long the engine may take to come to rest when nothing breaks any more.
	restWithin = time.Minute
)

// newWorld opens a sale over empty stores. It must be called in the bubble.
func newWorld(seed uint64, v variant, checks, verbose bool) *world {
	rng := rand.New(rand.NewPCG(seed, 1))
	w := &world{seed: seed, rng: rng, weather: newWeather(rng), variant: v, verbose: verbose, seen: map[string]int{}}
	w.ledger, w.orders, w.payments = newLedger(time.Now, checks), newOrders(time.Now), newPayments(time.Now)
	w.gate = newGate(w.weather.shards)
	w.gate.flaws = v.flaws
	w.free = make([][]level, w.weather.shards)
	w.item = inventory.ItemID{Sale: id.Derive("sale"), SKU: "A"}
	provider, err := simprovider.New(w.payments, w.weather.methods, func(context.Context, time.Duration) error { return nil })
	if err != nil {
		w.fail("provider: %w", err)
	}
	w.provider = provider
	now := time.Now()
	_ = w.ledger.Provision(context.Background(), inventory.Provision{Shards: w.weather.shards, Sale: inventory.Sale{
		ID: w.item.Sale, Status: inventory.Open, OpensAt: now.Add(-time.Hour), EndsAt: now.Add(24 * time.Hour), Limit: w.weather.limit,
		HoldFor: holdFor, Revision: 1, Items: []inventory.Item{{SKU: w.item.SKU, UnitPrice: price, Total: int64(w.weather.stock)}},
	}})
	w.note("weather %+v, checks %v", w.weather, checks)
	w.procs = make([]*process, w.weather.processes)
	for i := range w.procs {
		w.boot(i)
	}
	w.look()
	return w
}

// The steps of the part of a run in which things break: as long as somebody is there, within bounds.
const (
	minStorm = 300
	maxStorm = 800
)

// run lets the shoppers come while things break, then mends everything, waits for rest, sells the
// rest, and holds the books against each other. It returns the first violation.
func (w *world) run() error {
	defer w.close()
	w.open()
	for w.err == nil && w.step < maxStorm && (w.step < minStorm || w.busy() != "") {
		w.rest()
		w.act()
	}
	w.mend()
	if w.until("the storm is over", w.quiet) {
		w.sellThrough()
		w.check()
	}
	return w.err
}

// mend ends all trouble.
func (w *world) mend() {
	w.note("CALM")
	w.calm = true
	for _, s := range w.gate.shards {
		s.away = false
	}
	w.look()
	for i, p := range w.procs {
		if p.dead {
			w.boot(i)
		}
	}
}

// until acts without trouble until something is so, for a bounded time.
func (w *world) until(what string, so func() string) bool {
	why := ""
	for begun := time.Now(); time.Since(begun) < restWithin && w.err == nil; {
		w.rest()
		if why = so(); why == "" {
			return w.err == nil
		}
		w.act()
	}
	w.fail("%s, and %s later %s", what, restWithin, why)
	return false
}

// busy returns which client is still there, or "".
func (w *world) busy() string {
	for _, c := range w.clients {
		if !c.gone {
			return "client " + c.name + " is still busy"
		}
	}
	return ""
}

// quiet returns what is still moving, or "".
func (w *world) quiet() string {
	if who := w.busy(); who != "" {
		return who
	}
	switch {
	case len(w.queue) > 0:
		return "the queue is not empty"
	case len(w.ghosts) > 0:
		return "late calls are still to come"
	}
	for name, box := range map[string]*outbox{"inventory": &w.ledger.outbox, "order": &w.orders.outbox, "payment": &w.payments.outbox} {
		if len(box.rows) > 0 {
			return "the outbox of " + name + " is not empty: " + box.rows[0].envelope.Type
		}
	}
	for _, r := range w.ledger.reservations {
		if r.State == "held" || r.State == "paying" {
			return "a reservation is still " + string(r.State)
		}
	}
	for _, r := range w.ledger.reservations {
		least := 1
		if r.State == reservation.Refunded {
			least = 2
		}
		if o, ok := w.orders.rows[r.ID]; r.State != reservation.Refused && (!ok || o.State.Rank() < least) {
			return "an order is behind its reservation, which is " + string(r.State)
		}
	}
	for _, p := range w.payments.rows {
		switch p.State {
		case payment.Requested, payment.Charging, payment.Unknown, payment.Refunding:
			return "a payment is still " + string(p.State)
		case payment.Refunded:
			if r := w.ledger.reservations[p.Order]; r != nil && r.Payment == p.ID && r.State == reservation.Paid {
				return "the ledger has not heard of a refund"
			}
		}
	}
	for _, b := range w.ledger.order {
		row := w.ledger.buckets[b]
		at, _ := w.gate.Levels(context.Background(), []inventory.BucketID{b})
		if at[0].Epoch != row.Epoch || at[0].Pending != 0 || at[0].Seq != row.CreditSeq {
			return fmt.Sprintf("bucket %d is %+v at the gate, %+v in the ledger", b.Shard, at[0], *row)
		}
	}
	return ""
}

// close ends every goroutine of the run.
func (w *world) close() {
	for _, p := range w.procs {
		if !p.dead {
			w.kill(p)
		}
	}
	for _, c := range w.clients {
		c.cancel()
	}
	for range 1000 {
		w.rest()
		if len(w.turn) == 0 {
			break
		}
		w.release(w.turn[0], done)
	}
}
