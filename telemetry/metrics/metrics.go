// Package metrics counts what the services do, for Prometheus. It measures from outside: decorators over the
// services' contracts, chosen in cmd, and looks at what is stored. Nothing here changes what is measured.
//
// A series costs memory for ever, so every label has few values: they are listed beforehand, or capped, and what is
// not known is folded into "other". Handles are resolved when a decorator is made, not when it is called.
package metrics

import (
	"log/slog"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are the metrics of one process, in a registry of its own.
type Metrics struct {
	registry *prometheus.Registry
	ours     prometheus.Registerer // with the labels that everything of ours has
	families []family
	log      *slog.Logger
	probes   []probe

	http httpMetrics
	flow flowMetrics
	gate gateMetrics
	book ledgerMetrics
	sell businessMetrics
	pool poolMetrics
	look lookMetrics
}

// family is one metric as the documentation lists it.
type family struct {
	name, kind, help string
	labels           []string
}

// New returns the metrics of a process: its roles, and the wiring, which every series is labelled with.
func New(service, wiring string, log *slog.Logger) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), log: log}
	m.ours = prometheus.WrapRegistererWith(prometheus.Labels{"wiring": wiring}, m.registry)
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.gauge("flashsale_info", "1, for the labels: the roles of this process.", "service").WithLabelValues(service).Set(1)
	m.http = newHTTP(m)
	m.flow = newFlow(m)
	m.gate = newGate(m)
	m.book = newLedger(m)
	m.sell = newBusiness(m)
	m.pool = newPool(m)
	m.look = newLook(m)
	return m
}

// Handler answers Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4})
}

func (m *Metrics) note(name, kind, help string, labels []string) {
	m.families = append(m.families, family{name, kind, help, labels})
}

func (m *Metrics) counter(name, help string, labels ...string) *prometheus.CounterVec {
	m.note(name, "counter", help, labels)
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.ours.MustRegister(v)
	return v
}

func (m *Metrics) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	m.note(name, "gauge", help, labels)
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	m.ours.MustRegister(v)
	return v
}

func (m *Metrics) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	m.note(name, "histogram", help, labels)
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	m.ours.MustRegister(v)
	return v
}

// The buckets of histograms: of durations and of ages in seconds, of group sizes, of money in minor units.
func durations() []float64 {
	return []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
}

func ages() []float64 {
	return []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800}
}

func sizes() []float64 { return prometheus.ExponentialBuckets(1, 2, 10) }

func amounts() []float64 {
	return []float64{100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 10_000_000}
}

// counters resolves the counters of a label's values; the last one is for everything else.
func counters(v *prometheus.CounterVec, values ...string) map[string]prometheus.Counter {
	m := make(map[string]prometheus.Counter, len(values)+1)
	for _, value := range append(values, other) {
		m[value] = v.WithLabelValues(value)
	}
	return m
}

// other is the label of what is not listed, or beyond a cap.
const other = "other"

// count adds to the counter of a value, or to that of everything else.
func count(m map[string]prometheus.Counter, value string) {
	c, ok := m[value]
	if !ok {
		c = m[other]
	}
	c.Inc()
}

// levels are gauges that are all replaced at once: a scrape never sees half of a look. After a look that failed there are
// none, rather than old ones.
type levels struct {
	desc *prometheus.Desc

	mu   sync.Mutex
	have []level
}

type level struct {
	value  float64
	labels []string
}

func (m *Metrics) levels(name, help string, labels ...string) *levels {
	m.note(name, "gauge", help, labels)
	l := &levels{desc: prometheus.NewDesc(name, help, labels, nil)}
	m.ours.MustRegister(l)
	return l
}

func (l *levels) set(have []level) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.have = have
}

// Describe implements prometheus.Collector.
func (l *levels) Describe(to chan<- *prometheus.Desc) { to <- l.desc }

// Collect implements prometheus.Collector.
func (l *levels) Collect(to chan<- prometheus.Metric) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range l.have {
		to <- prometheus.MustNewConstMetric(l.desc, prometheus.GaugeValue, v.value, v.labels...)
	}
}
