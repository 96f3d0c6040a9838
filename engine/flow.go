package engine

import (
	"cmp"
	"context"
	"flashsale/id"
	"flashsale/transport"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Flow sends events where the table says, and keeps the outboxes: an event is removed from its
// service's outbox once its handler has it, and sent again by the relay if that was never seen.
type Flow struct {
	routes map[string]Route
	send   transport.Sender
	step   time.Duration
	log    *slog.Logger
	boxes  map[transport.Service]*outbox
	after  chan *afterwards // nil: nothing runs behind anybody's back
}

// afterwards is an event that is sent when its cause has been answered.
type afterwards struct {
	from  transport.Service
	event transport.Envelope
}

// NewFlow returns a flow over a transport. step bounds one handler's work, its follow-ups
// included.
func NewFlow(send transport.Sender, step time.Duration, log *slog.Logger) *Flow {
	f := &Flow{
		routes: map[string]Route{}, send: send, step: step, log: log,
		boxes: map[transport.Service]*outbox{},
	}
	for _, r := range Table() {
		f.routes[r.Event] = r
	}
	return f
}

// Keep registers the outbox of a service of this process, before anything is sent.
func (f *Flow) Keep(service transport.Service, box transport.Outbox) {
	f.boxes[service] = newOutbox(service, box, f.log)
}

// KeepUntil is Keep for a service whose events go only once arrived has seen what they cause: one that
// was merely accepted is sent again until then. It is for events that are few, and that nothing else
// would ever miss.
func (f *Flow) KeepUntil(service transport.Service, box transport.Outbox, arrived func(context.Context, transport.Envelope) (bool, error)) {
	f.Keep(service, box)
	f.boxes[service].arrived = arrived
}

// Dispatch sends an event to its service.
func (f *Flow) Dispatch(ctx context.Context, e transport.Envelope) (transport.Receipt, error) {
	r, ok := f.routes[e.Type]
	if !ok {
		return transport.Receipt{}, fmt.Errorf("engine: no route for event %q", e.Type)
	}
	return f.send.Send(ctx, r.To, e)
}

// Handler wraps a service's handler for the transport: what follows is sent on at once, and the
// answer is everything that followed, all the way down.
func (f *Flow) Handler(service transport.Service, handle transport.Handler) transport.Handler {
	return func(ctx context.Context, e transport.Envelope) ([]transport.Envelope, error) {
		ctx, cancel := context.WithTimeout(ctx, f.step)
		defer cancel()
		followed, err := handle(ctx, e)
		if err != nil {
			f.log.WarnContext(ctx, "step failed", "service", service, "event", e.Type, "subject", e.Subject,
				"trace", e.TraceParent, "permanent", transport.IsPermanent(err), "error", err)
			return nil, err
		}
		return f.Follow(ctx, service, followed), nil
	}
}

// Follow sends events that a service has committed (they are in its outbox) and returns them with
// everything that followed. A failure to send is not a failure of the step: the relay repeats it.
func (f *Flow) Follow(ctx context.Context, service transport.Service, events []transport.Envelope) []transport.Envelope {
	all := events
	for _, e := range events {
		r, routed := f.routes[e.Type]
		if !routed {
			continue
		}
		if r.After && f.after != nil {
			f.boxes[service].take(e.ID)
			select {
			case f.after <- &afterwards{service, e}:
			default: // too many wait: the relay sends it
				f.boxes[service].letGo(e.ID)
			}
			continue
		}
		f.boxes[service].take(e.ID)
		receipt, ok := f.pass(ctx, service, e)
		if ok {
			all = append(all[:len(all):len(all)], receipt.Events...)
		}
	}
	return all
}

// pass sends an event that its caller has taken in hand, where it stays until it is out of the outbox or could not be sent.
func (f *Flow) pass(ctx context.Context, service transport.Service, e transport.Envelope) (transport.Receipt, bool) {
	sent := false
	defer func() {
		if !sent {
			f.boxes[service].letGo(e.ID)
		}
	}()
	receipt, err := f.Dispatch(ctx, e)
	if err != nil {
		f.log.WarnContext(ctx, "event stays in the outbox", "service", service, "event", e.Type,
			"subject", e.Subject, "trace", e.TraceParent, "error", err)
		return receipt, false
	}
	sent = true
	f.Sent(service, e.ID)
	return receipt, true
}

// The bounds of what runs after its cause was answered: events that wait, and events under way. Many
// are under way at once so that their handlers' writes share transactions.
const (
	afterQueue   = 100_000
	afterWorkers = 256
)

// Afterwards lets events whose route says After run behind the answer, from now until the function
// that it returns has been called; that one finishes what waits, or until ctx ends. What is left over
// is in the outbox.
func (f *Flow) Afterwards() (finish func(ctx context.Context)) {
	queue := make(chan *afterwards, afterQueue) // pointers: the empty places count as heap
	f.after = queue
	ended := make(chan struct{})
	var workers sync.WaitGroup
	for range afterWorkers {
		workers.Go(func() {
			for {
				select {
				case a := <-queue:
					f.passLater(a)
				case <-ended:
					select {
					case a := <-queue:
						f.passLater(a)
					default:
						return
					}
				}
			}
		})
	}
	var once sync.Once
	return func(ctx context.Context) {
		once.Do(func() { close(ended) })
		done := make(chan struct{})
		go func() { workers.Wait(); close(done) }()
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
}

func (f *Flow) passLater(a *afterwards) {
	ctx, cancel := context.WithTimeout(context.Background(), f.step)
	defer cancel()
	f.pass(ctx, a.from, a.event)
}

// Sent notes that an event has reached its service; its outbox row goes with the next batch.
func (f *Flow) Sent(service transport.Service, event id.ID) {
	if box := f.boxes[service]; box != nil {
		box.sent(event)
	}
}

// Run keeps the outboxes until ctx ends: removes what was sent, and relays what was not.
func (f *Flow) Run(ctx context.Context) error {
	return runAll(ctx, func(run func(func(context.Context) error)) {
		for _, box := range f.boxes {
			run(box.sweep)
			run(func(ctx context.Context) error {
				return every(ctx, f.log, relayEvery, "relay "+string(box.service), func(ctx context.Context) error {
					return f.relay(ctx, box)
				})
			})
		}
	})
}

const (
	relayEvery = 500 * time.Millisecond
	relayAge   = 2 * time.Second // younger rows are on their way already
	handAge    = 6 * time.Second // and those of which this process knows that they are
	relayBatch = 256
	sweepEvery = 50 * time.Millisecond
	sweepBatch = 1000
	sweepQueue = 100_000
)

// relay sends what has been in the outbox for longer than a direct send takes. Handlers know the
// events by id and state, so sending one twice has no second effect; but it costs as much again, just when there is so
// much to do that a direct send takes long.
func (f *Flow) relay(ctx context.Context, box *outbox) error {
	for {
		es, err := box.store.Unsent(ctx, relayAge, relayBatch)
		if err != nil {
			return err
		}
		all := len(es) < relayBatch
		es = box.due(es)
		done := make(chan error, len(es))
		slots := make(chan struct{}, 16)
		for _, e := range es {
			slots <- struct{}{}
			go func() {
				defer func() { <-slots }()
				c, cancel := context.WithTimeout(ctx, f.step)
				defer cancel()
				err := f.resend(c, box, e)
				if err != nil {
					err = fmt.Errorf("%s of %s: %w", e.Type, e.Subject, err)
				}
				done <- err
			}()
		}
		var failed error
		for range es {
			if err := <-done; err != nil {
				failed = err
			}
		}
		if failed != nil || all {
			return failed
		}
	}
}

// resend sends an event that is in an outbox, unless what it causes is there already.
func (f *Flow) resend(ctx context.Context, box *outbox, e transport.Envelope) error {
	if box.arrived != nil {
		there, err := box.arrived(ctx, e)
		if err != nil {
			return err
		}
		if there {
			box.sent(e.ID)
			return nil
		}
	}
	receipt, err := f.Dispatch(ctx, e)
	if err == nil && (box.arrived == nil || receipt.Decided) {
		box.sent(e.ID)
	}
	return err
}

// outbox pairs a service's outbox with the ids that are to be removed from it.
type outbox struct {
	service transport.Service
	store   transport.Outbox
	gone    chan id.ID
	log     *slog.Logger
	arrived func(context.Context, transport.Envelope) (bool, error) // nil: what was accepted may go

	mu     sync.Mutex
	inHand map[id.ID]*hand
	failed []transport.Envelope // leased by the relay while they were in hand, and not sent after all
}

// hand is an event that this process is sending, or is about to, or to remove.
type hand struct {
	times  int
	since  time.Time
	leased *transport.Envelope // by the relay, which leaves it alone for handAge; nil: it has not come across it
}

func newOutbox(service transport.Service, store transport.Outbox, log *slog.Logger) *outbox {
	return &outbox{service: service, store: store, gone: make(chan id.ID, sweepQueue), log: log, inHand: map[id.ID]*hand{}}
}

// take notes that this process sends an event, until letGo or removed. A service without an outbox has nothing to note.
func (o *outbox) take(event id.ID) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	h := o.inHand[event]
	if h == nil {
		h = &hand{since: time.Now()}
		o.inHand[event] = h
	}
	h.times++
}

// letGo leaves an event to the relay.
func (o *outbox) letGo(event id.ID) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	h := o.inHand[event]
	if h == nil {
		return
	}
	if h.times--; h.times > 0 {
		return
	}
	delete(o.inHand, event)
	if h.leased != nil {
		o.failed = append(o.failed, *h.leased)
	}
}

