package metrics

import (
	"context"
	"errors"
	"flashsale/inventory"
	"flashsale/reservation"
	"flashsale/transport"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// flowMetrics are of events: sent and handled.
type flowMetrics struct {
	handled  *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	age      *prometheus.HistogramVec
	sent     *prometheus.CounterVec
	sending  *prometheus.HistogramVec
	decision *prometheus.HistogramVec
	reserved map[string]prometheus.Counter
	groups   *prometheus.HistogramVec
	waits    *prometheus.HistogramVec
}

func newFlow(m *Metrics) flowMetrics {
	return flowMetrics{
		handled:  m.counter("flashsale_events_handled_total", "Events handled, by outcome: ok, retry (it comes again) or dead (it becomes a dead letter).", "service", "event", "outcome"),
		seconds:  m.histogram("flashsale_event_seconds", "Time that a service took for its own part of an event.", durations(), "service", "event"),
		age:      m.histogram("flashsale_event_age_seconds", "Time from an event being said to a service beginning with it: the lag of its queue.", ages(), "service", "event"),
		sent:     m.counter("flashsale_events_sent_total", "Events sent, by outcome: decided, accepted, unavailable, overloaded or unknown.", "to", "outcome"),
		sending:  m.histogram("flashsale_event_send_seconds", "Time until an event was decided or accepted.", durations(), "to"),
		decision: m.histogram("flashsale_decision_seconds", "Time from a reservation being requested, its units taken at the gate, to the ledger's decision.", ages()),
		reserved: counters(m.counter("flashsale_reservations_total",
			"Requests to reserve, by answer: held, accepted, replayed, or the reason of the refusal. What nginx says again for a service is not among them.", "outcome"),
			"held", "accepted", "replayed", "sold_out", "held_out", "limit_reached", "too_many_unpaid", "sale_not_open", "unknown_item", "quantity", "price",
			"key_reused", "in_flight", "uncertain", "overloaded"),
		groups: m.histogram("flashsale_group_size", "Calls that were committed together.", sizes(), "group"),
		waits:  m.histogram("flashsale_group_wait_seconds", "Longest time that a call of a group waited for its commit to begin.", durations(), "group"),
	}
}

// Handled measures a service's handler. events lists what it handles.
func (m *Metrics) Handled(service transport.Service, events []string, next transport.Handler) transport.Handler {
	type of struct {
		ok, retry, dead prometheus.Counter
		seconds, age    prometheus.Observer
	}
	known := map[string]of{}
	for _, e := range append(events[:len(events):len(events)], other) {
		s := string(service)
		known[e] = of{
			m.flow.handled.WithLabelValues(s, e, "ok"), m.flow.handled.WithLabelValues(s, e, "retry"), m.flow.handled.WithLabelValues(s, e, "dead"),
			m.flow.seconds.WithLabelValues(s, e), m.flow.age.WithLabelValues(s, e),
		}
	}
	decision := m.flow.decision.WithLabelValues()
	return func(ctx context.Context, e transport.Envelope) ([]transport.Envelope, error) {
		h, ok := known[e.Type]
		if !ok {
			h = known[other]
		}
		began := time.Now()
		h.age.Observe(max(began.Sub(e.Time), 0).Seconds()) // another host's clock may be ahead
		followed, err := next(ctx, e)
		ended := time.Now()
		h.seconds.Observe(ended.Sub(began).Seconds())
		switch {
		case err == nil:
			h.ok.Inc()
			if e.Type == inventory.EventRequested {
				decision.Observe(max(ended.Sub(e.Time), 0).Seconds())
			}
		case transport.IsPermanent(err):
			h.dead.Inc()
		default:
			h.retry.Inc()
		}
		return followed, err
	}
}

// Sending measures what is sent over a transport.
func (m *Metrics) Sending(next transport.Transport) transport.Transport {
	s := sending{Transport: next, to: map[transport.Service]sent{}}
	for _, to := range transport.Queued() {
		s.to[to] = sent{
			m.flow.sending.WithLabelValues(string(to)),
			counters(m.flow.sent.MustCurryWith(prometheus.Labels{"to": string(to)}), "decided", "accepted", "unavailable", "overloaded", "unknown"),
		}
	}
	return s
}

type sending struct {
	transport.Transport
	to map[transport.Service]sent
}

type sent struct {
	seconds  prometheus.Observer
	outcomes map[string]prometheus.Counter
}

// Send implements transport.Sender.
func (s sending) Send(ctx context.Context, to transport.Service, e transport.Envelope) (transport.Receipt, error) {
	began := time.Now()
	r, err := s.Transport.Send(ctx, to, e)
	m, ok := s.to[to]
	if !ok {
		return r, err // the table sends nothing there
	}
	outcome := "unknown"
	switch {
	case err == nil && r.Decided:
		outcome = "decided"
	case err == nil:
		outcome = "accepted"
	case errors.Is(err, transport.ErrOverloaded):
		outcome = "overloaded"
	case errors.Is(err, transport.ErrUnavailable):
		outcome = "unavailable"
	}
	m.seconds.Observe(time.Since(began).Seconds())
	count(m.outcomes, outcome)
	return r, err
}

// Reserved counts an answer to a shopper who asked for units.
func (m *Metrics) Reserved(decided, replayed bool, err error) {
	outcome := "accepted"
	switch {
	case err == nil && replayed:
		outcome = "replayed"
	case err == nil && decided:
		outcome = "held"
	case errors.Is(err, reservation.ErrSoldOut): // before the table of reasons: losers are many
		outcome = "sold_out"
	case errors.Is(err, reservation.ErrHeldOut):
		outcome = "held_out"
	case errors.Is(err, reservation.ErrOverloaded):
		outcome = "overloaded"
	case errors.Is(err, reservation.ErrUncertain):
		outcome = "uncertain"
	case errors.Is(err, reservation.ErrInFlight):
		outcome = "in_flight"
	case err != nil:
		outcome = reservation.Reason(err)
	}
	count(m.flow.reserved, outcome)
}

// Group returns what is told of each group that is committed: how many calls, and how long the first of them waited.
func (m *Metrics) Group(name string) func(size int, waited time.Duration) {
	size, wait := m.flow.groups.WithLabelValues(name), m.flow.waits.WithLabelValues(name)
	return func(n int, waited time.Duration) {
		size.Observe(float64(n))
		wait.Observe(waited.Seconds())
	}
}

// Peer reports whether the calls to a service of another process get through: the breaker's state, and how many of
// the calls that may be under way are.
func (m *Metrics) Peer(service string, breaker func() float64, calls func() int, most int) {
	labels := prometheus.Labels{"to": service}
	for _, g := range []struct {
		name, help string
		read       func() float64
	}{
		{"flashsale_peer_breaker_open", "Circuit breaker of the calls to a service: 0 closed, 0.5 half open, 1 open.", breaker},
		{"flashsale_peer_calls_in_flight", "Calls to a service under way: the bulkhead's occupied slots.", func() float64 { return float64(calls()) }},
		{"flashsale_peer_calls_limit", "Calls to a service that may be under way: the bulkhead's slots.", func() float64 { return float64(most) }},
	} {
		m.note(g.name, "gauge", g.help, []string{"to"})
		m.ours.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help, ConstLabels: labels}, g.read))
	}
}
