package pgpayment

import (
	"context"
	"flashsale/database/postgres"
	"flashsale/id"
	"flashsale/payment"
	"flashsale/transport"
	"slices"

	"github.com/jackc/pgx/v5"
)

// Payments that are made and moved at the same time share transactions, and nobody is answered before the commit: a payment is written three times before it is
// captured, and each transaction of its own costs a dozen turns between two processes and a sync.
const (
	maxGroup = 256 // fewer than a page of the sweep over what is decided: the payments of a group have one updated_at
	maxQueue = 4096
	parallel = 2 // one group is prepared while the other waits for the disk
)

// begun is the answer to Begin, moved the answer to Advance: err is one of the contract's.
type begun struct {
	now     payment.Payment
	created bool
}

type moved struct {
	now payment.Payment
	err error
}

func (s *Store) beginAll(ctx context.Context, ps []payment.Payment) ([]begun, error) {
	out := make([]begun, len(ps))
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		first := map[id.ID]int{} // of several with one id the first is made
		for i, p := range ps {
			if _, ok := first[p.ID]; !ok {
				first[p.ID] = i
			}
		}
		rows, err := insert(ctx, tx, ps, first)
		if err != nil {
			return err
		}
		now := map[id.ID]payment.Payment{}
		var outbox []transport.Envelope
		for _, p := range rows {
			now[p.ID], out[first[p.ID]].created = p, true
			if e, ok := payment.Follow(p); ok {
				outbox = append(outbox, e)
			}
		}
		var there []id.ID
		for v := range first {
			if _, made := now[v]; !made {
				there = append(there, v)
			}
		}
		if len(there) > 0 {
			found, err := tx.Query(ctx, selectPayments+` WHERE id = ANY($1::uuid[])`, there)
			if err != nil {
				return err
			}
			rows, err := pgx.CollectRows(found, scan)
			if err != nil {
				return err
			}
			for _, p := range rows {
				now[p.ID] = p
			}
		}
		for i, p := range ps {
			row, ok := now[p.ID]
			if !ok {
				return pgx.ErrNoRows // a payment is never deleted
			}
			out[i].now = row
		}
		return enqueue(ctx, tx, outbox)
	})
	return out, err
}

// insert writes the payments that are not there yet and returns them, sorted by id, so that two groups meet in one order.
func insert(ctx context.Context, tx pgx.Tx, ps []payment.Payment, first map[id.ID]int) ([]payment.Payment, error) {
	ids := sortedIDs(first)
	n := len(ids)
	orders, users, amounts := make([]id.ID, n), make([]id.ID, n), make([]int64, n)
	currencies, methods, traces, prints := make([]string, n), make([]string, n), make([]string, n), make([][]byte, n)
	for i, v := range ids {
		p := ps[first[v]]
		orders[i], users[i], amounts[i], currencies[i] = p.Order, p.User, p.Amount.Amount, p.Amount.Currency
		methods[i], prints[i], traces[i] = p.Method, p.Fingerprint[:], p.TraceParent
	}
	rows, err := tx.Query(ctx, `INSERT INTO payment (id, order_id, user_id, amount, currency, method, fingerprint, trace, state, reason, provider_ref)
		SELECT *, 'requested', '', '' FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::bytea[], $8::text[])
		ON CONFLICT DO NOTHING RETURNING `+columns, ids, orders, users, amounts, currencies, methods, prints, traces)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

func sortedIDs[V any](m map[id.ID]V) []id.ID {
	out := make([]id.ID, 0, len(m))
	for v := range m {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b id.ID) int { return slices.Compare(a[:], b[:]) })
	return out
}

// advanceAll locks the payments of a group in the order of their ids and makes the steps in the order in which they came.
// Of several steps of one payment each sees what the one before has left.
func (s *Store) advanceAll(ctx context.Context, steps []payment.Step) ([]moved, error) {
	out := make([]moved, len(steps))
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		wanted := map[id.ID]bool{}
		for _, step := range steps {
			wanted[step.Payment] = true
		}
		rows, err := tx.Query(ctx, selectPayments+` WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE`, sortedIDs(wanted))
		if err != nil {
			return err
		}
		found, err := pgx.CollectRows(rows, scan)
		if err != nil {
			return err
		}
		now := map[id.ID]payment.Payment{}
		for _, p := range found {
			now[p.ID] = p
		}
		waiting := make([]int, len(steps))
		for i := range steps {
			waiting[i] = i
		}
		var outbox []transport.Envelope
		for len(waiting) > 0 { // a turn has at most one step of each payment
			turn, later := map[id.ID]int{}, []int(nil)
			for _, i := range waiting {
				step := steps[i]
				p, known := now[step.Payment]
				_, taken := turn[step.Payment]
				switch {
				case !known:
					out[i].err = payment.ErrNotFound
				case taken:
					later = append(later, i)
				case !step.In(p.State):
					out[i] = moved{p, payment.ErrIllegalMove}
				default:
					turn[step.Payment] = i
				}
			}
			changed, err := update(ctx, tx, steps, turn)
			if err != nil {
				return err
			}
			for _, p := range changed {
				now[p.ID], out[turn[p.ID]].now = p, p
				if e, ok := payment.Follow(p); ok {
					outbox = append(outbox, e)
				}
			}
			waiting = later
		}
		return enqueue(ctx, tx, outbox)
	})
	return out, err
}

func update(ctx context.Context, tx pgx.Tx, steps []payment.Step, turn map[id.ID]int) ([]payment.Payment, error) {
	if len(turn) == 0 {
		return nil, nil
	}
	ids := sortedIDs(turn)
	states, reasons, refs := make([]string, len(ids)), make([]string, len(ids)), make([]string, len(ids))
	for i, v := range ids {
		step := steps[turn[v]]
		states[i], reasons[i], refs[i] = string(step.To), step.Reason, step.ProviderRef
	}
	rows, err := tx.Query(ctx, `UPDATE payment p SET state = u.state, reason = u.reason, provider_ref = CASE WHEN u.ref = '' THEN p.provider_ref ELSE u.ref END, updated_at = now()
		FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS u (id, state, reason, ref) WHERE p.id = u.id
		RETURNING p.id, p.order_id, p.user_id, p.amount, p.currency, p.method, p.fingerprint, p.state, p.reason, p.provider_ref, p.trace, p.created_at, p.updated_at`,
		ids, states, reasons, refs)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

func enqueue(ctx context.Context, tx pgx.Tx, es []transport.Envelope) error {
	if len(es) == 0 {
		return nil
	}
	b := &pgx.Batch{}
	postgres.Enqueue(b, es)
	return tx.SendBatch(ctx, b).Close()
}
