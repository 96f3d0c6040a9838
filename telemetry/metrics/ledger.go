package metrics

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"flashsale/transport"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ledgerMetrics are of the ledger's calls.
type ledgerMetrics struct {
	seconds   map[string]prometheus.Observer
	errors    map[string]prometheus.Counter
	decisions map[string]prometheus.Counter
	moves     *prometheus.CounterVec
}

func newLedger(m *Metrics) ledgerMetrics {
	calls := []string{"commit", "move", "refuse", "find", "bound", "due"}
	seconds := m.histogram("flashsale_ledger_call_seconds", "Time of one call of the ledger: commit, move, refuse, find, bound or due.", durations(), "call")
	l := ledgerMetrics{
		seconds: map[string]prometheus.Observer{},
		errors:  counters(m.counter("flashsale_ledger_errors_total", "Calls of the ledger that failed.", "call"), calls...),
		decisions: counters(m.counter("flashsale_ledger_decisions_total",
			"Claims decided by the ledger: held, replayed, no_units (the gate promised what is not there), fenced, take_aborted, or the reason of the refusal.", "outcome"),
			"held", "replayed", "no_units", "fenced", "take_aborted", "limit_reached", "too_many_unpaid", "sale_not_open", "unknown_item", "key_reused"),
		moves: m.counter("flashsale_ledger_moves_total",
			"Moves of reservations: pay, capture, decline, cancel, expire (a hold's time is over), refund; applied, repeated or refused.", "move", "outcome"),
	}
	for _, c := range calls {
		l.seconds[c] = seconds.WithLabelValues(c)
	}
	return l
}

func (l *ledgerMetrics) called(call string, began time.Time, err error) {
	l.seconds[call].Observe(time.Since(began).Seconds())
	if err != nil && !errors.Is(err, reservation.ErrNotFound) {
		l.errors[call].Inc()
	}
}

// Ledger is what is measured of the inventory service's store.
type Ledger interface {
	inventory.Ledger
	inventory.Sales
	inventory.Books
	inventory.Balance
	inventory.History
	inventory.Auditor
	transport.Outbox
}

// Booked measures a ledger.
func (m *Metrics) Booked(next Ledger) Ledger { return booked{next, &m.book, &m.gate} }

type booked struct {
	Ledger
	m    *ledgerMetrics
	gate *gateMetrics
}

// Commit implements inventory.Ledger.
func (b booked) Commit(ctx context.Context, claims []inventory.Claim) ([]inventory.Decision, error) {
	began := time.Now()
	ds, err := b.Ledger.Commit(ctx, claims)
	b.m.called("commit", began, err)
	for i := range ds {
		count(b.m.decisions, decisionOutcome(&ds[i]))
	}
	return ds, err
}

func decisionOutcome(d *inventory.Decision) string {
	switch {
	case d.Err == nil && d.Replayed:
		return "replayed"
	case d.Err == nil:
		return "held"
	case errors.Is(d.Err, inventory.ErrNoUnits):
		return "no_units"
	case errors.Is(d.Err, inventory.ErrFenced):
		return "fenced"
	case errors.Is(d.Err, inventory.ErrTakeAborted):
		return "take_aborted"
	}
	return reservation.Reason(d.Err)
}

// Move implements inventory.Ledger.
func (b booked) Move(ctx context.Context, moves []inventory.Move) ([]inventory.Moved, error) {
	began := time.Now()
	answers, err := b.Ledger.Move(ctx, moves)
	b.m.called("move", began, err)
	for i := range answers {
		outcome := "repeated"
		switch {
		case answers[i].Err != nil:
			outcome = "refused"
		case answers[i].Applied:
			outcome = "applied"
		}
		b.m.moves.WithLabelValues(string(moves[i].Kind), outcome).Inc()
	}
	return answers, err
}

// Refuse implements inventory.Ledger.
func (b booked) Refuse(ctx context.Context, refusals []inventory.Refusal) ([]reservation.Reservation, error) {
	began := time.Now()
	rs, err := b.Ledger.Refuse(ctx, refusals)
	b.m.called("refuse", began, err)
	return rs, err
}

// Find implements inventory.Ledger.
func (b booked) Find(ctx context.Context, v id.ID) (reservation.Reservation, error) {
	began := time.Now()
	r, err := b.Ledger.Find(ctx, v)
	b.m.called("find", began, err)
	return r, err
}

// Bound implements inventory.Ledger.
func (b booked) Bound(ctx context.Context, item inventory.ItemID, user id.ID) (int, error) {
	began := time.Now()
	n, err := b.Ledger.Bound(ctx, item, user)
	b.m.called("bound", began, err)
	return n, err
}

// Due implements inventory.Ledger.
func (b booked) Due(ctx context.Context, limit int) ([]id.ID, error) {
	began := time.Now()
	due, err := b.Ledger.Due(ctx, limit)
	b.m.called("due", began, err)
	return due, err
}

// Tombstone implements inventory.Books.
func (b booked) Tombstone(ctx context.Context, takes []inventory.Pending) ([]inventory.LegOutcome, error) {
	outcomes, err := b.Ledger.Tombstone(ctx, takes)
	for _, o := range outcomes {
		if o == inventory.Committed {
			count(b.gate.orphans, "settled")
		} else {
			count(b.gate.orphans, "given_back")
		}
	}
	return outcomes, err
}

// Transfer implements inventory.Balance.
func (b booked) Transfer(ctx context.Context, t inventory.Transfer) (inventory.LegOutcome, error) {
	outcome, err := b.Ledger.Transfer(ctx, t)
	if err == nil {
		count(b.gate.transfers, string(outcome))
	}
	return outcome, err
}
