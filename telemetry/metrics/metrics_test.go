package metrics

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/inventory/memstock"
	"flashsale/money"
	"flashsale/order"
	"flashsale/order/sqliteorder"
	"flashsale/reservation"
	"flashsale/testenv/databases"
	"flashsale/transport"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// read returns the value of a series as Prometheus would read it, or -1 when there is none.
func read(t *testing.T, m *Metrics, series string) float64 {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	for line := range strings.SplitSeq(w.Body.String(), "\n") {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			f, err := strconv.ParseFloat(rest, 64)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
	}
	return -1
}

func series(t *testing.T, m *Metrics, name string) int {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	return len(regexp.MustCompile(`(?m)^`+name+`\{`).FindAllString(w.Body.String(), -1))
}

func quiet() *Metrics { return New("all", "async", slog.New(slog.DiscardHandler)) }

// TestHandled: each way in which a handler can end is counted by itself.
func TestHandled(t *testing.T) {
	t.Parallel()
	m := quiet()
	var answer error
	h := m.Handled(transport.Inventory, []string{inventory.EventRequested}, func(context.Context, transport.Envelope) ([]transport.Envelope, error) {
		return nil, answer
	})
	e := transport.Envelope{Type: inventory.EventRequested, Time: time.Now().Add(-3 * time.Second)}
	for _, answer = range []error{nil, errors.New("away"), transport.Permanent(errors.New("never")), nil} {
		if _, err := h(t.Context(), e); !errors.Is(err, answer) {
			t.Error(err)
		}
	}
	e.Type = "made.up"
	_, _ = h(t.Context(), e)
	const of = `flashsale_events_handled_total{event="reservation.requested",outcome="%s",service="inventory",wiring="async"}`
	for outcome, want := range map[string]float64{"ok": 2, "retry": 1, "dead": 1} {
		if got := read(t, m, fmt.Sprintf(of, outcome)); got != want {
			t.Errorf("%s is counted %v times, want %v", outcome, got, want)
		}
	}
	if got := read(t, m, `flashsale_events_handled_total{event="other",outcome="ok",service="inventory",wiring="async"}`); got != 1 {
		t.Errorf("an event that is not listed is counted %v times as other", got)
	}
	if n, sum := read(t, m, `flashsale_decision_seconds_count{wiring="async"}`), read(t, m, `flashsale_decision_seconds_sum{wiring="async"}`); n != 2 || sum < 6 || sum > 60 {
		t.Errorf("%v decisions took %v s", n, sum)
	}
}

// TestGated: every outcome of a take at a real gate, and none of a transfer's.
func TestGated(t *testing.T) {
	t.Parallel()
	m := quiet()
	g := m.Gated(memstock.New(1))
	ctx := t.Context()
	now := time.Now()
	b := inventory.BucketID{Item: inventory.ItemID{Sale: id.New(now), SKU: "BOOT"}}
	take := func(epoch int64, user id.ID, qty, limit int) {
		_, _ = g.Take(ctx, inventory.Take{ID: id.New(now), Bucket: b, Epoch: epoch, User: user, Qty: qty, Limit: limit, Deadline: now.Add(time.Minute)})
	}
	me := id.New(now)
	take(2, me, 1, 0) // closed
	if err := g.Install(ctx, b, inventory.Level{Epoch: 2, Available: 3}, nil); err != nil {
		t.Fatal(err)
	}
	take(2, me, 1, 1)
	take(2, me, 1, 1)          // limit
	take(2, id.New(now), 9, 0) // short
	take(1, me, 1, 0)          // fenced
	take(2, id.ID{}, 1, 0)     // a transfer
	for outcome, want := range map[string]float64{"taken": 1, "short": 1, "limit": 1, "fenced": 1, "closed": 1, "unavailable": 0, "uncertain": 0, "other": 0} {
		if got := read(t, m, fmt.Sprintf(`flashsale_gate_takes_total{outcome=%q,wiring="async"}`, outcome)); got != want {
			t.Errorf("%s is counted %v times, want %v", outcome, got, want)
		}
	}
	for _, reason := range []string{"new", "empty", "stale", "gone"} {
		if got := read(t, m, fmt.Sprintf(`flashsale_gate_recoveries_total{reason=%q,shard="0",wiring="async"}`, reason)); got != 0 {
			t.Errorf("recoveries %s begin at %v: an alert would miss the first", reason, got)
		}
	}
}

