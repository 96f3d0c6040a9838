package enginesim

import (
	"context"
	"encoding/json"
	"flashsale/engine"
	"flashsale/transport"
	"fmt"
	"slices"
	"time"
)

// wire is the transport as a process uses it: calls that are answered, or a queue that accepts.
type wire struct{ p *process }

func wireSilence(certain bool) error {
	if certain {
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, errLost)
	}
	return errLost
}

// work is a handler that runs in a process, and what came of it.
type work[T any] struct {
	in   *process
	done chan struct{}
	out  T
	err  error
}

// start runs something in a process. It stops with its process, and no later than its caller's
// deadline, not with the caller.
func start[T any](w *world, in *process, name string, deadline context.Context, f func(context.Context) (T, error)) *work[T] {
	k := &work[T]{in: in, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(w.as(in.ctx, name))
	if at, ok := deadline.Deadline(); ok {
		cancel()
		// A little earlier, as a deadline is passed on: at the same instant, who hears of it first would be chance.
		ctx, cancel = context.WithDeadline(w.as(in.ctx, name), at.Add(-10*time.Millisecond))
	}
	go func() {
		defer cancel()
		defer close(k.done)
		// Beginning is a step of its own: of several that begin at the same time, the seed says who is first.
		if _, k.err = do(ctx, w, in, "begins", nil, func() (struct{}, error) { return struct{}{}, nil }); k.err == nil {
			k.out, k.err = f(ctx)
		}
	}()
	return k
}

// wait returns what came of the work, unless its process or the caller went first.
func (k *work[T]) wait(ctx context.Context) (T, error) {
	var none T
	select {
	case <-k.done:
	case <-ctx.Done():
		return none, ctx.Err()
	}
	if k.in.isDead() {
		return none, errLost
	}
	return k.out, k.err
}

func (p *process) isDead() bool {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.dead
}

// some picks a process that is up.
func (w *world) some() (*process, error) {
	up := w.alive()
	if len(up) == 0 {
		return nil, fmt.Errorf("%w: no process is up", transport.ErrUnavailable)
	}
	return up[w.rng.IntN(len(up))], nil
}

// Send implements transport.Sender.
func (s wire) Send(ctx context.Context, to transport.Service, e transport.Envelope) (transport.Receipt, error) {
	w := s.p.w
	what := fmt.Sprintf("%s %s → %s", e.Type, short(e.Subject), to)
	if w.weather.async {
		if wait, err := s.stuck(ctx, what); err != nil || wait > 0 {
			return transport.Receipt{}, err
		}
		_, err := do(ctx, w, s.p, "publish "+what, wireSilence, func() (struct{}, error) {
			w.messages++
			at := time.Now().Add(time.Duration(w.rng.IntN(300)) * time.Millisecond)
			if !w.calm && w.chance(w.weather.delay) {
				at = at.Add(time.Duration(w.rng.IntN(8)) * time.Second)
			}
			w.queue = append(w.queue, &message{n: w.messages, to: to, envelope: e, at: at})
			return struct{}{}, nil
		})
		return transport.Receipt{}, err
	}
	k, err := do(ctx, w, s.p, "send "+what, wireSilence, func() (*work[[]transport.Envelope], error) {
		in, err := w.some()
		if err != nil {
			return nil, err
		}
		w.messages++
		return start(w, in, fmt.Sprintf("m%d", w.messages), ctx, func(ctx context.Context) ([]transport.Envelope, error) {
			return in.handlers[to](ctx, e)
		}), nil
	})
	if err != nil {
		return transport.Receipt{}, err
	}
	events, err := k.wait(ctx)
	if err != nil {
		return transport.Receipt{}, err
	}
	return do(ctx, w, s.p, "answer to "+what, func(bool) error { return errLost }, func() (transport.Receipt, error) {
		return transport.Receipt{Decided: true, Events: events}, nil
	})
}

// stuck has a publisher wait for its connection for seconds, and then give up, for certain.
func (s wire) stuck(ctx context.Context, what string) (time.Duration, error) {
	w := s.p.w
	if w.weather.stuck == 0 {
		return 0, nil
	}
	wait, err := do(ctx, w, s.p, "connection for "+what, nil, func() (time.Duration, error) {
		if w.calm || !w.chance(w.weather.stuck) {
			return 0, nil
		}
		w.saw("a publisher without a connection")
		return time.Duration(1+w.rng.IntN(9000)) * time.Millisecond, nil
	})
	if err != nil || wait == 0 {
		return 0, err
	}
	_ = sleep(ctx, wait)
	// A step of its own, as in process.wait.
	return do(ctx, w, s.p, "no connection for "+what, nil, func() (time.Duration, error) { return wait, wireSilence(true) })
}

// Ask implements transport.Asker.
func (s wire) Ask(ctx context.Context, to transport.Service, q transport.Question) (json.RawMessage, error) {
	w := s.p.w
	k, err := do(ctx, w, s.p, "ask "+q.Name, func(bool) error { return wireSilence(true) }, func() (*work[json.RawMessage], error) {
		in, err := w.some()
		if err != nil {
			return nil, err
		}
		w.messages++
		return start(w, in, fmt.Sprintf("q%d", w.messages), ctx, func(ctx context.Context) (json.RawMessage, error) {
			if to == transport.Order {
				return in.orders.Answer(ctx, q)
			}
			return engine.Followed(ledgerOf{in}, in.inventory.Answer)(ctx, q)
		}), nil
	})
	if err != nil {
		return nil, err
	}
	answer, err := k.wait(ctx)
	if err != nil {
		return nil, err
	}
	return do(ctx, w, s.p, "answer to "+q.Name, func(bool) error { return wireSilence(true) }, func() (json.RawMessage, error) { return answer, nil })
}

// message is an envelope in the queue. It stays until a handler has taken it.
type message struct {
	n        int
	to       transport.Service
	envelope transport.Envelope
	at       time.Time // not before
	tries    int
	out      bool // being handled
}

// ready returns the messages that can be delivered; which of them is next is the seed's choice.
func (w *world) ready() []*message {
	if len(w.alive()) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(w.queue), func(m *message) bool { return m.out || m.at.After(time.Now()) })
}

// deliver hands a message to a process. It goes from the queue once it was handled, and sometimes
// not even then: the acknowledgement can be lost too.
func (w *world) deliver(m *message) {
	in, err := w.some()
	if err != nil {
		return
	}
	m.out = true
	m.tries++
	w.note("m%d: %s %s → %s, try %d", m.n, m.envelope.Type, short(m.envelope.Subject), in.name, m.tries)
	k := start(w, in, fmt.Sprintf("m%d.%d", m.n, m.tries), context.Background(), func(ctx context.Context) ([]transport.Envelope, error) {
		return in.handlers[m.to](ctx, m.envelope)
	})
	go func() {
		<-k.done
		w.end(fmt.Sprintf("m%06d", m.n), func() { w.acknowledge(m, k) })
	}()
}

func (w *world) acknowledge(m *message, k *work[[]transport.Envelope]) {
	m.out = false
	err := k.err
	if k.in.dead {
		err = errDied
	}
	if err == nil && (w.calm || !w.chance(w.weather.redeliver)) {
		w.queue = slices.DeleteFunc(w.queue, func(o *message) bool { return o == m })
		return
	}
	w.note("m%d: delivered again later %s", m.n, errText(err))
	if err != nil && transport.IsPermanent(err) && !k.in.dead {
		w.fail("a dead letter: %s: %w", m.envelope.Type, err)
	}
	m.at = time.Now().Add(min(50*time.Millisecond<<min(m.tries, 6), 2*time.Second))
}
