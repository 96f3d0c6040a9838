// Package pgpayment keeps payments in PostgreSQL, and the simulated provider's charges.
package pgpayment

import (
	"context"
	"embed"
	"errors"
	"flashsale/audit"
	"flashsale/database/postgres"
	"flashsale/id"
	"flashsale/payment"
	"flashsale/transport"
	"fmt"
	"io/fs"
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
	pool *pgxpool.Pool
}

// New returns the store of a migrated database.
func New(pool *pgxpool.Pool) *Store {
	return &Store{Outbox: postgres.NewOutbox(pool), Places: postgres.NewPlaces(pool), pool: pool}
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

func enqueue(ctx context.Context, tx pgx.Tx, p payment.Payment) error {
	e, ok := payment.Follow(p)
	if !ok {
		return nil
	}
	b := &pgx.Batch{}
	postgres.Enqueue(b, []transport.Envelope{e})
	return tx.SendBatch(ctx, b).Close()
}

// Begin implements payment.Store.
func (s *Store) Begin(ctx context.Context, p payment.Payment) (now payment.Payment, created bool, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		now, err = one(ctx, tx, `INSERT INTO payment (id, order_id, user_id, amount, currency, method, fingerprint, state, reason, provider_ref, trace)
			VALUES ($1,$2,$3,$4,$5,$6,$7,'requested','','',$8) ON CONFLICT DO NOTHING RETURNING `+columns,
			p.ID, p.Order, p.User, p.Amount.Amount, p.Amount.Currency, p.Method, p.Fingerprint[:], p.TraceParent)
		if errors.Is(err, pgx.ErrNoRows) {
			now, err = one(ctx, tx, selectPayments+` WHERE id = $1`, p.ID)
			return err
		}
		if err != nil {
			return err
		}
		created = true
		return enqueue(ctx, tx, now)
	})
	if err != nil {
		return now, false, fmt.Errorf("payment: begin: %w", err)
	}
	if now.Fingerprint != p.Fingerprint {
		return now, false, payment.ErrKeyReused
	}
	return now, created, nil
}

// Advance implements payment.Store.
func (s *Store) Advance(ctx context.Context, step payment.Step) (payment.Payment, error) {
	var p payment.Payment
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var err error
		p, err = one(ctx, tx, selectPayments+` WHERE id = $1 FOR UPDATE`, step.Payment)
		if errors.Is(err, pgx.ErrNoRows) {
			return payment.ErrNotFound
		}
		if err != nil {
			return err
		}
		if !step.In(p.State) {
			return payment.ErrIllegalMove
		}
		p, err = one(ctx, tx, `UPDATE payment SET state = $2, reason = $3, provider_ref = CASE WHEN $4 = '' THEN provider_ref ELSE $4 END, updated_at = now()
			WHERE id = $1 RETURNING `+columns, p.ID, string(step.To), step.Reason, step.ProviderRef)
		if err != nil {
			return err
		}
		return enqueue(ctx, tx, p)
	})
	for _, known := range []error{payment.ErrNotFound, payment.ErrIllegalMove} {
		if errors.Is(err, known) {
			return p, known
		}
	}
	if err != nil {
		return p, fmt.Errorf("payment: advance: %w", err)
	}
	return p, nil
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

// Stuck implements payment.Store.
func (s *Store) Stuck(ctx context.Context, states []payment.State, age time.Duration, limit int) ([]payment.Payment, error) {
	out, err := s.list(ctx, selectPayments+` WHERE state = ANY($1::text[]) AND updated_at <= now() - make_interval(secs => $2) ORDER BY updated_at, id LIMIT $3`,
		states, age.Seconds(), max(limit, 0))
	if err != nil {
		return nil, fmt.Errorf("payment: stuck: %w", err)
	}
	return out, nil
}

// Decided implements payment.Store.
func (s *Store) Decided(ctx context.Context, after time.Time, age time.Duration, limit int) ([]payment.Payment, error) {
	out, err := s.list(ctx, selectPayments+` WHERE state IN ('captured', 'declined', 'refunded') AND updated_at > $1 AND updated_at <= now() - make_interval(secs => $2)
		ORDER BY updated_at, id LIMIT $3`, after, age.Seconds(), max(limit, 0))
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

// PutCharge implements simprovider.Store.
func (s *Store) PutCharge(ctx context.Context, c payment.Charge) (payment.Charge, error) {
	_, err := s.pool.Exec(ctx, `INSERT INTO sim_charge (id, ref, amount, currency, captured, refunded, reason) VALUES ($1,$2,$3,$4,$5,false,$6) ON CONFLICT DO NOTHING`,
		c.Key, c.Ref, c.Amount.Amount, c.Amount.Currency, c.Captured, c.Reason)
	if err != nil {
		return c, err
	}
	return s.Charge(ctx, c.Key)
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
