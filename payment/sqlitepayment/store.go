// Package sqlitepayment keeps payments in a SQLite file, and the simulated provider's charges.
package sqlitepayment

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"flashsale/audit"
	"flashsale/database/sqlite"
	"flashsale/id"
	"flashsale/payment"
	"flashsale/transport"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations is the schema, for sqlite.Migrate.
var Migrations, _ = fs.Sub(files, "migrations")

// Store implements payment's contracts on a SQLite file.
type Store struct {
	sqlite.Outbox
	sqlite.Places
	db    *sqlite.DB
	clock func() time.Time
}

// New returns the store of a migrated file, on this clock.
func New(db *sqlite.DB, clock func() time.Time) *Store {
	return &Store{Outbox: sqlite.NewOutbox(db, clock), Places: sqlite.NewPlaces(db, clock), db: db, clock: clock}
}

func (s *Store) now() time.Time { return s.clock().UTC().Truncate(time.Microsecond) }

const selectPayments = `SELECT id, order_id, user_id, amount, currency, method, fingerprint, state, reason, provider_ref, trace, created_at, updated_at FROM payment`

func scan(row interface{ Scan(...any) error }) (payment.Payment, error) {
	var p payment.Payment
	var pid, order, user, print []byte
	var created, updated int64
	err := row.Scan(&pid, &order, &user, &p.Amount.Amount, &p.Amount.Currency, &p.Method, &print, &p.State, &p.Reason, &p.ProviderRef, &p.TraceParent, &created, &updated)
	if err != nil {
		return p, err
	}
	p.ID, p.Order, p.User, p.Fingerprint = id.ID(pid), id.ID(order), id.ID(user), [32]byte(print)
	p.CreatedAt, p.UpdatedAt = sqlite.Time(created), sqlite.Time(updated)
	return p, nil
}

func (s *Store) list(ctx context.Context, query string, args ...any) ([]payment.Payment, error) {
	rows, err := s.db.Read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var out []payment.Payment
	for rows.Next() {
		p, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, rows.Err()
}

// Begin implements payment.Store.
func (s *Store) Begin(ctx context.Context, p payment.Payment) (now payment.Payment, created bool, err error) {
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		p.State, p.Reason, p.ProviderRef, p.CreatedAt = payment.Requested, "", "", s.now()
		p.UpdatedAt = p.CreatedAt
		done, err := tx.ExecContext(ctx, `INSERT INTO payment (id, order_id, user_id, amount, currency, method, fingerprint, state, reason, provider_ref, trace, created_at, updated_at)
			VALUES (?,?,?,?,?,?,?,?,'','',?,?,?) ON CONFLICT DO NOTHING`,
			p.ID[:], p.Order[:], p.User[:], p.Amount.Amount, p.Amount.Currency, p.Method, p.Fingerprint[:], string(p.State), p.TraceParent,
			sqlite.Micros(p.CreatedAt), sqlite.Micros(p.UpdatedAt))
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			if err == nil {
				now, err = scan(tx.QueryRowContext(ctx, selectPayments+` WHERE id = ?`, p.ID[:]))
			}
			return err
		}
		now, created = p, true
		return enqueue(ctx, tx, p)
	})
	if err != nil {
		return now, false, fmt.Errorf("payment: begin: %w", err)
	}
	if now.Fingerprint != p.Fingerprint {
		return now, false, payment.ErrKeyReused
	}
	return now, created, nil
}

func enqueue(ctx context.Context, tx *sql.Tx, p payment.Payment) error {
	e, ok := payment.Follow(p)
	if !ok {
		return nil
	}
	return sqlite.Enqueue(ctx, tx, p.UpdatedAt, []transport.Envelope{e})
}

// Advance implements payment.Store.
func (s *Store) Advance(ctx context.Context, step payment.Step) (payment.Payment, error) {
	var p payment.Payment
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		var err error
		p, err = scan(tx.QueryRowContext(ctx, selectPayments+` WHERE id = ?`, step.Payment[:]))
		if errors.Is(err, sql.ErrNoRows) {
			return payment.ErrNotFound
		}
		if err != nil {
			return err
		}
		if !step.In(p.State) {
			return payment.ErrIllegalMove
		}
		p.State, p.Reason, p.UpdatedAt = step.To, step.Reason, s.now()
		if step.ProviderRef != "" {
			p.ProviderRef = step.ProviderRef
		}
		if _, err := tx.ExecContext(ctx, `UPDATE payment SET state = ?, reason = ?, provider_ref = ?, updated_at = ? WHERE id = ?`,
			string(p.State), p.Reason, p.ProviderRef, sqlite.Micros(p.UpdatedAt), p.ID[:]); err != nil {
			return err
		}
		return enqueue(ctx, tx, p)
	})
	if errors.Is(err, payment.ErrNotFound) || errors.Is(err, payment.ErrIllegalMove) {
		return p, err
	}
	if err != nil {
		return p, fmt.Errorf("payment: advance: %w", err)
	}
	return p, nil
}

