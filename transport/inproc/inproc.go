// Package inproc carries envelopes within one process: by calls (Bus), or through a queue in a
// SQLite file that outlives the process (Queue).
package inproc

import (
	"context"
	"flashsale/transport"
	"fmt"
	"sync"
)

// Bus is the synchronous transport: Send calls the handler and returns what it decided.
type Bus struct {
	mu       sync.Mutex
	handlers map[transport.Service]transport.Handler
	running  int
	stopping chan struct{} // closed when the last call under way ends after Stop; nil before Stop
	stopped  bool
}

// New returns a Bus.
func New() *Bus { return &Bus{handlers: map[transport.Service]transport.Handler{}} }

// Handle implements transport.Transport.
func (b *Bus) Handle(to transport.Service, h transport.Handler) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handlers[to] = h
}

// Start implements transport.Transport; a Bus delivers from the beginning.
func (b *Bus) Start(context.Context) error { return nil }

// Send implements transport.Sender.
func (b *Bus) Send(ctx context.Context, to transport.Service, e transport.Envelope) (transport.Receipt, error) {
	h, err := b.enter(to)
	if err != nil {
		return transport.Receipt{}, err
	}
	defer b.leave()
	if err := ctx.Err(); err != nil {
		return transport.Receipt{}, fmt.Errorf("%w: %w", transport.ErrUnavailable, err) // nothing was handed over
	}
	events, err := h(ctx, e)
	if err != nil {
		return transport.Receipt{}, err
	}
	return transport.Receipt{Decided: true, Events: events}, nil
}

func (b *Bus) enter(to transport.Service) (transport.Handler, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return nil, transport.ErrStopped
	}
	h, ok := b.handlers[to]
	if !ok {
		return nil, fmt.Errorf("%w: the service %q does not run in this process", transport.ErrUnavailable, to)
	}
	b.running++
	return h, nil
}

func (b *Bus) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running--
	b.settle()
}

// settle stops a stopping bus that has come to rest.
func (b *Bus) settle() {
	if b.stopping != nil && b.running == 0 && !b.stopped {
		b.stopped = true
		close(b.stopping)
	}
}

// Stop implements transport.Transport. Calls under way may cause calls: those are let in and
// waited for too.
func (b *Bus) Stop(ctx context.Context) error {
	b.mu.Lock()
	if b.stopping == nil {
		b.stopping = make(chan struct{})
	}
	b.settle()
	b.mu.Unlock()
	select {
	case <-b.stopping:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("inproc: calls are still under way: %w", ctx.Err())
	}
}
