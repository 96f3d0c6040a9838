package amqp

import (
	"cmp"
	"context"
	"errors"
	"flashsale/id"
	"flashsale/transport"
	"fmt"
	"slices"
	"time"

	rabbit "github.com/rabbitmq/amqp091-go"
)

// A dead-letter queue can only be read by taking its messages. Whoever looks therefore
//   - holds the service's lock, so that two looks do not hide letters from one another;
//   - takes messages without acknowledging them, and puts back what is to stay. Whatever breaks on the
//     way, the connection's end puts back everything that was not acknowledged;
//   - acknowledges a letter, which removes it, only after its replay is confirmed, or to purge it.
//
// A queue gives back what was put back in an order of its own, so letters are sorted here.

// List implements transport.DeadLetters.
func (t *Transport) List(ctx context.Context, f transport.Filter) (transport.LetterPage, error) {
	page := transport.LetterPage{Letters: []transport.Letter{}}
	var after transport.Letter
	if f.After != "" {
		var err error
		if after, err = transport.ParseCursor(f.After); err != nil {
			return page, err
		}
	}
	size := f.PageSize()
	first := func() { // keeps the page, and one to know that there is another
		slices.SortFunc(page.Letters, transport.Letter.Compare)
		page.Letters = page.Letters[:min(len(page.Letters), size+1)]
	}
	partial, err := t.look(ctx, f.Service, func(l transport.Letter, _ rabbit.Delivery) (bool, error) {
		if !f.Match(l) || f.After != "" && l.Compare(after) <= 0 {
			return false, nil
		}
		l.Body = nil
		if page.Letters = append(page.Letters, l); len(page.Letters) > 4*size {
			first()
		}
		return false, nil
	})
	if err != nil {
		return transport.LetterPage{Letters: []transport.Letter{}}, err
	}
	first()
	page.Partial = partial
	if len(page.Letters) > size {
		page.Letters = page.Letters[:size]
		page.Next = page.Letters[size-1].Cursor()
	}
	return page, nil
}

// Show implements transport.DeadLetters.
func (t *Transport) Show(ctx context.Context, service transport.Service, letter id.ID) (transport.Letter, error) {
	var found *transport.Letter
	_, err := t.look(ctx, service, func(l transport.Letter, _ rabbit.Delivery) (bool, error) {
		if l.ID != letter || l.Service != service {
			return false, nil
		}
		found = &l
		return false, errEnough
	})
	if err != nil {
		return transport.Letter{}, err
	}
	if found == nil {
		return transport.Letter{}, transport.ErrNoLetter
	}
	return *found, nil
}

// Replay implements transport.DeadLetters.
func (t *Transport) Replay(ctx context.Context, f transport.Filter, perSecond int) (transport.LetterCount, error) {
	pace := transport.NewPace(perSecond)
	if perSecond < 1 {
		perSecond = transport.DefaultRate
	}
	return t.settle(ctx, f, perSecond*int(share/time.Second), func(c *rabbit.Connection) (func(transport.Letter, rabbit.Delivery) error, error) {
		p, err := newRepublisher(c)
		if err != nil {
			return nil, err
		}
		return func(l transport.Letter, d rabbit.Delivery) error {
			if err := pace.Wait(ctx); err != nil {
				return err
			}
			return p.publish(ctx, l.Queue, d, l.Route)
		}, nil
	})
}

// Purge implements transport.DeadLetters.
func (t *Transport) Purge(ctx context.Context, f transport.Filter) (transport.LetterCount, error) {
	return t.settle(ctx, f, t.opts.Window, func(*rabbit.Connection) (func(transport.Letter, rabbit.Delivery) error, error) {
		return func(transport.Letter, rabbit.Delivery) error { return nil }, nil
	})
}

// share is how long a replay goes on before it lets others have their look. The letters that it
// holds meanwhile must not outlast the broker's patience with what is not acknowledged (30 minutes).
const (
	share    = 5 * time.Second
	breather = 50 * time.Millisecond
)

