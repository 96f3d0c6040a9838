// Package tracing follows a request through HTTP, the queues and the databases as OpenTelemetry traces
// over OTLP. It decorates the contracts that cmd hands around; without it nothing of it runs.
//
// Which traces are kept: a share of them from the first service on, by the flag that travels with the
// trace; and of the others, in each process by itself, the spans of a request or step that failed or
// was slow. Until its first span ends, what a process knows of a trace is a bounded record of its own.
package tracing

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"flashsale/id"
	"flashsale/telemetry/logs"
	"flashsale/transport"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Options are what a Tracer needs. Export must be set; zero bounds mean their default.
type Options struct {
	Export   sdktrace.SpanExporter
	Ratio    float64          // share of the traces kept from the first service on, 0 to 1
	Slow     time.Duration    // a request or step that takes as long is kept; 0: none for being slow
	Instance string           // tells apart the processes of a service
	Wiring   string           // sync or async
	Tails    int              // failed and slow ones kept, a second; 100
	Clock    func() time.Time // for tests; the machine's
}

// Tracer records spans and exports those worth keeping. Close it when done. What a nil Tracer is asked
// to decorate it returns as it is: off costs nothing.
type Tracer struct {
	opts    Options
	start   time.Time // what a span's times are counted from
	tracers map[transport.Service]trace.Tracer
	batch   sdktrace.SpanProcessor
	sends   trace.SpanKind // of an envelope: a call, or a message
	handles trace.SpanKind
	live    [32]shard
	tails   bucket
}

// shard holds spans under way whose work another goroutine may do, in a group.
type shard struct {
	mu    sync.Mutex
	spans map[trace.SpanID]*Span
}

const (
	maxSpans = 256 // of one record; more are counted and dropped
	maxLinks = 128 // of one span
)

// record is what this process knows of one request or step: the spans below its first one.
type record struct {
	t     *Tracer
	trace trace.TraceID
	in    Incoming // what it is, for a request to the API

	mu      sync.Mutex
	sampled bool
	failed  bool
	done    bool // the first span has ended
	kept    bool
	spans   []*Span // ended
	lost    int
	room    [8]*Span // of spans, at first
}

// Span is one piece of work, and the context of what happens in it. A nil Span records nothing.
type Span struct {
	context.Context
	rec     *record
	id      trace.SpanID
	parent  trace.SpanID
	remote  bool // the parent is of another process or record
	first   bool // of its record
	service transport.Service
	verb    string // with what, the name: put together when it is exported
	what    string
	kind    trace.SpanKind
	began   time.Duration // since the tracer's start
	ended   time.Duration
	status  int    // of a request's answer
	text    string // the span as a W3C trace context, when it is named
	failure string
	subject id.ID // what an envelope is about: a reservation and order, a payment or a sale
	message id.ID // the envelope
	attrs   []attribute.KeyValue
	links   []trace.Link
	room    [2]attribute.KeyValue // of attrs, at first
}

type spanKey struct{}

// Value implements context.Context.
func (s *Span) Value(key any) any {
	switch key.(type) {
	case spanKey:
		return s
	case logs.Key:
		return logs.Facts{Request: s.rec.in.Request, Trace: s.traceParent()}
	}
	return s.Context.Value(key)
}

func spanOf(ctx context.Context) *Span {
	s, _ := ctx.Value(spanKey{}).(*Span)
	return s
}

// parent is a W3C trace context, read.
type parentOf struct {
	trace   trace.TraceID
	span    trace.SpanID
	sampled bool
}

// parse reads a W3C trace context; ok is false for one that is none.
func parse(text string) (p parentOf, ok bool) {
	if len(text) != 55 || text[:3] != "00-" || text[35] != '-' || text[52] != '-' {
		return p, false
	}
	var words [4]uint64 // the trace's halves, the span, the flags
	for i, part := range [...]string{text[3:19], text[19:35], text[36:52], text[53:]} {
		var err error
		if words[i], err = strconv.ParseUint(part, 16, 64); err != nil {
			return parentOf{}, false
		}
	}
	binary.BigEndian.PutUint64(p.trace[:8], words[0])
	binary.BigEndian.PutUint64(p.trace[8:], words[1])
	binary.BigEndian.PutUint64(p.span[:], words[2])
	p.sampled = words[3]&1 != 0
	return p, p.trace.IsValid() && p.span.IsValid()
}

