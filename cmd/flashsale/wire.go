package main

import (
	"context"
	"encoding/json"
	"errors"
	"flashsale/engine"
	"flashsale/telemetry/metrics"
	"flashsale/telemetry/tracing"
	"flashsale/transport"
	"flashsale/transport/httptransport"
	"fmt"
	"sync"
)

// wiring carries the flow in this process: events go to the transport of the mode, questions to
// whoever answers here or, when the service runs elsewhere, over HTTP.
type wiring struct {
	events transport.Transport
	local  map[transport.Service]transport.Answerer
	http   *httptransport.Transport // nil when every service runs here
	queue  queue                    // nil when nothing is stored on its way
	called bool                     // events go over http, too
	trace  *tracing.Tracer          // nil: off
}

// queue is a transport that stores what is on its way.
type queue interface {
	transport.Transport
	engine.Queues
	metrics.Queues
}

// draining is the synchronous wiring of a system that has run in the asynchronous one: it calls, and
// handles what still waits in the queue. What was accepted is decided, whatever the mode is now.
type draining struct {
	transport.Transport
	queue queue
}

// Handle implements transport.Transport.
func (d draining) Handle(to transport.Service, h transport.Handler) {
	d.Transport.Handle(to, h)
	d.queue.Handle(to, h)
}

// Start implements transport.Transport.
func (d draining) Start(ctx context.Context) error {
	if err := d.Transport.Start(ctx); err != nil {
		return err
	}
	return d.queue.Start(ctx)
}

// Stop implements transport.Transport.
func (d draining) Stop(ctx context.Context) error {
	return errors.Join(d.queue.Stop(ctx), d.Transport.Stop(ctx))
}

// answer registers what answers questions to a service, for this process and for the others.
func (w *wiring) answer(to transport.Service, a transport.Answerer) {
	a = w.trace.Answerer(to, a)
	w.local[to] = a
	if w.http != nil {
		w.http.Answer(to, a)
	}
}

// start begins to deliver.
func (w *wiring) start(ctx context.Context) error {
	if w.http != nil && !w.called {
		if err := w.http.Start(ctx); err != nil {
			return err
		}
	}
	return w.events.Start(ctx)
}

// stop finishes what is under way: events first, for their handlers may still ask.
func (w *wiring) stop(ctx context.Context) error {
	err := w.events.Stop(ctx)
	if w.http != nil {
		err = errors.Join(err, w.http.Stop(ctx))
	}
	return err
}

// Ask implements transport.Asker.
func (w *wiring) Ask(ctx context.Context, to transport.Service, q transport.Question) (json.RawMessage, error) {
	if w.trace != nil {
		return w.trace.Ask(ctx, to, q, w.ask)
	}
	return w.ask(ctx, to, q)
}

func (w *wiring) ask(ctx context.Context, to transport.Service, q transport.Question) (json.RawMessage, error) {
	if answer, ok := w.local[to]; ok {
		return answer(ctx, q)
	}
	if w.http == nil {
		return nil, fmt.Errorf("%w: the service %s does not run here and has no peer", transport.ErrUnavailable, to)
	}
	return w.http.Ask(ctx, to, q)
}

// split is the synchronous transport of a process that runs some of the services: a call for those
// that live here, HTTP for the others.
type split struct {
	here  transport.Transport
	there transport.Transport

	mu    sync.Mutex
	local map[transport.Service]bool
}

func newSplit(here, there transport.Transport) *split {
	return &split{here: here, there: there, local: map[transport.Service]bool{}}
}

// Send implements transport.Sender.
func (s *split) Send(ctx context.Context, to transport.Service, e transport.Envelope) (transport.Receipt, error) {
	s.mu.Lock()
	local := s.local[to]
	s.mu.Unlock()
	if local {
		return s.here.Send(ctx, to, e)
	}
	return s.there.Send(ctx, to, e)
}

// Handle implements transport.Transport: the handler is there for this process and for the others.
func (s *split) Handle(to transport.Service, h transport.Handler) {
	s.mu.Lock()
	s.local[to] = true
	s.mu.Unlock()
	s.here.Handle(to, h)
	s.there.Handle(to, h)
}

// Start implements transport.Transport.
func (s *split) Start(ctx context.Context) error {
	if err := s.here.Start(ctx); err != nil {
		return err
	}
	return s.there.Start(ctx)
}

// Stop implements transport.Transport: the others first, for their steps may cause steps here.
func (s *split) Stop(ctx context.Context) error {
	return errors.Join(s.there.Stop(ctx), s.here.Stop(ctx))
}
