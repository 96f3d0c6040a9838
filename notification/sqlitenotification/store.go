// Package sqlitenotification keeps messages in a SQLite file.
package sqlitenotification

import (
	"context"
	"database/sql"
	"embed"
	"flashsale/audit"
	"flashsale/database/sqlite"
	"flashsale/id"
	"flashsale/notification"
	"fmt"
	"io/fs"
	"time"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations is the schema, for sqlite.Migrate.
var Migrations, _ = fs.Sub(files, "migrations")

// Store implements notification.Store on a SQLite file.
type Store struct {
	db    *sqlite.DB
	clock func() time.Time
}

// New returns the store of a migrated file, on this clock.
func New(db *sqlite.DB, clock func() time.Time) *Store { return &Store{db: db, clock: clock} }

const selectMessages = `SELECT id, user_id, recipient, kind, subject, body, state, attempts, last_error, created_at, next_at FROM message`

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func list(ctx context.Context, q querier, query string, args ...any) ([]notification.Message, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	out := []notification.Message{}
	for rows.Next() {
		var m notification.Message
		var mid, user []byte
		var created, next int64
		if err := rows.Scan(&mid, &user, &m.To, &m.Kind, &m.Subject, &m.Text, &m.State, &m.Attempts, &m.LastError, &created, &next); err != nil {
			return nil, err
		}
		m.ID, m.User, m.CreatedAt, m.NextAt = id.ID(mid), id.ID(user), sqlite.Time(created), sqlite.Time(next)
		out = append(out, m)
	}
	return out, rows.Err()
}

// Add implements notification.Store.
func (s *Store) Add(ctx context.Context, m notification.Message) error {
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO message (id, user_id, recipient, kind, subject, body, state, attempts, last_error, created_at, next_at)
			VALUES (?,?,?,?,?,?,?,0,'',?,?) ON CONFLICT DO NOTHING`,
			m.ID[:], m.User[:], m.To, m.Kind, m.Subject, m.Text, string(notification.Pending), sqlite.Micros(m.CreatedAt), sqlite.Micros(m.NextAt))
		return err
	})
	if err != nil {
		return fmt.Errorf("notification: add: %w", err)
	}
	return nil
}

// Missing implements notification.Store.
func (s *Store) Missing(ctx context.Context, events []id.ID) ([]id.ID, error) {
	var out []id.ID
	for _, v := range events {
		var there bool
		if err := s.db.Read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM message WHERE id = ?)`, v[:]).Scan(&there); err != nil {
			return nil, fmt.Errorf("notification: missing: %w", err)
		}
		if !there {
			out = append(out, v)
		}
	}
	return out, nil
}

// Lease implements notification.Store.
func (s *Store) Lease(ctx context.Context, limit int, lease time.Duration) ([]notification.Message, error) {
	var out []notification.Message
	now := s.clock()
	until := sqlite.Micros(now.Add(lease))
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		var err error
		out, err = list(ctx, tx, selectMessages+` WHERE state = 'pending' AND next_at <= ? ORDER BY next_at LIMIT ?`, sqlite.Micros(now), limit)
		for i := range out {
			if err == nil {
				out[i].NextAt = sqlite.Time(until)
				_, err = tx.ExecContext(ctx, `UPDATE message SET next_at = ? WHERE id = ?`, until, out[i].ID[:])
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("notification: lease: %w", err)
	}
	return out, nil
}

// Record implements notification.Store.
func (s *Store) Record(ctx context.Context, ms []notification.Message) error {
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		for _, m := range ms {
			if _, err := tx.ExecContext(ctx, `UPDATE message SET state = ?, attempts = ?, last_error = ?, next_at = ? WHERE id = ?`,
				string(m.State), m.Attempts, m.LastError, sqlite.Micros(m.NextAt), m.ID[:]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("notification: record: %w", err)
	}
	return nil
}

// Of implements notification.Store.
func (s *Store) Of(ctx context.Context, user id.ID, limit int) ([]notification.Message, error) {
	out, err := list(ctx, s.db.Read, selectMessages+` WHERE user_id = ? ORDER BY created_at DESC, id LIMIT ?`, user[:], limit)
	if err != nil {
		return nil, fmt.Errorf("notification: of: %w", err)
	}
	return out, nil
}

// Audit implements notification.Store.
func (s *Store) Audit(ctx context.Context) ([]audit.Check, error) {
	var pending, late int64
	err := s.db.Read.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(created_at < ?), 0) FROM message WHERE state = 'pending'`,
		sqlite.Micros(s.clock().Add(-notification.PendingBound))).Scan(&pending, &late)
	if err != nil {
		return nil, fmt.Errorf("notification: audit: %w", err)
	}
	return notification.Checks(pending, late), nil
}
