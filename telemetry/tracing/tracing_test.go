package tracing

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/telemetry/logs"
	"flashsale/transport"
	"flashsale/transport/inproc"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// bench is a tracer whose clock the test moves, and what it has exported.
type bench struct {
	*Tracer
	t   *testing.T
	out *tracetest.InMemoryExporter
	now atomic.Int64
}

func newBench(t *testing.T, opts Options) *bench {
	t.Helper()
	b := &bench{t: t, out: tracetest.NewInMemoryExporter()}
	b.now.Store(time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC).UnixNano())
	opts.Export = b.out
	opts.Clock = func() time.Time { return time.Unix(0, b.now.Load()).UTC() }
	var err error
	if b.Tracer, err = New(opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	return b
}

func (b *bench) pass(d time.Duration) { b.now.Add(int64(d)) }

// spans returns what was exported since the last call.
func (b *bench) spans() tracetest.SpanStubs {
	b.t.Helper()
	if err := b.batch.(interface{ ForceFlush(context.Context) error }).ForceFlush(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	all := b.out.GetSpans()
	b.out.Reset()
	return all
}

func names(all tracetest.SpanStubs) string {
	var out []string
	for _, s := range all {
		service := ""
		for _, a := range s.Resource.Attributes() {
			if a.Key == "service.name" {
				service = a.Value.AsString()
			}
		}
		out = append(out, service+" "+s.Name)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

const caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func incoming(trace string, remote bool) Incoming {
	return Incoming{Service: transport.Reservation, Method: "POST", Path: "/api/v1/reservations", Request: "r-1", TraceParent: trace, Remote: remote}
}

// TestWhatIsKept: of a trace that was not chosen, a process keeps its spans when one failed or the whole
// was slow, all of them; and not more than so many a second.
func TestWhatIsKept(t *testing.T) {
	t.Parallel()
	const both = "reservation Gate.Take, reservation POST /r"
	for name, c := range map[string]struct {
		ratio  float64
		took   time.Duration
		inner  string
		status int
		kept   string
	}{
		"well and quick":             {0, time.Millisecond, "", 201, ""},
		"refused":                    {0, time.Millisecond, "", 409, ""},
		"failed":                     {0, time.Millisecond, "", 503, both},
		"a part failed":              {0, time.Millisecond, "the gate is away", 201, both},
		"slow":                       {0, time.Second, "", 201, both},
		"chosen":                     {1, time.Millisecond, "", 201, both},
		"chosen, and failed as well": {1, time.Millisecond, "", 500, both},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, Options{Ratio: c.ratio, Slow: time.Second})
			ctx, parent, end := b.Request(t.Context(), incoming(caller, true))
			if want := map[float64]string{0: "-00", 1: "-01"}[c.ratio]; parent[:35] != caller[:35] || !strings.HasSuffix(parent, want) {
				t.Errorf("what follows has %s, want the trace of %s with the flag %s", parent, caller, want)
			}
			_, s := part(ctx, "Gate.Take", "")
			b.pass(c.took)
			s.end(c.inner)
			end("/r", c.status)
			got := b.spans()
			if names(got) != c.kept {
				t.Fatalf("kept %q, want %q", names(got), c.kept)
			}
			for _, s := range got {
				parent := map[string]string{"POST /r": "b7ad6b7169203331", "Gate.Take": spanOf(ctx).id.String()}[s.Name]
				if s.SpanContext.TraceID().String() != caller[3:35] || s.Parent.SpanID().String() != parent || s.EndTime.Sub(s.StartTime) != c.took {
					t.Errorf("%s: trace %s parent %s took %s", s.Name, s.SpanContext.TraceID(), s.Parent.SpanID(), s.EndTime.Sub(s.StartTime))
				}
			}
		})
	}
}

// TestTailsAreBounded: when everything fails, so many a second are kept, and chosen ones besides.
func TestTailsAreBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{Tails: 5})
	kept := func() int {
		for range 50 {
			_, _, end := b.Request(t.Context(), incoming(caller, true))
			end("/r", 503)
		}
		return len(b.spans())
	}
	got := []int{kept(), kept()}
	b.pass(2 * time.Second)
	if got = append(got, kept()); !slices.Equal(got, []int{5, 0, 5}) {
		t.Errorf("kept %v, want 5 in the first second, none more, and 5 later", got)
	}
}

