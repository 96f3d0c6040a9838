package tracing

import (
	"context"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/order"
	"flashsale/transport"
	"flashsale/transport/inproc"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

type (
	noLedger struct{ inventory.Ledger }
	noOrders struct{ order.Store }
	noGate   struct{ inventory.Gate }
)

func (noLedger) Commit(context.Context, []inventory.Claim) ([]inventory.Decision, error) {
	return nil, nil
}

func (noOrders) Apply(context.Context, []order.Change) ([]order.Changed, error) { return nil, nil }

func (noGate) Take(context.Context, inventory.Take) (inventory.Taken, error) {
	return inventory.Taken{}, nil
}

// BenchmarkReservation is what tracing does about one reservation that is not kept, and nothing else: the
// request, its take and its commit in a group of 16, and its order in another.
func BenchmarkReservation(b *testing.B) {
	var export sdktrace.SpanExporter = tracetest.NewNoopExporter()
	t, err := New(Options{Export: export, Ratio: 0.01, Slow: time.Second, Clock: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = t.Close(context.Background()) }()
	bus := t.Transport(inproc.New())
	gate, ledger, orders := t.Gate(noGate{}), t.Ledger(noLedger{}), t.Orders(noOrders{})
	const group = 16
	var claims []inventory.Claim
	var changes []order.Change
	bus.Handle(transport.Inventory, func(ctx context.Context, e transport.Envelope) ([]transport.Envelope, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := gate.Take(ctx, inventory.Take{})
		claims = append(claims, inventory.Claim{})
		claims[len(claims)-1].TraceParent = e.TraceParent
		if len(claims) == group {
			_, _ = ledger.Commit(context.Background(), claims)
			claims = claims[:0]
		}
		return nil, err
	})
	bus.Handle(transport.Order, func(_ context.Context, e transport.Envelope) ([]transport.Envelope, error) {
		changes = append(changes, order.Change{TraceParent: e.TraceParent})
		if len(changes) == group {
			_, _ = orders.Apply(context.Background(), changes)
			changes = changes[:0]
		}
		return nil, nil
	})
	b.ReportAllocs()
	for b.Loop() {
		ctx, parent, end := t.Request(b.Context(), incoming("", false))
		e := transport.Envelope{ID: id.ID{1}, Source: transport.Reservation, Type: "reservation.requested", TraceParent: parent}
		_, _ = bus.Send(ctx, transport.Inventory, e)
		e.Source, e.Type = transport.Inventory, "reservation.held"
		_, _ = bus.Send(ctx, transport.Order, e)
		end("/r", 201)
	}
}
