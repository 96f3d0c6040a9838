// Package amqp carries envelopes over RabbitMQ: a topic exchange, a quorum queue per service, a
// retry ladder and a dead-letter queue each. Send answers "accepted" after the publisher confirm;
// a message is acknowledged after its handler has committed.
package amqp

import (
	"cmp"
	"context"
	"errors"
	"flashsale/id"
	"flashsale/transport"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	rabbit "github.com/rabbitmq/amqp091-go"
)

// Options are what a Transport needs. URL must be set; zero values mean their default.
type Options struct {
	URL           string
	Prefix        string              // of exchanges and queues; "flashsale."
	Services      []transport.Service // those with a queue; inventory, order, payment, notification
	Workers       int                 // messages in hand at the same time per service; 128
	Handlers      int                 // handlers at the same time per service, for those in batches; 512
	Attempts      int                 // before a message is a dead letter; 10
	DeliveryLimit int                 // deliveries that were never acknowledged; 20
	Depth         int                 // messages a queue may hold, beyond which ErrOverloaded; 100,000
	Bytes         int                 // bytes of messages that a queue may hold, the same; 100,000,000
	Delays        []time.Duration     // of the retry ladder; 100 ms to 30 s
	Pauses        []time.Duration     // of dead letters that are replayed automatically; transport.DefaultPauses
	Confirm       time.Duration       // how long Send waits without a deadline of its own; 10 s
	Window        int                 // dead letters that one look at a queue holds at most; 20,000, no more than 65,535
	Log           *slog.Logger
}

func (o Options) filled() Options {
	if o.Prefix == "" {
		o.Prefix = "flashsale."
	}
	if o.Services == nil {
		o.Services = transport.Queued()
	}
	if o.Workers == 0 {
		o.Workers = 128
	}
	if o.Handlers == 0 {
		o.Handlers = 512
	}
	if o.Attempts == 0 {
		o.Attempts = 10
	}
	if o.DeliveryLimit == 0 {
		o.DeliveryLimit = 20
	}
	if o.Depth == 0 {
		o.Depth = 100_000
	}
	if o.Bytes == 0 {
		o.Bytes = 100_000_000
	}
	if o.Delays == nil {
		o.Delays = []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second, 8 * time.Second, 30 * time.Second}
	}
	if o.Pauses == nil {
		o.Pauses = transport.DefaultPauses()
	}
	if o.Window == 0 {
		o.Window = 20_000
	}
	if o.Confirm == 0 {
		o.Confirm = 10 * time.Second
	}
	return o
}

// Transport implements transport.Transport.
type Transport struct {
	opts     Options
	names    names
	handlers map[transport.Service]transport.Handler

	slots   map[transport.Service]chan struct{} // taken by a handler that is running
	sends   atomic.Pointer[sends]               // from Start on
	pub     atomic.Pointer[publisher]
	blocked atomic.Bool
	halted  atomic.Pointer[chan struct{}] // closed when publishers are blocked
	ending  <-chan struct{}               // closed when consuming is to end
	busy    atomic.Int64                  // deliveries being handled here

	consumed bool // this process has consumed before, and has survived what it was given

	stopConsuming, stopPublishing context.CancelFunc
	consuming, publishing         sync.WaitGroup

	mu      sync.Mutex
	stopped bool
}

// New returns a Transport that is not connected yet.
func New(opts Options) *Transport {
	opts = opts.filled()
	return &Transport{
		opts: opts, names: names{opts.Prefix}, handlers: map[transport.Service]transport.Handler{}, slots: map[transport.Service]chan struct{}{},
	}
}

// Handle implements transport.Transport.
func (t *Transport) Handle(to transport.Service, h transport.Handler) {
	t.handlers[to], t.slots[to] = h, make(chan struct{}, t.opts.Handlers)
}