// TestRecordsAreBounded: a request that makes more spans than a record holds keeps the first ones and
// itself, and says how many are missing.
func TestRecordsAreBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{Ratio: 1})
	ctx, _, end := b.Request(t.Context(), incoming(caller, true))
	for range maxSpans + 10 {
		_, s := part(ctx, "Gate.Take", "")
		s.end("")
	}
	end("/r", 201)
	got := b.spans()
	if len(got) != maxSpans+1 || !strings.Contains(fmt.Sprint(got[maxSpans].Attributes), "flashsale.spans_dropped") {
		t.Errorf("%d spans; the last has %v", len(got), got[len(got)-1].Attributes)
	}
}

// TestShare: the ratio is kept for the ids of nginx, of ours and of callers, alike in every process;
// and a caller's own flag has no say.
func TestShare(t *testing.T) {
	t.Parallel()
	a, b := newBench(t, Options{Ratio: 0.01}), newBench(t, Options{Ratio: 0.01})
	made := map[string]func() trace.TraceID{
		"random": newTraceID,
		"UUIDv7": func() trace.TraceID { return trace.TraceID(id.New(time.Now())) },
		"counted": func() func() trace.TraceID {
			var v trace.TraceID
			return func() trace.TraceID { v[15]++; v[14] += v[15] / 255; v[13] += v[14] / 255; return v }
		}(),
	}
	for name, next := range made {
		n := 0
		for range 100_000 {
			v := next()
			if a.chosen(v) {
				n++
			}
			if a.chosen(v) != b.chosen(v) {
				t.Fatalf("%s: two processes disagree", v)
			}
		}
		if n < 700 || n > 1300 {
			t.Errorf("%s ids: %d of 100,000 chosen, want about 1,000", name, n)
		}
	}
	if a.chosen(trace.TraceID{1}) {
		t.Fatal("choose another id for the test")
	}
	_, parent, _ := a.Request(t.Context(), incoming("00-01000000000000000000000000000000-b7ad6b7169203331-01", true))
	if !strings.HasSuffix(parent, "-00") {
		t.Errorf("a caller has had itself recorded: %s", parent)
	}
}

// TestStepsFollowTheirCause: over a transport, what is handled is below what was sent, with the ids
// that travel in the envelopes; a step whose cause is of another trace than its caller is linked to it.
func TestStepsFollowTheirCause(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{Ratio: 1})
	bus := b.Transport(inproc.New())
	subjectOf := id.New(time.Now())
	var line logs.Facts
	bus.Handle(transport.Inventory, func(ctx context.Context, e transport.Envelope) ([]transport.Envelope, error) {
		line = logs.Of(ctx)
		_, s := part(ctx, "Gate.Take", "")
		s.end("")
		return []transport.Envelope{transport.New("reservation.held", transport.Inventory, e.Subject, e.Time, e.TraceParent, struct{}{})}, nil
	})
	bus.Handle(transport.Order, func(context.Context, transport.Envelope) ([]transport.Envelope, error) {
		return nil, errors.New("no database")
	})
	ctx, parent, end := b.Request(t.Context(), incoming(caller, true))
	receipt, err := bus.Send(ctx, transport.Inventory, transport.New("reservation.requested", transport.Reservation, subjectOf, time.Now(), parent, struct{}{}))
	if err != nil {
		t.Fatal(err)
	}
	end("/r", 201)
	if line.Request != "r-1" || line.Trace[:35] != caller[:35] {
		t.Errorf("a line of the handler has %+v", line)
	}
	// Behind the answer, with nothing but the envelope to go by.
	held := receipt.Events[0]
	if _, err := bus.Send(t.Context(), transport.Order, held); err == nil {
		t.Error("the order's error is lost")
	}
	// An event of that trace, sent in another's request.
	other, _, end2 := b.Request(t.Context(), incoming("00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", true))
	_, _ = bus.Send(other, transport.Order, held)
	end2("/x", 200)

	all := b.spans()
	by := map[string]tracetest.SpanStub{}
	for _, s := range all {
		by[s.SpanContext.SpanID().String()] = s
	}
	var edges []string
	for _, s := range all {
		if s.Name == "POST /x" {
			continue
		}
		if s.SpanContext.TraceID().String() != caller[3:35] {
			t.Errorf("%s is in the trace %s", s.Name, s.SpanContext.TraceID())
		}
		edge := by[s.Parent.SpanID().String()].Name + " > " + s.Name
		for _, l := range s.Links {
			edge += " ~ " + by[l.SpanContext.SpanID().String()].Name
		}
		edges = append(edges, edge)
	}
	slices.Sort(edges)
	want := []string{
		" > POST /r", "POST /r > send reservation.requested", "handle reservation.requested > Gate.Take",
		"handle reservation.requested > send reservation.held", "handle reservation.requested > send reservation.held ~ POST /x",
		"send reservation.held > handle reservation.held", "send reservation.held > handle reservation.held",
		"send reservation.requested > handle reservation.requested",
	}
	slices.Sort(want)
	if !slices.Equal(edges, want) {
		t.Errorf("the spans are\n%s\nwant\n%s", strings.Join(edges, "\n"), strings.Join(want, "\n"))
	}
}