// TestOrdersBeginAtZero: before the first order of a product or a currency is confirmed, its series are there: what Prometheus first
// sees of a counter is no increase, and in a sale that is over in seconds it would be most of it.
func TestOrdersBeginAtZero(t *testing.T) {
	t.Parallel()
	m := quiet()
	store := m.Ordered(sqliteorder.New(databases.SQLite(t, sqliteorder.Migrations), time.Now))
	now := time.Now().UTC().Truncate(time.Millisecond)
	o := order.Order{
		ID: id.New(now), User: id.New(now), Sale: id.New(now), SKU: "BOOT", Quantity: 2, UnitPrice: money.Money{Amount: 9900, Currency: "EUR"}, Total: money.Money{Amount: 19800, Currency: "EUR"},
		CreatedAt: now, ExpiresAt: now.Add(time.Minute),
	}
	series := map[string]float64{
		`flashsale_revenue_minor_units_total{currency="EUR",wiring="async"}`: 19800, `flashsale_units_sold_total{sku="BOOT",wiring="async"}`: 2,
		`flashsale_order_value_minor_units_count{currency="EUR",wiring="async"}`: 1, `flashsale_refunds_minor_units_total{currency="EUR",wiring="async"}`: 0,
	}
	for _, state := range []order.State{order.Open, order.Confirmed, order.Confirmed, order.Refunded} {
		if state == order.Refunded {
			series[`flashsale_refunds_minor_units_total{currency="EUR",wiring="async"}`] = 19800
		}
		o.State = state
		if _, err := store.Apply(t.Context(), []order.Change{{Order: o}}); err != nil {
			t.Fatal(err)
		}
		for name, want := range series {
			if state == order.Open {
				want = 0
			}
			if got := read(t, m, name); got != want {
				t.Errorf("%s: %s is %v, want %v", state, name, got, want)
			}
		}
	}
}

// TestRoutesBeginAtZero: before the first request, and before the first failure.
func TestRoutesBeginAtZero(t *testing.T) {
	t.Parallel()
	m := quiet()
	m.Routes([][2]string{{"POST", "/api/v1/reservations"}})
	const of = `method="POST",route="/api/v1/reservations",wiring="async"`
	for _, n := range []float64{0, 1} {
		for name, want := range map[string]float64{
			`flashsale_http_request_seconds_count{` + of + `}`: n, `flashsale_http_request_seconds_bucket{` + of + `,le="0.25"}`: 0,
			`flashsale_http_requests_total{code="503",` + of + `}`: n, `flashsale_http_requests_total{code="500",` + of + `}`: 0,
		} {
			if got := read(t, m, name); got != want {
				t.Errorf("after %v requests %s is %v, want %v", n, name, got, want)
			}
		}
		m.Request("POST", "/api/v1/reservations", 503, time.Second)
	}
}

// TestOutboxesAreLookedAtByName: a look at outboxes is named after their services, so that one of another process does not make up for it.
func TestOutboxesAreLookedAtByName(t *testing.T) {
	t.Parallel()
	m := quiet()
	m.Outboxes(map[transport.Service]transport.Outbox{transport.Payment: nil, transport.Order: nil}, time.Second)
	if got := m.probes[0].name; got != "outboxes of order+payment" {
		t.Errorf("the look is called %q", got)
	}
}

