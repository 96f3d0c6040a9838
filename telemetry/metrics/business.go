package metrics

import (
	"context"
	"errors"
	"flashsale/audit"
	"flashsale/catalog"
	"flashsale/id"
	"flashsale/money"
	"flashsale/order"
	"flashsale/payment"
	"flashsale/transport"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// businessMetrics are of orders and money, counted when a store says that it has changed something: what is repeated is
// not counted twice.
type businessMetrics struct {
	orders    map[string]prometheus.Counter
	revenue   *prometheus.CounterVec
	refunded  *prometheus.CounterVec
	value     *prometheus.HistogramVec
	units     *prometheus.CounterVec
	payments  map[string]prometheus.Counter
	provider  *prometheus.HistogramVec
	answers   *prometheus.CounterVec
	cache     map[string]prometheus.Counter
	auditRuns map[string]prometheus.Counter
	failed    prometheus.Gauge
	audited   prometheus.Gauge

	currencies, skus *capped
}

// The bounds of labels that come from data.
const (
	maxCurrencies = 20
	maxSKUs       = 200
)

func newBusiness(m *Metrics) businessMetrics {
	return businessMetrics{
		orders: counters(m.counter("flashsale_orders_total", "Orders that came into a state: open, confirmed, cancelled or refunded.", "state"),
			string(order.Open), string(order.Confirmed), string(order.Cancelled), string(order.Refunded)),
		revenue:  m.counter("flashsale_revenue_minor_units_total", "Value of the orders confirmed, in the currency's minor units (cents).", "currency"),
		refunded: m.counter("flashsale_refunds_minor_units_total", "Value of the orders refunded, in the currency's minor units (cents).", "currency"),
		value:    m.histogram("flashsale_order_value_minor_units", "Value of one confirmed order, in the currency's minor units (cents).", amounts(), "currency"),
		units:    m.counter("flashsale_units_sold_total", "Units in confirmed orders, by product.", "sku"),
		payments: counters(m.counter("flashsale_payments_total",
			"Payments that came into a state: charging, unknown (no answer yet), captured, declined, refused (the hold was gone), refunding or refunded.", "state"),
			string(payment.Charging), string(payment.Unknown), string(payment.Captured), string(payment.Declined), string(payment.Refused),
			string(payment.Refunding), string(payment.Refunded)),
		provider: m.histogram("flashsale_provider_seconds", "Time of one call of the payment provider: charge, lookup, void or refund.", durations(), "call"),
		answers:  m.counter("flashsale_provider_calls_total", "Calls of the payment provider, by answer: ok, declined, unknown (none came), no_charge or captured.", "call", "answer"),
		cache: counters(m.counter("flashsale_cache_reads_total", "Reads of the catalogue's cache: hit, miss or error.", "outcome"),
			"hit", "miss", "error"),
		auditRuns: counters(m.counter("flashsale_audit_runs_total", "Audits run: clean, failed (the books do not balance) or error (it could not be run).", "outcome"),
			"clean", "failed", "error"),
		failed:     m.gauge("flashsale_audit_failed_checks", "Checks that failed in the last audit.").WithLabelValues(),
		audited:    m.gauge("flashsale_audit_last_seconds", "When the last audit was finished, in seconds since 1970; 0 before the first.").WithLabelValues(),
		currencies: &capped{most: maxCurrencies}, skus: &capped{most: maxSKUs},
	}
}

// capped lets the first so many values of a label through, and folds the others.
type capped struct {
	mu   sync.Mutex
	most int
	seen map[string]bool
}

func (c *capped) fold(value string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen[value] {
		return value
	}
	if len(c.seen) >= c.most {
		return other
	}
	if c.seen == nil {
		c.seen = map[string]bool{}
	}
	c.seen[value] = true
	return value
}

// Orders is what is measured of the order service's store.
type Orders interface {
	order.Store
	order.Carts
	order.Auditor
	transport.Outbox
	transport.Places
}

// Ordered measures an order store.
func (m *Metrics) Ordered(next Orders) Orders { return ordered{next, &m.sell} }

type ordered struct {
	Orders
	m *businessMetrics
}

// Apply implements order.Store.
func (o ordered) Apply(ctx context.Context, changes []order.Change) ([]order.Changed, error) {
	changed, err := o.Orders.Apply(ctx, changes)
	for i := range changed {
		if !changed[i].Applied {
			continue
		}
		v := &changed[i].Order
		count(o.m.orders, string(v.State))
		currency := o.m.currencies.fold(v.Total.Currency)
		// Every series begins at zero with an order's opening: what Prometheus first sees of a counter is no increase.
		revenue, refunded := o.m.revenue.WithLabelValues(currency), o.m.refunded.WithLabelValues(currency)
		value, units := o.m.value.WithLabelValues(currency), o.m.units.WithLabelValues(o.m.skus.fold(v.SKU))
		switch v.State {
		case order.Confirmed:
			revenue.Add(float64(v.Total.Amount))
			value.Observe(float64(v.Total.Amount))
			units.Add(float64(v.Quantity))
		case order.Refunded:
			refunded.Add(float64(v.Total.Amount))
		}
	}
	return changed, err
}

// Payments is what is measured of the payment service's store.
type Payments interface {
	payment.Store
	payment.Auditor
	transport.Outbox
	transport.Places
}

// Paid measures a payment store.
func (m *Metrics) Paid(next Payments) Payments { return paid{next, &m.sell} }

type paid struct {
	Payments
	m *businessMetrics
}

// Advance implements payment.Store.
func (p paid) Advance(ctx context.Context, s payment.Step) (payment.Payment, error) {
	v, err := p.Payments.Advance(ctx, s)
	if err == nil {
		count(p.m.payments, string(s.To))
	}
	return v, err
}

// Charged measures a payment provider.
func (m *Metrics) Charged(next payment.Provider) payment.Provider { return charged{next, &m.sell} }

type charged struct {
	payment.Provider
	m *businessMetrics
}

func (c charged) asked(call string, began time.Time, err error) {
	answer := "ok"
	switch {
	case errors.Is(err, payment.ErrDeclined):
		answer = "declined"
	case errors.Is(err, payment.ErrNoCharge):
		answer = "no_charge"
	case errors.Is(err, payment.ErrCaptured):
		answer = "captured"
	case err != nil:
		answer = "unknown"
	}
	c.m.provider.WithLabelValues(call).Observe(time.Since(began).Seconds())
	c.m.answers.WithLabelValues(call, answer).Inc()
}

// Charge implements payment.Provider.
func (c charged) Charge(ctx context.Context, key id.ID, amount money.Money, method string) (payment.Charge, error) {
	began := time.Now()
	v, err := c.Provider.Charge(ctx, key, amount, method)
	c.asked("charge", began, err)
	return v, err
}

// Lookup implements payment.Provider.
func (c charged) Lookup(ctx context.Context, key id.ID) (payment.Charge, error) {
	began := time.Now()
	v, err := c.Provider.Lookup(ctx, key)
	c.asked("lookup", began, err)
	return v, err
}

// Void implements payment.Provider.
func (c charged) Void(ctx context.Context, key id.ID) (payment.Charge, error) {
	began := time.Now()
	v, err := c.Provider.Void(ctx, key)
	c.asked("void", began, err)
	return v, err
}

// Refund implements payment.Provider.
func (c charged) Refund(ctx context.Context, key id.ID) (payment.Charge, error) {
	began := time.Now()
	v, err := c.Provider.Refund(ctx, key)
	c.asked("refund", began, err)
	return v, err
}

// Cached measures the catalogue's cache.
func (m *Metrics) Cached(next catalog.Cache) catalog.Cache { return cached{next, m.sell.cache} }

type cached struct {
	catalog.Cache
	reads map[string]prometheus.Counter
}

// Get implements catalog.Cache.
func (c cached) Get(ctx context.Context, key string) ([]byte, bool, error) {
	v, ok, err := c.Cache.Get(ctx, key)
	switch {
	case err != nil:
		count(c.reads, "error")
	case ok:
		count(c.reads, "hit")
	default:
		count(c.reads, "miss")
	}
	return v, ok, err
}

// Audited notes an audit.
func (m *Metrics) Audited(checks []audit.Check, err error) {
	if err != nil {
		count(m.sell.auditRuns, "error")
		return
	}
	bad := 0
	for _, c := range checks {
		if !c.OK {
			bad++
		}
	}
	if bad > 0 {
		count(m.sell.auditRuns, "failed")
	} else {
		count(m.sell.auditRuns, "clean")
	}
	m.sell.failed.Set(float64(bad))
	m.sell.audited.SetToCurrentTime()
}