// settle removes the letters that match once act has dealt with them, at most atOnce in one look. A
// letter that comes back meanwhile is another message of the same event, and stays.
func (t *Transport) settle(
	ctx context.Context, f transport.Filter, atOnce int, begin func(*rabbit.Connection) (func(transport.Letter, rabbit.Delivery) error, error),
) (n transport.LetterCount, err error) {
	seen := map[id.ID]time.Time{}
	for _, service := range t.services(f.Service) {
		for again := true; again; {
			done, full := 0, false
			partial, err := t.lookAt(ctx, service, func(c *rabbit.Connection) (visit, error) {
				act, err := begin(c)
				return func(l transport.Letter, d rabbit.Delivery) (bool, error) {
					died, was := seen[l.ID]
					if !f.Match(l) || was && l.Died.After(died) {
						return false, nil
					}
					if f.Limit > 0 && n.Done == f.Limit {
						n.More = true
						return false, errEnough
					}
					if full = done == atOnce; full {
						return false, errEnough
					}
					if err := act(l, d); err != nil {
						return false, err
					}
					seen[l.ID] = l.Died
					done++
					n.Done++
					return true, nil
				}, err
			})
			if err != nil {
				n.More = true
				return n, err
			}
			if f.Limit > 0 && n.Done == f.Limit && n.More {
				return n, nil
			}
			if again = full || partial && done > 0; !again { // else what lay behind has moved up
				n.More = n.More || partial
				break
			}
			select {
			case <-ctx.Done():
			case <-time.After(breather):
			}
		}
	}
	return n, nil
}

// services are those to look at: the named one, or all.
func (t *Transport) services(one transport.Service) []transport.Service {
	if one == "" {
		return t.opts.Services
	}
	if slices.Contains(t.opts.Services, one) {
		return []transport.Service{one}
	}
	return nil
}

// visit is shown a letter and says whether it is to be removed. errEnough ends the look, any other
// error too; what was not removed by then stays.
type visit func(l transport.Letter, d rabbit.Delivery) (remove bool, err error)

var errEnough = errors.New("amqp: seen enough")

// look shows the dead letters of a service, or of all, and reports whether there were more in a queue
// than one look can hold.
func (t *Transport) look(ctx context.Context, service transport.Service, show visit) (partial bool, err error) {
	for _, s := range t.services(service) {
		more, err := t.lookAt(ctx, s, func(*rabbit.Connection) (visit, error) { return show, nil })
		if err != nil {
			return partial, err
		}
		partial = partial || more
	}
	return partial, nil
}

func (t *Transport) lookAt(ctx context.Context, service transport.Service, begin func(*rabbit.Connection) (visit, error)) (partial bool, err error) {
	c, err := t.dial("dead letters")
	if err != nil {
		return false, fmt.Errorf("%w: RabbitMQ: %w", transport.ErrUnavailable, err)
	}
	defer func() { _ = c.Close() }()
	unlock, err := t.lock(ctx, c, service)
	if err != nil {
		return false, err
	}
	defer unlock()
	show, err := begin(c)
	if err != nil {
		return false, unreachable(err)
	}
	queues := []string{t.names.dead(service)}
	for _, d := range t.opts.Pauses {
		queues = append(queues, t.names.parked(service, d))
	}
	for i, queue := range queues {
		var pause time.Duration
		if i > 0 {
			pause = t.opts.Pauses[i-1]
		}
		more, err := t.scan(ctx, c, queue, func(d rabbit.Delivery) (bool, error) { return show(t.letter(service, pause, d), d) })
		partial = partial || more
		if errors.Is(err, errEnough) {
			return partial, nil
		}
		if err != nil {
			return partial, err
		}
	}
	return partial, nil
}

func unreachable(err error) error {
	var said *rabbit.Error
	if errors.As(err, &said) {
		return fmt.Errorf("%w: RabbitMQ: %w", transport.ErrUnavailable, err)
	}
	return err
}