// removing forgets what the relay has leased so far: the outbox is told of it now.
func (o *outbox) removing(events []id.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range events {
		if h := o.inHand[e]; h != nil {
			h.leased = nil
		}
	}
}

// removed returns those that the relay has leased since: the outbox may remember them for that, and nobody sends them.
func (o *outbox) removed(events []id.ID) (leased []id.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range events {
		if h := o.inHand[e]; h != nil && h.leased != nil {
			leased = append(leased, e)
		}
		delete(o.inHand, e)
	}
	return leased
}

// due returns what the relay is to send now: what it has left alone before, and what it has just leased; but not what is in
// hand, for which it comes back.
func (o *outbox) due(leased []transport.Envelope) []transport.Envelope {
	o.mu.Lock()
	defer o.mu.Unlock()
	now, due := time.Now(), o.failed
	o.failed = nil
	for _, h := range o.inHand {
		if h.leased != nil && now.Sub(h.since) >= handAge {
			due = append(due, *h.leased)
			h.leased = nil
		}
	}
	slices.SortFunc(due, func(a, b transport.Envelope) int {
		return cmp.Or(a.Time.Compare(b.Time), slices.Compare(a.ID[:], b.ID[:]))
	})
	for _, e := range leased {
		if h := o.inHand[e.ID]; h != nil {
			h.leased = &e
		} else {
			due = append(due, e)
		}
	}
	return due
}

