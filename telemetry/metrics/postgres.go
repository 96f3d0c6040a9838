package metrics

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// poolMetrics are of the connections to PostgreSQL.
type poolMetrics struct {
	hold    *prometheus.HistogramVec
	wait    *prometheus.HistogramVec
	query   *prometheus.HistogramVec
	errors  *prometheus.CounterVec
	conns   *prometheus.Desc
	maximum *prometheus.Desc
}

func newPool(m *Metrics) poolMetrics {
	const conns, maximum = "flashsale_database_connections", "flashsale_database_connections_limit"
	const connsHelp, maximumHelp = "Connections to a database, by state: in_use or idle.", "Connections to a database that there may be."
	m.note(conns, "gauge", connsHelp, []string{"database", "state"})
	m.note(maximum, "gauge", maximumHelp, []string{"database"})
	return poolMetrics{
		hold:    m.histogram("flashsale_database_hold_seconds", "Time that a connection to a database was held: the ledger's is held for one transaction of a group.", durations(), "database"),
		wait:    m.histogram("flashsale_database_wait_seconds", "Time that a connection to a database was waited for.", durations(), "database"),
		query:   m.histogram("flashsale_database_query_seconds", "Time of one statement, or of one batch of statements.", durations(), "database"),
		errors:  m.counter("flashsale_database_errors_total", "Statements and batches that failed.", "database"),
		conns:   prometheus.NewDesc(conns, connsHelp, []string{"database", "state"}, nil),
		maximum: prometheus.NewDesc(maximum, maximumHelp, []string{"database"}, nil),
	}
}

// Tracer measures the connections of one database's pool.
type Tracer struct {
	hold, wait, query prometheus.Observer
	errors            prometheus.Counter
}

// Database returns what a pool of connections to a database is opened with, to be measured.
func (m *Metrics) Database(name string) *Tracer {
	return &Tracer{m.pool.hold.WithLabelValues(name), m.pool.wait.WithLabelValues(name), m.pool.query.WithLabelValues(name), m.pool.errors.WithLabelValues(name)}
}

type traceKey struct{}

// heldSince is where a connection keeps the time since when it is held.
const heldSince = "flashsale.held_since"

// TraceAcquireStart implements pgxpool.AcquireTracer.
func (t *Tracer) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	return context.WithValue(ctx, traceKey{}, time.Now())
}

// TraceAcquireEnd implements pgxpool.AcquireTracer.
func (t *Tracer) TraceAcquireEnd(ctx context.Context, _ *pgxpool.Pool, d pgxpool.TraceAcquireEndData) {
	now := time.Now()
	if began, ok := ctx.Value(traceKey{}).(time.Time); ok {
		t.wait.Observe(now.Sub(began).Seconds())
	}
	if d.Conn != nil {
		d.Conn.PgConn().CustomData()[heldSince] = now
	}
}

// TraceRelease implements pgxpool.ReleaseTracer.
func (t *Tracer) TraceRelease(_ *pgxpool.Pool, d pgxpool.TraceReleaseData) {
	if since, ok := d.Conn.PgConn().CustomData()[heldSince].(time.Time); ok {
		t.hold.Observe(time.Since(since).Seconds())
	}
}

// TraceQueryStart implements pgx.QueryTracer.
func (t *Tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return context.WithValue(ctx, traceKey{}, time.Now())
}

// TraceQueryEnd implements pgx.QueryTracer.
func (t *Tracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryEndData) {
	t.end(ctx, d.Err)
}

// TraceBatchStart implements pgx.BatchTracer.
func (t *Tracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return context.WithValue(ctx, traceKey{}, time.Now())
}

// TraceBatchQuery implements pgx.BatchTracer.
func (t *Tracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd implements pgx.BatchTracer.
func (t *Tracer) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceBatchEndData) {
	t.end(ctx, d.Err)
}

func (t *Tracer) end(ctx context.Context, err error) {
	if began, ok := ctx.Value(traceKey{}).(time.Time); ok {
		t.query.Observe(time.Since(began).Seconds())
	}
	if err != nil {
		t.errors.Inc()
	}
}

// Pool reports the connections of a pool.
func (m *Metrics) Pool(database string, pool *pgxpool.Pool) {
	prometheus.WrapRegistererWith(nil, m.ours).MustRegister(poolCollector{database, pool, &m.pool})
}

type poolCollector struct {
	database string
	pool     *pgxpool.Pool
	m        *poolMetrics
}

// Describe implements prometheus.Collector: nothing, for several pools have the same descriptions.
func (poolCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c poolCollector) Collect(to chan<- prometheus.Metric) {
	s := c.pool.Stat()
	for state, n := range map[string]int32{"in_use": s.AcquiredConns(), "idle": s.IdleConns()} {
		to <- prometheus.MustNewConstMetric(c.m.conns, prometheus.GaugeValue, float64(n), c.database, state)
	}
	to <- prometheus.MustNewConstMetric(c.m.maximum, prometheus.GaugeValue, float64(s.MaxConns()), c.database)
}