// named returns the span's W3C trace context and keeps it. Whoever starts a span may call it, before
// others know the span.
func (s *Span) named() string {
	s.text = s.traceParent()
	return s.text
}

// traceParent writes the span as the W3C trace context of what follows from it.
func (s *Span) traceParent() string {
	if s.text != "" {
		return s.text
	}
	var b [55]byte
	copy(b[:], "00-")
	hex.Encode(b[3:35], s.rec.trace[:])
	b[35] = '-'
	hex.Encode(b[36:52], s.id[:])
	copy(b[52:], "-00")
	if s.rec.sampled {
		b[54] = '1'
	}
	return string(b[:])
}

func (s *Span) context() trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: s.rec.trace, SpanID: s.id, TraceFlags: trace.FlagsSampled})
}

func newSpanID() (v trace.SpanID) {
	for !v.IsValid() {
		binary.NativeEndian.PutUint64(v[:], rand.Uint64())
	}
	return v
}

func newTraceID() (v trace.TraceID) {
	for !v.IsValid() {
		binary.NativeEndian.PutUint64(v[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(v[8:], rand.Uint64())
	}
	return v
}

// chosen reports whether the trace is one of the share that is kept. The same trace is chosen by every
// process that has the same ratio. A caller's own flag has no say, or anybody could have all recorded.
func (t *Tracer) chosen(v trace.TraceID) bool {
	h := fnv.New64a()
	_, _ = h.Write(v[:])
	x := h.Sum64() // FNV mixes its low bits well and the high ones badly
	x ^= x >> 32
	x *= 0x9e3779b97f4a7c15
	return float64(x>>11)/(1<<53) < t.opts.Ratio
}

// now is the time since the tracer's start: half of what the time of day costs.
func (t *Tracer) now() time.Duration {
	if t.opts.Clock != nil {
		return t.opts.Clock().Sub(t.start)
	}
	return time.Since(t.start)
}

// open starts the first span of a new record. Both are one allocation: most are never exported.
func (t *Tracer) open(ctx context.Context, p parentOf, service transport.Service, verb, what string, kind trace.SpanKind) *Span {
	if !p.trace.IsValid() {
		p.trace = newTraceID()
		p.sampled = t.chosen(p.trace)
	}
	v := &struct {
		rec  record
		span Span
	}{
		rec: record{t: t, trace: p.trace, sampled: p.sampled},
		span: Span{
			Context: ctx, id: newSpanID(), parent: p.span, remote: true, first: true,
			service: service, verb: verb, what: what, kind: kind, began: t.now(),
		},
	}
	v.span.rec = &v.rec
	v.rec.spans = v.rec.room[:0]
	return &v.span
}

// below starts a span in the record of s. It returns nil without one, or when the record is closed.
func (s *Span) below(ctx context.Context, service transport.Service, verb, what string, kind trace.SpanKind) *Span {
	if s == nil {
		return nil
	}
	s.rec.mu.Lock()
	done := s.rec.done
	s.rec.mu.Unlock()
	if done {
		return nil
	}
	if service == "" {
		service = s.service
	}
	return &Span{
		Context: ctx, rec: s.rec, id: newSpanID(), parent: s.id, service: service, verb: verb, what: what, kind: kind, began: s.rec.t.now(),
	}
}

// part starts a span for a call to a part of the system, below the span of ctx. Without one it returns
// nil and ctx as it is: what no request has caused is not traced.
func part(ctx context.Context, verb, what string) (context.Context, *Span) {
	s := spanOf(ctx).below(ctx, "", verb, what, trace.SpanKindClient)
	if s == nil {
		return ctx, nil
	}
	return s, s
}

// step starts a span for a step of the flow whose cause travels as a W3C trace context: below the span
// of ctx when that is of the same trace, otherwise in a record of its own, linked to the span of ctx.
func (t *Tracer) step(ctx context.Context, cause string, service transport.Service, verb, what string, kind trace.SpanKind) *Span {
	around := spanOf(ctx)
	if around != nil && cause == around.text && cause != "" { // as in most steps
		if s := around.below(ctx, service, verb, what, kind); s != nil {
			return s
		}
	}
	p, ok := parse(cause)
	if around != nil && (!ok || p.trace == around.rec.trace) {
		if s := around.below(ctx, service, verb, what, kind); s != nil {
			return s
		}
		if !ok {
			p = parentOf{around.rec.trace, around.id, around.rec.sampled}
		}
	}
	s := t.open(ctx, p, service, verb, what, kind)
	if around != nil && p.trace != around.rec.trace {
		s.link(around)
	}
	return s
}

func (s *Span) set(attrs ...attribute.KeyValue) {
	if s == nil {
		return
	}
	if s.attrs == nil {
		s.attrs = s.room[:0]
	}
	s.attrs = append(s.attrs, attrs...)
}

func (s *Span) link(to *Span) {
	if s != nil && to != nil && len(s.links) < maxLinks {
		s.links = append(s.links, trace.Link{SpanContext: to.context()})
	}
}

// end ends a span; failure says what went wrong, empty for nothing. The first span of a record decides
// whether all of it is kept.
func (s *Span) end(failure string) {
	if s == nil {
		return
	}
	s.finish(failure, s.rec.t.now())
}

func (s *Span) finish(failure string, at time.Duration) {
	r := s.rec
	s.ended, s.failure = at, failure
	r.mu.Lock()
	r.failed = r.failed || failure != ""
	switch {
	case r.done && !r.kept: // what outlives its request is not worth a second decision
		r.mu.Unlock()
		return
	case r.done:
		r.mu.Unlock()
		r.t.export(s)
		return
	case len(r.spans) >= maxSpans && !s.first:
		r.lost++
		r.mu.Unlock()
		return
	}
	r.spans = append(r.spans, s)
	if !s.first {
		r.mu.Unlock()
		return
	}
	r.done = true
	slow := r.t.opts.Slow > 0 && at-s.began >= r.t.opts.Slow
	r.kept = r.sampled || (r.failed || slow) && r.t.tails.take(at)
	keep, spans := r.kept, r.spans
	r.spans = nil
	if r.lost > 0 {
		s.set(attribute.Int("flashsale.spans_dropped", r.lost))
	}
	if r.kept && !r.sampled {
		s.set(attribute.Bool("flashsale.tail", true))
	}
	r.mu.Unlock()
	if keep {
		for _, v := range spans {
			r.t.export(v)
		}
	}
}

func failure(err error) string {
	if err == nil {
		return ""
	}
	return transport.ErrorText(err)
}

// enter makes a span known to whoever does its work in a group, until leave.
func (t *Tracer) enter(s *Span) {
	sh := &t.live[s.id[0]%byte(len(t.live))]
	sh.mu.Lock()
	sh.spans[s.id] = s
	sh.mu.Unlock()
}

func (t *Tracer) leave(s *Span) {
	sh := &t.live[s.id[0]%byte(len(t.live))]
	sh.mu.Lock()
	delete(sh.spans, s.id)
	sh.mu.Unlock()
}

func (t *Tracer) under(cause string) *Span {
	p, ok := parse(cause)
	if !ok {
		return nil
	}
	sh := &t.live[p.span[0]%byte(len(t.live))]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.spans[p.span]
}

// bucket bounds how many a second.
type bucket struct {
	mu   sync.Mutex
	rate float64
	left float64
	at   time.Duration
}

func (b *bucket) take(now time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = min(b.rate, b.left+b.rate*max(0, (now-b.at).Seconds()))
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}
