package metrics

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// httpMetrics are rate, errors and duration of each route.
type httpMetrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec

	// known is replaced, never changed: a request looks its handles up without a lock or an allocation.
	known *atomic.Pointer[map[answer]handles]
	learn *sync.Mutex
}

type answer struct {
	method, route string
	code          int
}

type handles struct {
	requests prometheus.Counter
	seconds  prometheus.Observer
}

// maxAnswers bounds the series: beyond it a route is other. There are about 40 routes with a few codes each.
const maxAnswers = 1000

func newHTTP(m *Metrics) httpMetrics {
	h := httpMetrics{
		requests: m.counter("flashsale_http_requests_total", "Requests answered by the public API.", "method", "route", "code"),
		seconds:  m.histogram("flashsale_http_request_seconds", "Time to answer a request of the public API.", durations(), "method", "route"),
		known:    &atomic.Pointer[map[answer]handles]{}, learn: &sync.Mutex{},
	}
	h.known.Store(&map[answer]handles{})
	return h
}

// Request counts a request that was answered. route is the pattern, not the path.
func (m *Metrics) Request(method, route string, code int, took time.Duration) {
	a := answer{method, route, code}
	h, ok := (*m.http.known.Load())[a]
	if !ok {
		h = m.http.add(a)
	}
	h.requests.Inc()
	h.seconds.Observe(took.Seconds())
}

// Routes begins the series of routes, as method and pattern, at zero, and those of their failures: the first requests to "reserve"
// are a burst, and what Prometheus first sees of a counter is no increase.
func (m *Metrics) Routes(all [][2]string) {
	for _, r := range all {
		for _, code := range []int{http.StatusInternalServerError, http.StatusServiceUnavailable} {
			m.http.add(answer{r[0], r[1], code})
		}
	}
}

func (h *httpMetrics) add(a answer) handles {
	h.learn.Lock()
	defer h.learn.Unlock()
	if !slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}, a.method) {
		a.method = other // clients make up methods
	}
	known := *h.known.Load()
	if len(known) >= maxAnswers {
		a.route, a.code = other, 0
	}
	if v, ok := known[a]; ok {
		return v
	}
	v := handles{h.requests.WithLabelValues(a.method, a.route, strconv.Itoa(a.code)), h.seconds.WithLabelValues(a.method, a.route)}
	more := maps.Clone(known)
	more[a] = v
	h.known.Store(&more)
	return v
}

// Busy reports how many requests are under way, and how many may be.
func (m *Metrics) Busy(busy func() int, most int) {
	m.function("flashsale_http_requests_in_flight", "Requests of the public API under way.", func() float64 { return float64(busy()) })
	m.function("flashsale_http_requests_limit", "Requests of the public API that may be under way; beyond it 503.", func() float64 { return float64(most) })
}

// Paying reports how many payments are under way in all processes, and how many may be.
func (m *Metrics) Paying(paying func() (now, most int)) {
	m.function("flashsale_payments_in_flight", "Payments requested or being charged, of all processes, as this one knows. Unknown ones are not among them.", func() float64 { now, _ := paying(); return float64(now) })
	m.function("flashsale_payments_limit", "Payments that may be under way; beyond it 503.", func() float64 { _, most := paying(); return float64(most) })
}

// LetIn reports how many reservations a second are let in.
func (m *Metrics) LetIn(rate func() float64) {
	m.function("flashsale_reservations_rate_limit", "Reservations a second that this process lets in while decisions or payments are under pressure; 0 for as many as come.", rate)
}

// function is a gauge that is read when Prometheus asks.
func (m *Metrics) function(name, help string, read func() float64) {
	m.note(name, "gauge", help, nil)
	m.ours.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read))
}
