package main

import (
	"context"
	"encoding/json"
	"errors"
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
}

// answer registers what answers questions to a service, for this process and for the others.
func (w *wiring) answer(to transport.Service, a transport.Answerer) {
	w.local[to] = a
	if w.http != nil {
		w.http.Answer(to, a)
	}
}

// start begins to deliver.
func (w *wiring) start(ctx context.Context) error {
	if _, both := w.events.(*split); w.http != nil && !both {
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