// patience is how long a look waits for another to end.
const patience = 15 * time.Second

// lock keeps other looks away until unlock, or until the connection ends however that comes: an
// exclusive queue is its connection's own and goes with it.
func (t *Transport) lock(ctx context.Context, c *rabbit.Connection, service transport.Service) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		ch, err := c.Channel()
		if err != nil {
			return nil, unreachable(err)
		}
		_, err = ch.QueueDeclare(t.names.lock(service), false, false, true, false, nil)
		if err == nil {
			return func() {
				_, _ = ch.QueueDelete(t.names.lock(service), false, false, false)
				_ = ch.Close()
			}, nil
		}
		var said *rabbit.Error
		if !errors.As(err, &said) || said.Code != rabbit.ResourceLocked {
			return nil, unreachable(err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: somebody else is going through the dead letters of %s; try again when they have finished", transport.ErrOverloaded, service)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// many is how many messages are asked for one by one. Beyond it they are streamed, which is ten times
// as fast, but does not say where the queue ends.
const (
	many = 64
	idle = 100 * time.Millisecond
)

// scan shows every message of a queue, up to the window, and puts back what is not removed. A queue
// that is not there is empty.
func (t *Transport) scan(ctx context.Context, c *rabbit.Connection, queue string, show func(rabbit.Delivery) (bool, error)) (partial bool, err error) {
	ch, err := c.Channel()
	if err != nil {
		return false, unreachable(err)
	}
	defer func() { _ = ch.Close() }()
	seen := 0
	one := func(d rabbit.Delivery) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		seen++
		remove, err := show(d)
		if !remove || err != nil {
			return err
		}
		return unreachable(d.Ack(false))
	}
	for err == nil && !partial {
		if seen == many {
			if err = t.stream(ch, queue, one, &seen); err != nil {
				break
			}
		}
		d, ok, got := ch.Get(queue, false)
		var said *rabbit.Error
		if errors.As(got, &said) && said.Code == rabbit.NotFound {
			return false, nil
		}
		if err = unreachable(got); err != nil || !ok {
			break
		}
		if partial = seen >= t.opts.Window; !partial {
			err = one(d)
		}
	}
	// Back goes everything that was not acknowledged; before the lock does, so that the next look sees it.
	if back := ch.Nack(0, true, true); err == nil {
		err = unreachable(back)
	}
	return partial, err
}

// stream has the queue send what it has, up to the window, until nothing comes for a while.
func (t *Transport) stream(ch *rabbit.Channel, queue string, one func(rabbit.Delivery) error, seen *int) error {
	room := t.opts.Window - *seen
	if room < 1 {
		return nil
	}
	if err := ch.Qos(min(room, 65_535), 0, false); err != nil {
		return unreachable(err)
	}
	const tag = "dead letters"
	deliveries, err := ch.Consume(queue, tag, false, false, false, false, nil)
	if err != nil {
		return unreachable(err)
	}
	quiet := time.NewTimer(idle)
	defer quiet.Stop()
	var failed error
	stopping := false
	stop := func() { // the deliveries that are here already still come, then the end
		if !stopping {
			stopping = true
			if err := ch.Cancel(tag, false); err != nil {
				failed = errors.Join(failed, unreachable(err))
			}
		}
	}
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return failed
			}
			if failed != nil { // it goes back with the rest
				continue
			}
			if failed = one(d); failed != nil || *seen >= t.opts.Window {
				stop()
			}
			quiet.Reset(idle)
		case <-quiet.C:
			stop()
		}
	}
}

