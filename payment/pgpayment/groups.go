package pgpayment

import (
	"context"
	"flashsale/database/postgres"
	"flashsale/id"
	"flashsale/payment"
	"flashsale/transport"
	"slices"
	"time"

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
	err := postgres.InTx(ctx, s.pool, func(tx *postgres.Tx) error {
		first := map[id.ID]int{} // of several with one id the first is made
		for i, p := range ps {
			if _, ok := first[p.ID]; !ok {
				first[p.ID] = i
			}
		}
		ids := sortedIDs(first) // two groups meet in one order
		b := &pgx.Batch{}
		queueInsert(b, ps, first, ids)
		b.Queue(selectPayments+` WHERE id = ANY($1::uuid[])`, ids)
		now := map[id.ID]payment.Payment{}
		if err := tx.Send(ctx, b, func(results pgx.BatchResults) error {
			made, err := collect(results, pgx.RowTo[id.ID])
			for _, v := range made {
				out[first[v]].created = true
			}
			if err == nil {
				err = scanInto(results, now)
			}
			return err
		}); err != nil {
			return err
		}
		var outbox []transport.Envelope
		for i, p := range ps {
			row, ok := now[p.ID]
			if !ok {
				return pgx.ErrNoRows // a payment is never deleted
			}
			out[i].now = row
			if e, ok := payment.Follow(row); ok && out[i].created {
				outbox = append(outbox, e)
			}
		}
		return commit(ctx, tx, &pgx.Batch{}, outbox)
	})
	return out, err
}

// queueInsert adds the statement that writes the payments that are not there yet and returns their ids.
func queueInsert(b *pgx.Batch, ps []payment.Payment, first map[id.ID]int, ids []id.ID) {
	n := len(ids)
	orders, users, amounts := make([]id.ID, n), make([]id.ID, n), make([]int64, n)
	currencies, methods, traces, prints := make([]string, n), make([]string, n), make([]string, n), make([][]byte, n)
	for i, v := range ids {
		p := ps[first[v]]
		orders[i], users[i], amounts[i], currencies[i] = p.Order, p.User, p.Amount.Amount, p.Amount.Currency
		methods[i], prints[i], traces[i] = p.Method, p.Fingerprint[:], p.TraceParent
	}
	b.Queue(`INSERT INTO payment (id, order_id, user_id, amount, currency, method, fingerprint, trace, state, reason, provider_ref)
		SELECT *, 'requested', '', '' FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::bytea[], $8::text[])
		ON CONFLICT DO NOTHING RETURNING id`, ids, orders, users, amounts, currencies, methods, prints, traces)
}

func collect[T any](results pgx.BatchResults, row pgx.RowToFunc[T]) ([]T, error) {
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, row)
}

func scanInto(results pgx.BatchResults, now map[id.ID]payment.Payment) error {
	found, err := collect(results, scan)
	for _, p := range found {
		now[p.ID] = p
	}
	return err
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
	err := postgres.InTx(ctx, s.pool, func(tx *postgres.Tx) error {
		wanted := map[id.ID]bool{}
		for _, step := range steps {
			wanted[step.Payment] = true
		}
		lock := &pgx.Batch{}
		lock.Queue(selectPayments+` WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE`, sortedIDs(wanted))
		lock.Queue(`SELECT clock_timestamp()`) // after the locks
		now, at := map[id.ID]payment.Payment{}, time.Time{}
		if err := tx.Send(ctx, lock, func(results pgx.BatchResults) error {
			if err := scanInto(results, now); err != nil {
				return err
			}
			return results.QueryRow().Scan(&at)
		}); err != nil {
			return err
		}
		changed := map[id.ID]bool{}
		var outbox []transport.Envelope
		for i, step := range steps {
			p, known := now[step.Payment]
			switch {
			case !known:
				out[i].err = payment.ErrNotFound
				continue
			case !step.In(p.State):
				out[i] = moved{p, payment.ErrIllegalMove}
				continue
			}
			p.State, p.Reason, p.UpdatedAt = step.To, step.Reason, at.UTC()
			if step.ProviderRef != "" {
				p.ProviderRef = step.ProviderRef
			}
			now[p.ID], changed[p.ID], out[i].now = p, true, p
			if e, ok := payment.Follow(p); ok {
				outbox = append(outbox, e)
			}
		}
		if len(changed) == 0 {
			return nil
		}
		b := &pgx.Batch{}
		queueUpdate(b, now, sortedIDs(changed), at)
		return commit(ctx, tx, b, outbox)
	})
	return out, err
}

func queueUpdate(b *pgx.Batch, now map[id.ID]payment.Payment, ids []id.ID, at time.Time) {
	states, reasons, refs := make([]string, len(ids)), make([]string, len(ids)), make([]string, len(ids))
	for i, v := range ids {
		p := now[v]
		states[i], reasons[i], refs[i] = string(p.State), p.Reason, p.ProviderRef
	}
	b.Queue(`UPDATE payment p SET state = u.state, reason = u.reason, provider_ref = u.ref, updated_at = $5
		FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS u (id, state, reason, ref) WHERE p.id = u.id`, ids, states, reasons, refs, at)
}

// commit commits with a batch and the envelopes that follow; with neither there is nothing to commit.
func commit(ctx context.Context, tx *postgres.Tx, b *pgx.Batch, outbox []transport.Envelope) error {
	postgres.Enqueue(b, outbox)
	if b.Len() == 0 {
		return nil
	}
	return tx.Commit(ctx, b, nil)
}
