package tracing

import (
	"context"
	"encoding/json"
	"flashsale/transport"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// Incoming is a request to the public API. TraceParent is a W3C trace context: the caller's, or with
// Remote false one that only names the trace.
type Incoming struct {
	Service     transport.Service
	Method      string
	Path        string
	Request     string // its id
	TraceParent string
	Remote      bool
}

// Request starts the span of a request. It returns the span's context, its W3C trace context for what
// follows from the request, and what ends the span: with the route's pattern and the answer's status.
func (t *Tracer) Request(ctx context.Context, in Incoming) (context.Context, string, func(route string, status int)) {
	p, _ := parse(in.TraceParent)
	if !in.Remote {
		p.span = trace.SpanID{}
	}
	p.sampled = t.chosen(p.trace)
	s := t.open(ctx, p, in.Service, in.Method, "", trace.SpanKindServer)
	s.rec.in = in
	return s, s.named(), func(route string, status int) {
		s.what, s.status = route, status
		if status >= 500 {
			s.end("answered " + strconv.Itoa(status))
			return
		}
		s.end("")
	}
}

// clip makes a stranger's text one that OTLP takes: one invalid byte would cost the whole batch.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 200)], "�") }

// Transport returns a transport whose envelopes carry the span that sends them, and whose handlers run
// in a span of their own: below the one that sent, in whichever process that was.
func (t *Tracer) Transport(next transport.Transport) transport.Transport {
	if t == nil {
		return next
	}
	return traced{next, t}
}

type traced struct {
	transport.Transport
	t *Tracer
}

// Send implements transport.Sender.
func (d traced) Send(ctx context.Context, to transport.Service, e transport.Envelope) (transport.Receipt, error) {
	// What follows from a request that was not chosen names the request: the sending has a span of its own
	// only when it is worth one.
	if by := spanOf(ctx); by != nil && !by.rec.sampled && by.text == e.TraceParent {
		c := calling(ctx)
		receipt, err := d.Transport.Send(ctx, to, e)
		c.ended("send "+e.Type, err, nil, attribute.String("messaging.destination.name", string(to)))
		return receipt, err
	}
	s := d.t.step(ctx, e.TraceParent, e.Source, "send", e.Type, d.t.sends)
	s.subject, s.message = e.Subject, e.ID
	s.set(attribute.String("messaging.destination.name", string(to)))
	e.TraceParent = s.named()
	receipt, err := d.Transport.Send(s, to, e)
	s.set(attribute.Bool("flashsale.decided", receipt.Decided))
	s.end(failure(err))
	return receipt, err
}

// Handle implements transport.Transport.
func (d traced) Handle(to transport.Service, h transport.Handler) {
	d.Transport.Handle(to, func(ctx context.Context, e transport.Envelope) ([]transport.Envelope, error) {
		// Handled where it was sent, and not chosen: what goes wrong shows as well in the span that sends.
		if by := spanOf(ctx); by != nil && !by.rec.sampled && by.text == e.TraceParent {
			d.t.enter(by)
			defer d.t.leave(by)
			return h(ctx, e)
		}
		s := d.t.step(ctx, e.TraceParent, to, "handle", e.Type, d.t.handles)
		s.subject, s.message = e.Subject, e.ID
		d.t.enter(s)
		defer d.t.leave(s)
		e.TraceParent = s.named() // the events that follow say this one as their cause
		events, err := h(s, e)
		s.end(failure(err))
		return events, err
	})
}

// Ask puts a question by next, in a span that travels with it. A question that no request has caused is
// not traced.
func (t *Tracer) Ask(ctx context.Context, to transport.Service, q transport.Question, next func(context.Context, transport.Service, transport.Question) (json.RawMessage, error)) (json.RawMessage, error) {
	ctx, s := part(ctx, "ask", q.Name)
	if s != nil {
		q.TraceParent = s.named()
	}
	b, err := next(ctx, to, q)
	s.end(failure(err))
	return b, err
}

// Answerer answers questions in a span below the one that asked.
func (t *Tracer) Answerer(service transport.Service, next transport.Answerer) transport.Answerer {
	if t == nil {
		return next
	}
	return func(ctx context.Context, q transport.Question) (json.RawMessage, error) {
		if q.TraceParent == "" {
			return next(ctx, q)
		}
		s := t.step(ctx, q.TraceParent, service, "answer", q.Name, trace.SpanKindServer)
		b, err := next(s, q)
		s.end(failure(err))
		return b, err
	}
}