// letter reads what a message says about its death. pause is that of its queue, 0 for the queue of
// those that wait for an operator.
func (t *Transport) letter(service transport.Service, pause time.Duration, d rabbit.Delivery) transport.Letter {
	l := transport.NewLetter(service, d.Body)
	l.Queue, l.Route = t.names.queue(service), text(d, headerRoute)
	l.Reason, l.Error = transport.Reason(text(d, headerReason)), text(d, headerError)
	l.Attempts, l.Replays = int(number(d, headerTries)), int(number(d, headerReplays))
	l.FirstFailed, l.Died = micros(number(d, headerFirstFailed)), micros(number(d, headerDied))
	if pause > 0 {
		l.Replays = max(l.Replays-1, 0) // the one that it waits for has not been
		l.ReplayAt = l.Died.Add(pause)
	}
	if !slices.Contains(transport.Reasons(), l.Reason) { // put there by a stranger
		l.Reason, l.Error = transport.ReasonPermanent, cmp.Or(l.Error, "nothing says why it is here")
	}
	if death := lastDeath(d); death["reason"] == "delivery_limit" {
		// The broker's own doing: its consumers ended without an answer, again and again.
		l.Reason, l.Attempts = transport.ReasonAttempts, t.opts.DeliveryLimit+1
		l.Error = fmt.Sprintf("delivered %d times and never answered: whoever handled it crashed", l.Attempts)
		if before := text(d, headerError); before != "" {
			l.Error += "; before that: " + before
		}
		if at, ok := death["time"].(time.Time); ok && at.UnixMicro() >= 0 && at.UnixMicro() <= latest {
			l.Died = at.UTC()
		}
		if keys, ok := death["routing-keys"].([]any); ok && len(keys) > 0 && l.Route == "" {
			l.Route, _ = keys[0].(string)
		}
		if l.FirstFailed.IsZero() {
			l.FirstFailed = l.Died
		}
	}
	return l
}

func micros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

func lastDeath(d rabbit.Delivery) rabbit.Table {
	deaths, _ := d.Headers["x-death"].([]any)
	if len(deaths) == 0 {
		return nil
	}
	last, _ := deaths[0].(rabbit.Table)
	return last
}

// republisher puts letters back into their queues, each confirmed before the next.
type republisher struct {
	ch   *rabbit.Channel
	back chan rabbit.Return
}

func newRepublisher(c *rabbit.Connection) (*republisher, error) {
	ch, err := c.Channel()
	if err != nil {
		return nil, err
	}
	if err := ch.Confirm(false); err != nil {
		return nil, err
	}
	return &republisher{ch, ch.NotifyReturn(make(chan rabbit.Return, 1))}, nil
}

// confirmIn is how long the broker may take to store a letter.
const confirmIn = 10 * time.Second

// publish stores a letter in a queue as if it were sent anew.
func (p *republisher) publish(ctx context.Context, queue string, d rabbit.Delivery, route string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), confirmIn) // what is begun is finished: its outcome is to be known
	defer cancel()
	done, err := p.ch.PublishWithDeferredConfirmWithContext(ctx, "", queue, true, false, rabbit.Publishing{
		ContentType: d.ContentType, DeliveryMode: rabbit.Persistent, MessageId: id.New(time.Now()).String(), Timestamp: d.Timestamp, Type: d.Type, Body: d.Body,
		Headers: rabbit.Table{headerAttempts: int32(0), headerRoute: route, "traceparent": d.Headers["traceparent"]},
	})
	if err != nil {
		return unreachable(err)
	}
	stored, err := done.WaitContext(ctx)
	if err != nil {
		return fmt.Errorf("%w: RabbitMQ did not confirm within %s (a memory or disk alarm?); the letter stays", transport.ErrUnavailable, confirmIn)
	}
	select {
	case r := <-p.back:
		return fmt.Errorf("%w: RabbitMQ has no queue %s (%s); start the service once", transport.ErrUnavailable, queue, r.ReplyText)
	default:
	}
	if !stored {
		if p.ch.IsClosed() {
			return fmt.Errorf("%w: the connection to RabbitMQ was lost; the letter stays", transport.ErrUnavailable)
		}
		return fmt.Errorf("%w: the queue %s is full; try again when it has been worked off", transport.ErrOverloaded, queue)
	}
	return nil
}