// TestGroupsAreNobodysChildren: a transaction for many is a trace of its own, linked both ways with the
// members that are kept; each member has a span of it below its own step.
func TestGroupsAreNobodysChildren(t *testing.T) {
	t.Parallel()
	b := newBench(t, Options{Ratio: 0.5, Slow: time.Second})
	var steps []*Span
	var causes []string
	chosen := 0
	for i := range 8 {
		v := trace.TraceID{15: byte(i + 1)}
		s := b.open(t.Context(), parentOf{trace: v, span: newSpanID(), sampled: b.chosen(v)}, transport.Inventory, "handle", "", trace.SpanKindConsumer)
		b.enter(s)
		defer b.leave(s)
		if s.rec.sampled {
			chosen++
		}
		steps, causes = append(steps, s), append(causes, s.traceParent())
	}
	if chosen == 0 || chosen == len(steps) {
		t.Fatal("the test wants some of each")
	}
	causes = append(causes, caller, "") // of another process, and none
	refusal := errors.New("fenced")
	_, err := group(steps[0], b.Tracer, transport.Inventory, "Ledger.Commit", causes, func(ctx context.Context) ([]error, error) {
		if spanOf(ctx).rec == steps[0].rec {
			t.Error("what the group does is taken for the first member's")
		}
		b.pass(time.Millisecond)
		return append([]error{refusal}, make([]error, len(causes)-1)...), nil
	}, func(e error) error { return e })
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		s.end("")
	}
	var g tracetest.SpanStub
	members := 0
	all := b.spans()
	for _, s := range all {
		if s.Name == "Ledger.Commit group" {
			g = s
		}
	}
	if g.Parent.IsValid() || len(g.Links) != chosen {
		t.Errorf("the group has the parent %s and %d links, want none and %d", g.Parent.SpanID(), len(g.Links), chosen)
	}
	for _, s := range all {
		if s.Name != "Ledger.Commit" {
			continue
		}
		members++
		linked := len(s.Links) == 1 && s.Links[0].SpanContext.SpanID() == g.SpanContext.SpanID()
		back := slices.ContainsFunc(g.Links, func(l sdktrace.Link) bool { return l.SpanContext.SpanID() == s.Parent.SpanID() })
		if !linked || !back || s.SpanContext.TraceID() == g.SpanContext.TraceID() {
			t.Errorf("a member: links %v, of the group %v", s.Links, g.Links)
		}
	}
	if members != chosen {
		t.Errorf("%d members have a span, want %d", members, chosen)
	}
}

// TestOffIsFree: without a tracer everything is handed back as it was.
func TestOffIsFree(t *testing.T) {
	t.Parallel()
	var off *Tracer
	bus := inproc.New()
	if off.Transport(bus) != transport.Transport(bus) || off.Ledger(nil) != nil || off.Orders(nil) != nil || off.Gate(nil) != nil ||
		off.Payments(nil) != nil || off.Provider(nil) != nil || off.Notifications(nil) != nil || off.Answerer(transport.Order, nil) != nil {
		t.Error("something is decorated")
	}
}

// TestEnvelopesCarryTheirSender: what leaves the process names the span that sends it; or the request's
// when it was not chosen, for then a sending that goes well has none.
func TestEnvelopesCarryTheirSender(t *testing.T) {
	t.Parallel()
	for _, ratio := range []float64{0, 1} {
		b, wire := newBench(t, Options{Ratio: ratio}), inproc.New()
		bus := b.Transport(wire)
		var seen parentOf
		wire.Handle(transport.Payment, func(ctx context.Context, e transport.Envelope) ([]transport.Envelope, error) {
			seen, _ = parse(e.TraceParent)
			verb := map[float64]string{0: "POST", 1: "send"}[ratio]
			if want := spanOf(ctx); seen.span != want.id || want.verb != verb || seen.sampled != (ratio == 1) {
				t.Errorf("the envelope has %s, sent by the span %s of %s", e.TraceParent, want.id, want.traceParent())
			}
			return nil, nil
		})
		ctx, parent, end := b.Request(t.Context(), incoming(caller, true))
		if _, err := bus.Send(ctx, transport.Payment, transport.New("reservation.paying", transport.Inventory, id.New(time.Now()), time.Now(), parent, struct{}{})); err != nil {
			t.Fatal(err)
		}
		end("/r", 201)
		if seen.trace.String() != caller[3:35] {
			t.Errorf("the envelope is of the trace %s", seen.trace)
		}
	}
}