// Start implements transport.Transport: it connects, declares the topology and consumes. Publishing
// and consuming have connections of their own, so that a blocked publisher does not stop acknowledgements.
func (t *Transport) Start(ctx context.Context) error {
	forever := context.WithoutCancel(ctx)
	publishing, stopPublishing := context.WithCancel(forever)
	consuming, stopConsuming := context.WithCancel(forever)
	t.stopPublishing, t.stopConsuming = stopPublishing, stopConsuming
	t.ending = consuming.Done()
	t.sends.Store(t.newSends())
	ready := make(chan error, 2)
	t.publishing.Go(func() { t.keep(publishing, "publishing", ready, t.publish) })
	t.consuming.Go(func() { t.keep(consuming, "consuming", ready, t.consume) })
	for range 2 {
		var err error
		select {
		case err = <-ready:
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			t.stopAll()
			return err
		}
	}
	return nil
}

// stopAll ends consuming before publishing: a handler that is finishing may still have to store its
// message's retry.
func (t *Transport) stopAll() {
	t.stopConsuming()
	t.consuming.Wait()
	t.sends.Load().close()
	t.stopPublishing()
	t.publishing.Wait()
}

const firstConnect = 15 * time.Second

// keep runs a connection until ctx ends: connects, has it used, and connects again when it breaks.
// The first connection, or the failure to get one, is reported to ready.
func (t *Transport) keep(ctx context.Context, what string, ready chan<- error, use func(context.Context, *rabbit.Connection, func()) error) {
	up := sync.OnceFunc(func() { ready <- nil })
	began := time.Now()
	wait := backoff.NewExponentialBackOff(backoff.WithInitialInterval(50*time.Millisecond), backoff.WithMultiplier(2), backoff.WithMaxInterval(4*time.Second), backoff.WithMaxElapsedTime(0))
	connected := false
	for ctx.Err() == nil {
		var since time.Time
		err := t.connect(ctx, what, func(c *rabbit.Connection) error {
			return use(ctx, c, func() {
				connected, since = true, time.Now()
				up()
			})
		})
		if ctx.Err() != nil {
			return
		}
		if !connected && time.Since(began) > firstConnect {
			ready <- fmt.Errorf("amqp: no connection for %s in %s; is RabbitMQ running, and is AMQP_URL right? %w", what, firstConnect, err)
			return
		}
		if !since.IsZero() && time.Since(since) >= steady {
			wait.Reset()
		}
		t.opts.Log.WarnContext(ctx, "RabbitMQ connection lost; connecting again", "for", what, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(wait.NextBackOff()):
		}
	}
}

// steady is how long a connection lasts that is none of those that break again and again: each of those costs whatever
// was in hand a delivery, and of these there are few. Some thirteen are made in half a minute, not two hundred.
const steady = 10 * time.Second

func (t *Transport) connect(_ context.Context, what string, use func(*rabbit.Connection) error) error {
	c, err := t.dial(what)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return use(c)
}

func (t *Transport) dial(what string) (*rabbit.Connection, error) {
	return rabbit.DialConfig(t.opts.URL, rabbit.Config{
		Heartbeat: 5 * time.Second, Locale: "en_US", Dial: rabbit.DefaultDial(5 * time.Second),
		Properties: rabbit.Table{"connection_name": "flashsale " + what},
	})
}

// publisher is a channel in confirm mode.
type publisher struct {
	ch      *rabbit.Channel
	closed  chan struct{} // closed when the channel is
	mu      sync.Mutex
	back    map[string]bool    // returned as unroutable, by message id
	barrier chan chan struct{} // answered after every return that came before it
}