// sent never blocks: an id that finds the queue full is relayed once more, without a second effect.
func (o *outbox) sent(event id.ID) {
	select {
	case o.gone <- event:
	default:
		o.letGo(event)
	}
}

// sweep removes sent events in groups, and when ctx ends, those still waiting.
func (o *outbox) sweep(ctx context.Context) error {
	last := context.WithoutCancel(ctx)
	for {
		select {
		case first := <-o.gone:
			// Removing is a commit of its own, and nobody waits for it: let others join.
			select {
			case <-time.After(sweepEvery):
			case <-ctx.Done():
			}
			o.remove(last, first)
		case <-ctx.Done():
			for {
				select {
				case first := <-o.gone:
					o.remove(last, first)
				default:
					return nil
				}
			}
		}
	}
}

func (o *outbox) remove(ctx context.Context, first id.ID) {
	ids := append(make([]id.ID, 0, 64), first)
	for len(ids) < sweepBatch {
		select {
		case v := <-o.gone:
			ids = append(ids, v)
			continue
		default:
		}
		break
	}
	o.removing(ids)
	o.mark(ctx, ids)
	if again := o.removed(ids); len(again) > 0 {
		o.mark(ctx, again)
	}
}

func (o *outbox) mark(ctx context.Context, ids []id.ID) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := o.store.MarkSent(ctx, ids); err != nil {
		o.log.WarnContext(ctx, "sent events stay in the outbox and are sent once more", "service", o.service, "error", err)
	}
}