// TestBounded: whatever clients, operators and shards make up, the number of series has a bound.
func TestBounded(t *testing.T) {
	t.Parallel()
	m := quiet()
	for i := range 3000 {
		m.Request("BREW"+strconv.Itoa(i), "/made/up/"+strconv.Itoa(i), 200+i%300, time.Millisecond)
	}
	if n := series(t, m, "flashsale_http_requests_total"); n > maxAnswers+10 {
		t.Errorf("%d series of requests", n)
	}
	if n := read(t, m, `flashsale_http_requests_total{code="0",method="other",route="other",wiring="async"}`); n < 1000 {
		t.Errorf("%v requests beyond the bound are counted as other", n)
	}
	for i := range 1000 {
		m.sell.units.WithLabelValues(m.sell.skus.fold("SKU" + strconv.Itoa(i))).Inc()
		m.Recovered(i, "stale")
	}
	if n := series(t, m, "flashsale_units_sold_total"); n != maxSKUs+1 {
		t.Errorf("%d series of products", n)
	}
	if n := series(t, m, "flashsale_gate_recoveries_total"); n != maxShards+1 {
		t.Errorf("%d series of shards", n)
	}
	var rows []inventory.Bucket
	now := time.Now()
	for i := range maxItems + 50 {
		item := inventory.ItemID{Sale: id.New(now.Add(time.Duration(i) * time.Second)), SKU: "S"}
		for shard := range 2 {
			rows = append(rows, inventory.Bucket{ID: inventory.BucketID{Item: item, Shard: shard}, Granted: 10, Held: 2, Sold: 3})
		}
	}
	stock, items, over := stockLevels(rows)
	total, rest, oldest := 0.0, 0.0, rows[0].ID.Item.Sale.String()
	for _, l := range stock {
		total += l.value
		if l.labels[0] == other {
			rest += l.value
		}
		if l.labels[0] == oldest {
			t.Error("the oldest sale has a series of its own, a newer one has not")
		}
	}
	if items != maxItems+50 || len(stock) != 3*(maxItems+1) || total != float64(20*items) || rest != 50*20 || over != 0 {
		t.Errorf("%d items, %d series, %v units, %v of them in other, %d oversold", items, len(stock), total, rest, over)
	}
	if _, _, over := stockLevels([]inventory.Bucket{{Granted: 5, Sold: 7}, {Granted: 9}}); over != 2 {
		t.Errorf("two units beyond one bucket's are %d oversold: what another has left is no excuse", over)
	}
}

// instant is a gate that does nothing.
type instant struct{ Gate }

func (instant) Take(context.Context, inventory.Take) (inventory.Taken, error) {
	return inventory.Taken{}, inventory.ErrShort
}
func (instant) Shards() int { return 1 }

// TestNothingAllocated: what runs for every request allocates nothing of its own.
func TestNothingAllocated(t *testing.T) {
	m := quiet()
	g := m.Gated(instant{})
	h := m.Handled(transport.Inventory, []string{inventory.EventRequested}, func(context.Context, transport.Envelope) ([]transport.Envelope, error) { return nil, nil })
	group := m.Group("ledger_commits")
	ctx, now := context.Background(), time.Now()
	e := transport.Envelope{Type: inventory.EventRequested, Time: now}
	take := inventory.Take{User: id.New(now)}
	for what, f := range map[string]func(){
		"a request": func() { m.Request("POST", "/api/v1/reservations", 201, time.Millisecond) },
		"a take":    func() { _, _ = g.Take(ctx, take) },
		"an event":  func() { _, _ = h(ctx, e) },
		"an answer": func() { m.Reserved(true, false, nil) },
		"a refusal": func() { m.Reserved(false, false, reservation.ErrSoldOut) },
		"a group":   func() { group(50, time.Millisecond) },
	} {
		f()
		if n := testing.AllocsPerRun(1000, f); n > 0 {
			t.Errorf("%s allocates %v times", what, n)
		}
	}
}
