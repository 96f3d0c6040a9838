package tracing

import (
	"context"
	"flashsale/transport"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// The bounds of what waits to be sent. Spans that find the queue full are dropped: no request waits.
const (
	queueSpans  = 16_384
	batchSpans  = 512
	batchEvery  = time.Second
	exportBound = 5 * time.Second
)

// OTLP returns an exporter to an OTLP receiver over HTTP, such as http://127.0.0.1:4318. Without a path
// in its URL it posts to /v1/traces. Headers, certificates and compression (none by default) come from the standard variables
// OTEL_EXPORTER_OTLP_….
func OTLP(ctx context.Context, endpoint string, log *slog.Logger) (sdktrace.SpanExporter, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces"
	}
	e, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(u.String()), otlptracehttp.WithTimeout(exportBound), otlptracehttp.WithRetry(otlptracehttp.RetryConfig{}))
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	return &quiet{SpanExporter: e, log: log}, nil
}

// quiet says once that the receiver is away, and once that it is back with what was lost: traces are
// no reason to fill a log.
type quiet struct {
	sdktrace.SpanExporter
	log *slog.Logger

	mu   sync.Mutex
	lost int
	away bool
}

// ExportSpans implements sdktrace.SpanExporter.
func (q *quiet) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := q.SpanExporter.ExportSpans(ctx, spans)
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case err != nil && !q.away:
		q.away = true
		q.log.WarnContext(ctx, "traces cannot be sent and are lost until they can; is the OTLP receiver running, and is otlp-endpoint right?", "error", err)
	case err == nil && q.away:
		q.log.InfoContext(ctx, "traces are sent again", "spans_lost", q.lost)
		q.away, q.lost = false, 0
	}
	if err != nil {
		q.lost += len(spans)
	}
	return nil // it is said; the SDK would print it another time
}

// New returns a Tracer that exports in the background.
func New(opts Options) (*Tracer, error) {
	if opts.Tails == 0 {
		opts.Tails = 100
	}
	t := &Tracer{
		opts: opts, tracers: map[transport.Service]trace.Tracer{},
		batch: sdktrace.NewBatchSpanProcessor(opts.Export, sdktrace.WithMaxQueueSize(queueSpans), sdktrace.WithMaxExportBatchSize(batchSpans),
			sdktrace.WithBatchTimeout(batchEvery), sdktrace.WithExportTimeout(exportBound)),
		sends: trace.SpanKindClient, handles: trace.SpanKindServer,
		tails: bucket{rate: float64(opts.Tails), left: float64(opts.Tails)},
	}
	if opts.Wiring == "async" {
		t.sends, t.handles = trace.SpanKindProducer, trace.SpanKindConsumer
	}
	t.start = time.Now()
	if opts.Clock != nil {
		t.start = opts.Clock()
	}
	for i := range t.live {
		t.live[i].spans = map[trace.SpanID]*Span{}
	}
	// A service is a service of the traces, whether it shares its process with others or not.
	for _, s := range services() {
		res, err := resource.New(context.Background(), resource.WithTelemetrySDK(), resource.WithAttributes(
			attribute.String("service.name", string(s)), attribute.String("service.namespace", "flashsale"),
			attribute.String("service.instance.id", opts.Instance), attribute.String("flashsale.wiring", opts.Wiring)))
		if err != nil {
			return nil, fmt.Errorf("tracing: %w", err)
		}
		p := sdktrace.NewTracerProvider(sdktrace.WithResource(res), sdktrace.WithSpanProcessor(t.batch),
			sdktrace.WithSampler(sdktrace.AlwaysSample()), sdktrace.WithIDGenerator(given{}))
		t.tracers[s] = p.Tracer("flashsale")
	}
	return t, nil
}

func services() []transport.Service {
	return []transport.Service{
		transport.Reservation, transport.Inventory, transport.Order, transport.Payment, transport.Catalog, transport.Notification, transport.Account,
	}
}

// Close sends what waits, or until ctx ends.
func (t *Tracer) Close(ctx context.Context) error { return t.batch.Shutdown(ctx) }

// export hands a span to the SDK, which batches and sends it, with the ids that it had all along: they
// have travelled already.
func (t *Tracer) export(s *Span) {
	tracer := t.tracers[s.service]
	if tracer == nil {
		return // no service of ours says so: an envelope that is not from here
	}
	ctx := context.WithValue(context.Background(), idsKey{}, ids{s.rec.trace, s.id})
	if s.parent.IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: s.rec.trace, SpanID: s.parent, TraceFlags: trace.FlagsSampled, Remote: s.remote,
		}))
	}
	if in := s.rec.in; s.first && s.status != 0 {
		s.set(attribute.String("http.request.method", in.Method), attribute.String("http.route", s.what), attribute.String("url.path", clip(in.Path)),
			attribute.Int("http.response.status_code", s.status), attribute.String("request.id", in.Request))
	}
	if !s.message.IsZero() {
		s.set(attribute.String("flashsale.subject", s.subject.String()), attribute.String("messaging.message.id", s.message.String()))
	}
	// Told by the clock of now: it may have been set since the tracer's start.
	clock, since := time.Now(), s.rec.t.now()
	if t.opts.Clock != nil {
		clock = t.opts.Clock()
	}
	at := func(d time.Duration) time.Time { return clock.Add(d - since) }
	_, span := tracer.Start(ctx, strings.TrimSuffix(s.verb+" "+s.what, " "), trace.WithTimestamp(at(s.began)), trace.WithSpanKind(s.kind), trace.WithAttributes(s.attrs...), trace.WithLinks(s.links...))
	if s.failure != "" {
		span.SetStatus(codes.Error, s.failure)
	}
	span.End(trace.WithTimestamp(at(s.ended)))
}

type idsKey struct{}

type ids struct {
	trace trace.TraceID
	span  trace.SpanID
}

// given is an ID generator that takes the ids from the context.
type given struct{}

// NewIDs implements sdktrace.IDGenerator.
func (given) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	v, _ := ctx.Value(idsKey{}).(ids)
	return v.trace, v.span
}

// NewSpanID implements sdktrace.IDGenerator.
func (given) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	v, _ := ctx.Value(idsKey{}).(ids)
	return v.span
}
