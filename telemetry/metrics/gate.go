package metrics

import (
	"context"
	"errors"
	"flashsale/inventory"
	"flashsale/reservation"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// gateMetrics are of the gate's takes and of what keeps it in step with the ledger.
type gateMetrics struct {
	takes      map[string]prometheus.Counter
	seconds    prometheus.Observer
	recoveries *prometheus.CounterVec
	orphans    map[string]prometheus.Counter
	transfers  map[string]prometheus.Counter
}

func newGate(m *Metrics) gateMetrics {
	return gateMetrics{
		takes: counters(m.counter("flashsale_gate_takes_total",
			"Takes of shoppers at one bucket of the gate, by outcome: taken, short, limit, fenced, closed, unavailable or uncertain.", "outcome"),
			"taken", "short", "limit", "fenced", "closed", "unavailable", "uncertain"),
		seconds: m.histogram("flashsale_gate_take_seconds", "Time of one take at one bucket.", durations()).WithLabelValues(),
		recoveries: m.counter("flashsale_gate_recoveries_total",
			"Buckets that were opened anew at the gate, by reason: new (a sale begins), empty (the shard had lost it), stale (another epoch) or gone (the shard stays away; the others got its units).",
			"shard", "reason"),
		orphans: counters(m.counter("flashsale_gate_orphans_total",
			"Takes past their deadline that the ledger was asked about, by outcome: settled or given_back.", "outcome"), "settled", "given_back"),
		transfers: counters(m.counter("flashsale_gate_transfers_total",
			"Moves of units from one bucket to another, by outcome: committed or aborted.", "outcome"), "committed", "aborted"),
	}
}

// Gate is what is measured of a gate.
type Gate interface {
	inventory.Gate
	inventory.Keeper
}

// Gated measures a gate. Its recoveries begin at zero: the first one would be no increase otherwise.
func (m *Metrics) Gated(next Gate) Gate {
	for shard := range min(next.Shards(), maxShards) {
		for _, reason := range []string{"new", "empty", "stale", "gone"} {
			m.gate.recoveries.WithLabelValues(shardLabel(shard), reason)
		}
	}
	return gated{next, &m.gate}
}

type gated struct {
	Gate
	m *gateMetrics
}

// Take implements inventory.Gate.
func (g gated) Take(ctx context.Context, t inventory.Take) (inventory.Taken, error) {
	if t.User.IsZero() { // no shopper: a transfer's
		return g.Gate.Take(ctx, t)
	}
	began := time.Now()
	taken, err := g.Gate.Take(ctx, t)
	g.m.seconds.Observe(time.Since(began).Seconds())
	count(g.m.takes, takeOutcome(err))
	return taken, err
}

func takeOutcome(err error) string {
	switch {
	case err == nil:
		return "taken"
	case errors.Is(err, inventory.ErrShort):
		return "short"
	case errors.Is(err, reservation.ErrLimitReached):
		return "limit"
	case errors.Is(err, inventory.ErrFenced):
		return "fenced"
	case errors.Is(err, inventory.ErrClosed):
		return "closed"
	case errors.Is(err, inventory.ErrUnavailable):
		return "unavailable"
	}
	return "uncertain"
}

// Recovered counts a bucket that was opened anew.
func (m *Metrics) Recovered(shard int, reason string) {
	m.gate.recoveries.WithLabelValues(shardLabel(shard), reason).Inc()
}

// maxShards bounds the label; there are at most 64.
const maxShards = 64

func shardLabel(shard int) string {
	if shard < 0 || shard >= maxShards {
		return other
	}
	return strconv.Itoa(shard)
}
