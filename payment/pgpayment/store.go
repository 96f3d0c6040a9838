// Package pgpayment keeps payments in PostgreSQL, and the simulated provider's charges.
package pgpayment

import (
	"context"
	"embed"
	"errors"
	"flashsale/audit"
	"flashsale/database/postgres"
	"flashsale/groupcommit"
	"flashsale/id"
	"flashsale/payment"
	"flashsale/transport"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations is the schema, for postgres.Migrate.
var Migrations, _ = fs.Sub(files, "migrations")

// Store implements payment's contracts on PostgreSQL.
type Store struct {
	postgres.Outbox
	postgres.Places
	pool    *pgxpool.Pool
	begins  *groupcommit.Group[payment.Payment, begun]
	steps   *groupcommit.Group[payment.Step, moved]
	charges *groupcommit.Group[payment.Charge, payment.Charge]
}

// New returns the store of a migrated database. Close it when done, before the pool.
func New(pool *pgxpool.Pool) *Store {
	s := &Store{Outbox: postgres.NewOutbox(pool), Places: postgres.NewPlaces(pool), pool: pool}
	s.begins = groupcommit.New(maxGroup, maxQueue, parallel, s.beginAll)
	s.steps = groupcommit.New(maxGroup, maxQueue, parallel, s.advanceAll)
	s.charges = groupcommit.New(maxGroup, maxQueue, parallel, s.putCharges)
	return s
}

// Close finishes what is under way. It may be called twice.
func (s *Store) Close() {
	s.begins.Close()
	s.steps.Close()
	s.charges.Close()
}

const (
	columns        = `id, order_id, user_id, amount, currency, method, fingerprint, state, reason, provider_ref, trace, created_at, updated_at`
	selectPayments = `SELECT ` + columns + ` FROM payment`
)

func scan(row pgx.CollectableRow) (payment.Payment, error) {
	var p payment.Payment
	var print []byte
	err := row.Scan(&p.ID, &p.Order, &p.User, &p.Amount.Amount, &p.Amount.Currency, &p.Method, &print, &p.State, &p.Reason, &p.ProviderRef, &p.TraceParent, &p.CreatedAt, &p.UpdatedAt)
	if err == nil {
		p.Fingerprint = [32]byte(print)
		p.CreatedAt, p.UpdatedAt = p.CreatedAt.UTC(), p.UpdatedAt.UTC()
	}
	return p, err
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func one(ctx context.Context, q querier, query string, args ...any) (payment.Payment, error) {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return payment.Payment{}, err
	}
	return pgx.CollectExactlyOneRow(rows, scan)
}

func (s *Store) list(ctx context.Context, query string, args ...any) ([]payment.Payment, error) {
	rows, err := s.pool.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

// Begin implements payment.Store. What comes at the same time is written together.
func (s *Store) Begin(ctx context.Context, p payment.Payment) (now payment.Payment, created bool, err error) {
	if err := postgres.Storable(p.Amount.Currency, p.Method, p.TraceParent); err != nil {
		return now, false, fmt.Errorf("payment: begin: %w", err)
	}
	b, err := s.begins.Do(ctx, p)
	switch {
	case errors.Is(err, groupcommit.ErrFull), errors.Is(err, groupcommit.ErrStopped):
		return b.now, false, fmt.Errorf("payment: begin: %w", transport.ErrOverloaded) // nothing was written
	case err != nil:
		return b.now, false, fmt.Errorf("payment: begin: %w", err)
	}
	if b.now.Fingerprint != p.Fingerprint {
		return b.now, false, payment.ErrKeyReused
	}
	return b.now, b.created, nil
}

// Advance implements payment.Store. What comes at the same time is written together.
func (s *Store) Advance(ctx context.Context, step payment.Step) (payment.Payment, error) {
	if err := postgres.Storable(string(step.To), step.Reason, step.ProviderRef); err != nil {
		return payment.Payment{}, fmt.Errorf("payment: advance: %w", err)
	}
	m, err := s.steps.Do(ctx, step)
	if err != nil {
		return m.now, fmt.Errorf("payment: advance: %w", err)
	}
	return m.now, m.err
}

// Find implements payment.Store.
func (s *Store) Find(ctx context.Context, pid id.ID) (payment.Payment, error) {
	p, err := one(ctx, s.pool, selectPayments+` WHERE id = $1`, pid)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, payment.ErrNotFound
	}
	if err != nil {
		return p, fmt.Errorf("payment: find: %w", err)
	}
	return p, nil
}

// ForOrder implements payment.Store.
func (s *Store) ForOrder(ctx context.Context, order id.ID) ([]payment.Payment, error) {
	out, err := s.list(ctx, selectPayments+` WHERE order_id = $1 ORDER BY created_at, id`, order)
	if err != nil {
		return nil, fmt.Errorf("payment: of order: %w", err)
	}
	return out, nil
}

// movingStates are those of the index payment_moving.
func movingStates() []payment.State {
	return []payment.State{payment.Requested, payment.Charging, payment.Unknown, payment.Refunding}
}

// Stuck implements payment.Store.
func (s *Store) Stuck(ctx context.Context, states []payment.State, age time.Duration, limit int) ([]payment.Payment, error) {
	moving := "" // in these words the planner knows the index that holds only what moves
	if !slices.ContainsFunc(states, func(st payment.State) bool { return !slices.Contains(movingStates(), st) }) {
		moving = ` AND state IN ('requested', 'charging', 'unknown', 'refunding')`
	}
	out, err := s.list(ctx, selectPayments+` WHERE state = ANY($1::text[])`+moving+` AND updated_at <= now() - make_interval(secs => $2) ORDER BY updated_at, id LIMIT $3`,
		states, age.Seconds(), max(limit, 0))
	if err != nil {
		return nil, fmt.Errorf("payment: stuck: %w", err)
	}
	return out, nil
}

// Traffic implements payment.Store.
func (s *Store) Traffic(ctx context.Context, age time.Duration) (payment.Traffic, error) {
	var v payment.Traffic
	err := s.pool.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE state = 'requested'
			AND updated_at <= now() - make_interval(secs => $1) AND updated_at > now() - 60 * make_interval(secs => $1)),
		(SELECT count(*) FROM payment WHERE state IN ('captured', 'declined', 'refunded') AND updated_at > now() - make_interval(secs => $1))
		FROM payment WHERE state IN ('requested', 'charging') AND state IN ('requested', 'charging', 'unknown', 'refunding')`,
		age.Seconds()).Scan(&v.UnderWay, &v.Late, &v.Done)
	if err != nil {
		return payment.Traffic{}, fmt.Errorf("payment: traffic: %w", err)
	}
	return v, nil
}

// Decided implements payment.Store.
func (s *Store) Decided(ctx context.Context, after time.Time, age time.Duration, limit int) ([]payment.Payment, error) {
	out, err := s.list(ctx, selectPayments+` WHERE state IN ('captured', 'declined', 'refunded') AND updated_at <= now() - make_interval(secs => $2)
		AND updated_at > CASE WHEN $1 > now() - make_interval(secs => $2) THEN now() - 2 * make_interval(secs => $2) ELSE $1 END ORDER BY updated_at, id LIMIT $3`, after, age.Seconds(), max(limit, 0))
	if err != nil {
		return nil, fmt.Errorf("payment: decided: %w", err)
	}
	return out, nil
}

// Audit implements payment.Auditor.
func (s *Store) Audit(ctx context.Context) ([]audit.Check, error) {
	var checks []audit.Check
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var overdue any
		var err error
		if err := tx.QueryRow(ctx, `SELECT now() - make_interval(secs => $1)`, payment.ProbeBound.Seconds()).Scan(&overdue); err != nil {
			return err
		}
		checks, err = payment.AuditSQL(func(query string, args []any, into ...any) error {
			return tx.QueryRow(ctx, query, args...).Scan(into...)
		}, overdue)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("payment: audit: %w", err)
	}
	return checks, nil
}

// Statement implements payment.Auditor.
func (s *Store) Statement(ctx context.Context, line func(payment.Line) error) error {
	rows, err := s.pool.Query(ctx, `SELECT id, order_id, state, amount, currency FROM payment ORDER BY order_id, id`)
	if err != nil {
		return fmt.Errorf("payment: statement: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var v payment.Line
		if err := rows.Scan(&v.Payment, &v.Order, &v.State, &v.Amount.Amount, &v.Amount.Currency); err != nil {
			return fmt.Errorf("payment: statement: %w", err)
		}
		if err := line(v); err != nil {
			return err
		}
	}
	return rows.Err()
}

const selectCharges = `SELECT id, ref, amount, currency, captured, refunded, reason FROM sim_charge`

func scanCharge(row pgx.CollectableRow) (payment.Charge, error) {
	var c payment.Charge
	err := row.Scan(&c.Key, &c.Ref, &c.Amount.Amount, &c.Amount.Currency, &c.Captured, &c.Refunded, &c.Reason)
	return c, err
}

// PutCharge implements simprovider.Store. What comes at the same time is written together.
func (s *Store) PutCharge(ctx context.Context, c payment.Charge) (payment.Charge, error) {
	return s.charges.Do(ctx, c)
}

func (s *Store) putCharges(ctx context.Context, cs []payment.Charge) ([]payment.Charge, error) {
	first := map[id.ID]payment.Charge{} // of several with one key the first is written
	for _, c := range cs {
		if _, ok := first[c.Key]; !ok {
			first[c.Key] = c
		}
	}
	ids := sortedIDs(first)
	n := len(ids)
	refs, currencies, reasons, amounts, captured := make([]string, n), make([]string, n), make([]string, n), make([]int64, n), make([]bool, n)
	for i, v := range ids {
		c := first[v]
		refs[i], amounts[i], currencies[i], captured[i], reasons[i] = c.Ref, c.Amount.Amount, c.Amount.Currency, c.Captured, c.Reason
	}
	b := &pgx.Batch{}
	b.Queue(`INSERT INTO sim_charge (id, ref, amount, currency, captured, refunded, reason)
		SELECT u.id, u.ref, u.amount, u.currency, u.captured, false, u.reason
		FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::bool[], $6::text[]) AS u (id, ref, amount, currency, captured, reason)
		ON CONFLICT DO NOTHING`, ids, refs, amounts, currencies, captured, reasons)
	b.Queue(selectCharges+` WHERE id = ANY($1::uuid[])`, ids) // a charge that was there before stays as it was
	results := s.pool.SendBatch(ctx, b)
	_, err := results.Exec()
	if err == nil {
		var found []payment.Charge
		found, err = collect(results, scanCharge)
		for _, c := range found {
			first[c.Key] = c
		}
	}
	if cerr := results.Close(); err == nil {
		err = cerr
	}
	out := make([]payment.Charge, len(cs))
	for i, c := range cs {
		out[i] = first[c.Key]
	}
	return out, err
}

// Charge implements simprovider.Store.
func (s *Store) Charge(ctx context.Context, key id.ID) (payment.Charge, error) {
	rows, err := s.pool.Query(ctx, selectCharges+` WHERE id = $1`, key)
	if err != nil {
		return payment.Charge{}, err
	}
	c, err := pgx.CollectExactlyOneRow(rows, scanCharge)
	if errors.Is(err, pgx.ErrNoRows) {
		return c, payment.ErrNoCharge
	}
	return c, err
}

// RefundCharge implements simprovider.Store.
func (s *Store) RefundCharge(ctx context.Context, key id.ID) error {
	_, err := s.pool.Exec(ctx, `UPDATE sim_charge SET refunded = true WHERE id = $1 AND captured`, key)
	return err
}

// Charges implements simprovider.Store.
func (s *Store) Charges(ctx context.Context, charge func(payment.Charge) error) error {
	rows, err := s.pool.Query(ctx, selectCharges)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		c, err := scanCharge(rows)
		if err != nil {
			return err
		}
		if err := charge(c); err != nil {
			return err
		}
	}
	return rows.Err()
}