// Find implements payment.Store.
func (s *Store) Find(ctx context.Context, pid id.ID) (payment.Payment, error) {
	p, err := scan(s.db.Read.QueryRowContext(ctx, selectPayments+` WHERE id = ?`, pid[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return p, payment.ErrNotFound
	}
	if err != nil {
		return p, fmt.Errorf("payment: find: %w", err)
	}
	return p, nil
}

// ForOrder implements payment.Store.
func (s *Store) ForOrder(ctx context.Context, order id.ID) ([]payment.Payment, error) {
	out, err := s.list(ctx, selectPayments+` WHERE order_id = ? ORDER BY created_at, id`, order[:])
	if err != nil {
		return nil, fmt.Errorf("payment: of order: %w", err)
	}
	return out, nil
}

// Stuck implements payment.Store.
func (s *Store) Stuck(ctx context.Context, states []payment.State, age time.Duration, limit int) ([]payment.Payment, error) {
	args := []any{sqlite.Micros(s.now().Add(-age))}
	for _, v := range states {
		args = append(args, string(v))
	}
	marks := strings.TrimSuffix(strings.Repeat("?,", len(states)), ",")
	out, err := s.list(ctx, selectPayments+` WHERE updated_at <= ? AND state IN (`+marks+`) ORDER BY updated_at, id LIMIT ?`, append(args, max(limit, 0))...) // a negative LIMIT is none at all
	if err != nil {
		return nil, fmt.Errorf("payment: stuck: %w", err)
	}
	return out, nil
}

// Traffic implements payment.Store.
func (s *Store) Traffic(ctx context.Context, age time.Duration) (payment.Traffic, error) {
	var v payment.Traffic
	since := sqlite.Micros(s.now().Add(-age))
	err := s.db.Read.QueryRowContext(ctx, `SELECT count(*), count(*) FILTER (WHERE state = 'requested' AND updated_at <= ? AND updated_at > ?),
		(SELECT count(*) FROM payment WHERE state IN ('captured', 'declined', 'refunded') AND updated_at > ?)
		FROM payment WHERE state IN ('requested', 'charging') AND state IN ('requested', 'charging', 'unknown', 'refunding')`,
		since, sqlite.Micros(s.now().Add(-60*age)), since).Scan(&v.UnderWay, &v.Late, &v.Done)
	if err != nil {
		return payment.Traffic{}, fmt.Errorf("payment: traffic: %w", err)
	}
	return v, nil
}

// Decided implements payment.Store.
func (s *Store) Decided(ctx context.Context, after time.Time, age time.Duration, limit int) ([]payment.Payment, error) {
	until := s.now().Add(-age)
	if after.After(until) {
		after = until.Add(-age)
	}
	out, err := s.list(ctx, selectPayments+` WHERE state IN ('captured', 'declined', 'refunded') AND updated_at > ? AND updated_at <= ? ORDER BY updated_at, id LIMIT ?`,
		sqlite.Micros(after), sqlite.Micros(until), max(limit, 0))
	if err != nil {
		return nil, fmt.Errorf("payment: decided: %w", err)
	}
	return out, nil
}

// Audit implements payment.Auditor.
func (s *Store) Audit(ctx context.Context) ([]audit.Check, error) {
	tx, err := s.db.Read.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("payment: audit: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	return payment.AuditSQL(func(query string, args []any, into ...any) error {
		return tx.QueryRowContext(ctx, query, args...).Scan(into...)
	}, sqlite.Micros(s.clock().Add(-payment.ProbeBound)))
}

// Statement implements payment.Auditor.
func (s *Store) Statement(ctx context.Context, line func(payment.Line) error) error {
	rows, err := s.db.Read.QueryContext(ctx, `SELECT id, order_id, state, amount, currency FROM payment ORDER BY order_id, id`)
	if err != nil {
		return fmt.Errorf("payment: statement: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var v payment.Line
		var pid, order []byte
		if err := rows.Scan(&pid, &order, &v.State, &v.Amount.Amount, &v.Amount.Currency); err != nil {
			return fmt.Errorf("payment: statement: %w", err)
		}
		v.Payment, v.Order = id.ID(pid), id.ID(order)
		if err := line(v); err != nil {
			return err
		}
	}
	return rows.Err()
}

const selectCharges = `SELECT id, ref, amount, currency, captured, refunded, reason FROM sim_charge`

func scanCharge(row interface{ Scan(...any) error }) (payment.Charge, error) {
	var c payment.Charge
	var key []byte
	err := row.Scan(&key, &c.Ref, &c.Amount.Amount, &c.Amount.Currency, &c.Captured, &c.Refunded, &c.Reason)
	if err == nil {
		c.Key = id.ID(key)
	}
	return c, err
}

// PutCharge implements simprovider.Store.
func (s *Store) PutCharge(ctx context.Context, c payment.Charge) (payment.Charge, error) {
	var now payment.Charge
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO sim_charge (id, ref, amount, currency, captured, refunded, reason) VALUES (?,?,?,?,?,0,?) ON CONFLICT DO NOTHING`,
			c.Key[:], c.Ref, c.Amount.Amount, c.Amount.Currency, c.Captured, c.Reason)
		if err != nil {
			return err
		}
		now, err = scanCharge(tx.QueryRowContext(ctx, selectCharges+` WHERE id = ?`, c.Key[:]))
		return err
	})
	return now, err
}

// Charge implements simprovider.Store.
func (s *Store) Charge(ctx context.Context, key id.ID) (payment.Charge, error) {
	c, err := scanCharge(s.db.Read.QueryRowContext(ctx, selectCharges+` WHERE id = ?`, key[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return c, payment.ErrNoCharge
	}
	return c, err
}

// RefundCharge implements simprovider.Store.
func (s *Store) RefundCharge(ctx context.Context, key id.ID) error {
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE sim_charge SET refunded = 1 WHERE id = ? AND captured = 1`, key[:])
		return err
	})
}

// Charges implements simprovider.Store.
func (s *Store) Charges(ctx context.Context, charge func(payment.Charge) error) error {
	rows, err := s.db.Read.QueryContext(ctx, selectCharges)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
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