func (t *Transport) publish(ctx context.Context, c *rabbit.Connection, up func()) error {
	ch, err := c.Channel()
	if err != nil {
		return err
	}
	if err := declare(ch, t.names, t.opts); err != nil {
		return err
	}
	if err := ch.Confirm(false); err != nil {
		return err
	}
	p := &publisher{ch: ch, closed: make(chan struct{}), back: map[string]bool{}, barrier: make(chan chan struct{})}
	returns := ch.NotifyReturn(make(chan rabbit.Return))
	blocks := c.NotifyBlocked(make(chan rabbit.Blocking, 1))
	gone := ch.NotifyClose(make(chan *rabbit.Error, 1))
	t.block(false)
	t.pub.Store(p)
	defer t.pub.CompareAndSwap(p, nil)
	defer close(p.closed)
	up()
	for {
		select {
		case r, ok := <-returns:
			if !ok {
				returns = nil
				continue
			}
			p.mu.Lock()
			p.back[r.MessageId] = true
			p.mu.Unlock()
		case done := <-p.barrier:
			close(done)
		case b, ok := <-blocks:
			if !ok {
				blocks = nil
				continue
			}
			t.block(b.Active)
			t.opts.Log.WarnContext(ctx, "RabbitMQ flow control", "blocked", b.Active, "reason", b.Reason)
		case err := <-gone:
			if err == nil {
				return errors.New("channel closed")
			}
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// block notes that the broker has blocked publishers, or no longer does. Only publish calls it.
func (t *Transport) block(now bool) {
	halted := t.halted.Load()
	if was := t.blocked.Swap(now); now && !was {
		close(*halted)
	} else if halted == nil || was && !now {
		c := make(chan struct{})
		t.halted.Store(&c)
	}
}

// returned reports whether a message came back as unroutable. A return arrives before its confirm,
// and the barrier passes behind it.
func (p *publisher) returned(mid string) bool {
	done := make(chan struct{})
	select {
	case p.barrier <- done:
		<-done
	case <-p.closed:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.back[mid]
	delete(p.back, mid)
	return was
}

// Send implements transport.Sender. A message whose confirm was lost with the connection is
// published again within the caller's time: handlers know it by its id.
func (t *Transport) Send(ctx context.Context, to transport.Service, e transport.Envelope) (transport.Receipt, error) {
	body, err := transport.Marshal(e)
	if err != nil {
		return transport.Receipt{}, fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	t.mu.Lock()
	stopped := t.stopped
	t.mu.Unlock()
	if stopped {
		return transport.Receipt{}, transport.ErrStopped
	}
	sends := t.sends.Load()
	if sends == nil || t.pub.Load() == nil {
		return transport.Receipt{}, errAway
	}
	return transport.Receipt{}, sends.do(ctx, t, to, outgoing{t.names.route(to, e.Type), rabbit.Publishing{
		ContentType: transport.ContentType, DeliveryMode: rabbit.Persistent, Timestamp: e.Time, Type: e.Type, Body: body,
		Headers: rabbit.Table{headerAttempts: int32(0), "traceparent": e.TraceParent},
	}})
}

var errAway = fmt.Errorf("%w: RabbitMQ is not connected", transport.ErrUnavailable)

// confirm publishes until the broker has said yes or no, or ctx ends.
func (t *Transport) confirm(ctx context.Context, exchange, key string, msg rabbit.Publishing) error {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.opts.Confirm)
		defer cancel()
	}
	if t.blocked.Load() {
		return fmt.Errorf("%w: RabbitMQ has blocked publishers (memory or disk alarm)", transport.ErrOverloaded)
	}
	unknown := false // an attempt before this one may be stored
	for {
		p := t.pub.Load()
		if p == nil && !unknown {
			return errAway
		}
		if p != nil {
			msg.MessageId = id.New(time.Now()).String()
			done, err := p.ch.PublishWithDeferredConfirmWithContext(ctx, exchange, key, true, false, msg)
			if err == nil {
				err = t.await(ctx, p, done, msg.MessageId)
				refused := errors.Is(err, transport.ErrUnavailable) || errors.Is(err, transport.ErrOverloaded)
				switch {
				case refused && unknown: // "no" to this attempt says nothing of the one before
					return fmt.Errorf("amqp: not known whether it was stored: the first confirm was lost, and then: %s", err.Error())
				case err == nil || refused || errors.Is(err, errHalted):
					return err
				}
				unknown = true
			} else if !errors.Is(err, rabbit.ErrClosed) {
				unknown = true // part of it may be on the wire
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("amqp: not known whether it was stored: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond): // the connection is being made again
		}
	}
}

var (
	errLost   = errors.New("amqp: the connection was lost before the confirm")
	errHalted = errors.New("amqp: not known whether it was stored: RabbitMQ has blocked publishers (memory or disk alarm)")
)

// grace is how long what was published just before publishers were blocked waits for its confirm: the
// broker may have read it, or may read it when the alarm is over.
const grace = time.Second

func (t *Transport) await(ctx context.Context, p *publisher, done *rabbit.DeferredConfirmation, mid string) error {
	halted := *t.halted.Load()
	var over <-chan time.Time
wait:
	for {
		select {
		case <-done.Done():
			break wait
		case <-p.closed:
			return errLost
		case <-ctx.Done():
			return ctx.Err()
		case <-halted:
			halted, over = nil, time.After(grace)
		case <-over:
			return errHalted
		}
	}
	if !done.Acked() {
		if p.ch.IsClosed() { // closing resolves what is open as "no", which it is not
			return errLost
		}
		return fmt.Errorf("%w: the queue is full", transport.ErrOverloaded)
	}
	if p.returned(mid) {
		return fmt.Errorf("%w: RabbitMQ has no queue for it", transport.ErrUnavailable)
	}
	return nil
}

// What a message carries on its way to the dead letters. Times are microseconds since 1970.
const (
	headerAttempts    = "x-attempts" // since it was sent, or replayed
	headerError       = "x-error"    // of the last attempt
	headerRoute       = "x-original-route"
	headerFirstFailed = "x-first-failed" // since it was sent, or replayed by an operator
	headerReplays     = "x-replays"      // automatic ones, the one that it waits for included
	headerReason      = "x-reason"
	headerDied        = "x-died"
	headerTries       = "x-tries" // x-attempts when it died, of one that is replayed automatically: that begins at 0
)

// consume takes deliveries of every service of this process until the connection breaks or ctx ends.
func (t *Transport) consume(ctx context.Context, c *rabbit.Connection, up func()) error {
	setup, err := c.Channel()
	if err != nil {
		return err
	}
	if err := declare(setup, t.names, t.opts); err != nil {
		return err
	}
	_ = setup.Close()
	gone := c.NotifyClose(make(chan *rabbit.Error, 1))
	failed := make(chan error, len(t.handlers))
	var subscriptions sync.WaitGroup
	for service := range t.handlers {
		ch, err := c.Channel()
		if err != nil {
			return err
		}
		s := &subscription{t: t, service: service, ch: ch, tag: "flashsale-" + string(service), caution: !t.consumed}
		deliveries, err := s.open()
		if err != nil {
			return err
		}
		subscriptions.Go(func() {
			if err := s.run(ctx, deliveries); err != nil {
				failed <- err
			}
		})
	}
	t.consumed = true
	up()
	select {
	case err = <-failed:
		_ = c.Close()
	case lost := <-gone:
		err = fmt.Errorf("connection closed: %w", lost)
	case <-ctx.Done():
		err = ctx.Err() // those in the workers' hands are finished and acknowledged first
	}
	subscriptions.Wait()
	return err
}

// deliver handles one message: acknowledged after the handler has committed, after its retry is
// stored, or after its dead letter is.
func (t *Transport) deliver(ctx context.Context, service transport.Service, d rabbit.Delivery) {
	if ctx.Err() != nil { // stopping: it goes back as it is
		_ = d.Nack(false, true)
		return
	}
	t.busy.Add(1)
	defer t.busy.Add(-1)
	ctx = context.WithoutCancel(ctx)
	var done bool
	if d.ContentType == batchType {
		done = t.handleBatch(ctx, service, d)
	} else {
		t.slots[service] <- struct{}{}
		done = t.handleOne(ctx, service, d)
		<-t.slots[service]
	}
	if !done {
		_ = d.Nack(false, true)
		return
	}
	if err := d.Ack(false); err != nil {
		t.opts.Log.WarnContext(ctx, "acknowledgement lost; the message comes again", "service", service, "event", d.Type, "error", err)
	}
}

// handleOne runs the handler of one envelope, and reports whether what came of it is stored.
func (t *Transport) handleOne(ctx context.Context, service transport.Service, d rabbit.Delivery) bool {
	e, err := transport.Unmarshal(d.Body)
	if err == nil {
		_, err = t.handlers[service](ctx, e)
	}
	return t.settled(ctx, service, d, err)
}

// settled stores what follows from a handler's error, and reports whether that is stored.
func (t *Transport) settled(ctx context.Context, service transport.Service, d rabbit.Delivery, err error) bool {
	attempts := t.attempts(d)
	switch {
	case err == nil:
		return true
	case transport.IsPermanent(err) || attempts >= t.opts.Attempts:
		return t.bury(ctx, service, d, attempts, err)
	}
	return t.forward(ctx, "", t.names.retry(service, t.delay(attempts)), d, attempts, err, rabbit.Table{})
}

// attempts counts this one too.
func (t *Transport) attempts(d rabbit.Delivery) int { return int(number(d, headerAttempts)) + 1 }

// delay is how long a message waits after so many attempts: the ladder's step, or by a coin's toss the one
// before it, so that what failed together does not come back together.
func (t *Transport) delay(attempts int) time.Duration {
	step := min(attempts-1, len(t.opts.Delays)-1)
	if step > 0 && rand.IntN(2) == 0 {
		step--
	}
	return t.opts.Delays[step]
}

// pause is how long a dead letter waits for its automatic replay; waits is false when it has none, or no
// more.
func (t *Transport) pause(d rabbit.Delivery, died error) (pause time.Duration, waits bool) {
	replays := number(d, headerReplays)
	if !transport.Passing(died) || replays >= int64(len(t.opts.Pauses)) {
		return 0, false
	}
	return t.opts.Pauses[replays], true
}

// bury stores a message as a dead letter, and reports whether it is stored. One of a trouble that may
// pass is parked where it falls back into the service's queue by itself.
func (t *Transport) bury(ctx context.Context, service transport.Service, d rabbit.Delivery, attempts int, died error) bool {
	exchange, key, counted := t.names.deadExchange(), string(service), attempts
	replays := int(number(d, headerReplays))
	now := time.Now().UnixMicro()
	headers := rabbit.Table{
		headerReason: string(transport.ReasonOf(died)), headerDied: now, headerTries: int32(attempts), headerReplays: int32(replays),
		headerFirstFailed: cmp.Or(number(d, headerFirstFailed), now),
	}
	pause, waits := t.pause(d, died)
	if waits {
		exchange, key, counted = "", t.names.parked(service, pause), 0
		headers[headerReplays] = int32(replays + 1)
	}
	t.opts.Log.ErrorContext(ctx, "dead letter", "service", service, "event", d.Type, "attempts", attempts,
		"reason", headers[headerReason], "error", died, "replayed_in", pause)
	return t.forward(ctx, exchange, key, d, counted, died, headers)
}

// number reads a count or a time, within bounds that all that is made of it can stand: anybody may have
// put it there.
func number(d rabbit.Delivery, header string) int64 {
	switch n := d.Headers[header].(type) {
	case int32:
		return max(int64(n), 0)
	case int64:
		return min(max(n, 0), latest)
	}
	return 0
}

// latest is the end of the year 9998, µs since 1970: JSON can say it, and a pause later too.
const latest = 253_370_764_799_999_999

func text(d rabbit.Delivery, header string) string {
	s, _ := d.Headers[header].(string)
	return s
}

// forward stores a message elsewhere with its attempts counted and its history kept, and reports
// whether it is stored.
func (t *Transport) forward(ctx context.Context, exchange, key string, d rabbit.Delivery, attempts int, failed error, headers rabbit.Table) bool {
	headers[headerAttempts] = int32(attempts)
	headers[headerError] = transport.ErrorText(failed)
	headers["traceparent"] = d.Headers["traceparent"]
	if _, has := headers[headerReplays]; !has {
		headers[headerReplays] = int32(number(d, headerReplays))
	}
	if _, has := headers[headerFirstFailed]; !has {
		headers[headerFirstFailed] = cmp.Or(number(d, headerFirstFailed), time.Now().UnixMicro())
	}
	if headers[headerRoute] = text(d, headerRoute); headers[headerRoute] == "" {
		headers[headerRoute] = d.RoutingKey
	}
	for began := time.Now(); ; {
		err := t.confirm(ctx, exchange, key, rabbit.Publishing{
			ContentType: d.ContentType, DeliveryMode: rabbit.Persistent, Timestamp: d.Timestamp, Type: d.Type, Body: d.Body, Headers: headers,
		})
		if err == nil {
			return true
		}
		t.opts.Log.WarnContext(ctx, "message cannot be moved on yet", "to", key, "error", err)
		// Given back at once it would come again at once, and in a second have used up its deliveries: while
		// publishers are blocked or away it is held.
		if time.Since(began) > holding {
			return false
		}
		select {
		case <-t.ending:
			return false
		case <-time.After(holding / 100):
		}
	}
}

// holding is how long a message that cannot be moved on is kept in hand.
const holding = 30 * time.Second

// Depths returns how many messages wait in the queues and the retry ladder, or are being handled in
// this process, and how many are dead letters.
func (t *Transport) Depths(ctx context.Context) (waiting, dead int, err error) {
	all, err := t.Queues(ctx)
	for _, q := range all {
		waiting += q.Waiting + q.Retrying
		dead += q.Dead
	}
	return waiting + int(t.busy.Load()), dead, err
}

// Queues returns how many messages each service's queue, retry ladder and dead-letter queues have.
func (t *Transport) Queues(_ context.Context) ([]transport.QueueLevel, error) {
	c, err := t.dial("counting")
	if err != nil {
		return nil, fmt.Errorf("amqp: %w", err)
	}
	defer func() { _ = c.Close() }()
	ch, err := c.Channel()
	if err != nil {
		return nil, fmt.Errorf("amqp: %w", err)
	}
	count := func(name string) int {
		if err != nil {
			return 0
		}
		var q rabbit.Queue
		if q, err = ch.QueueDeclarePassive(name, true, false, false, false, nil); err != nil {
			err = fmt.Errorf("amqp: queue %s: %w", name, err)
		}
		return q.Messages
	}
	var all []transport.QueueLevel
	for _, s := range t.opts.Services {
		q := transport.QueueLevel{Service: s, Waiting: count(t.names.queue(s)), Dead: count(t.names.dead(s))}
		for _, d := range t.opts.Delays {
			q.Retrying += count(t.names.retry(s, d))
		}
		for _, d := range t.opts.Pauses {
			q.Dead += count(t.names.parked(s, d))
		}
		all = append(all, q)
	}
	return all, err
}

// Stop implements transport.Transport. What is being handled is finished and acknowledged; what was
// delivered but not begun goes back to its queue.
func (t *Transport) Stop(ctx context.Context) error {
	t.mu.Lock()
	t.stopped = true
	t.mu.Unlock()
	if t.stopConsuming == nil {
		return nil
	}
	done := make(chan struct{})
	go func() {
		t.stopAll()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("amqp: handlers are still running: %w", ctx.Err())
	}
}
