// Package pgnotification keeps messages in PostgreSQL.
package pgnotification

import (
	"context"
	"embed"
	"flashsale/audit"
	"flashsale/id"
	"flashsale/notification"
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

// Store implements notification.Store on PostgreSQL.
type Store struct{ pool *pgxpool.Pool }

// New returns the store of a migrated database.
func New(pool *pgxpool.Pool) *Store { return &Store{pool: pool} }

const columns = `id, user_id, recipient, kind, subject, body, state, attempts, last_error, created_at, next_at`

func (s *Store) list(ctx context.Context, query string, args ...any) ([]notification.Message, error) {
	rows, err := s.pool.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (notification.Message, error) {
		var m notification.Message
		err := row.Scan(&m.ID, &m.User, &m.To, &m.Kind, &m.Subject, &m.Text, &m.State, &m.Attempts, &m.LastError, &m.CreatedAt, &m.NextAt)
		m.CreatedAt, m.NextAt = m.CreatedAt.UTC(), m.NextAt.UTC()
		return m, err
	})
}

// Add implements notification.Store.
func (s *Store) Add(ctx context.Context, m notification.Message) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO message (`+columns+`) VALUES ($1,$2,$3,$4,$5,$6,'pending',0,'',$7,$8) ON CONFLICT DO NOTHING`,
		m.ID, m.User, m.To, m.Kind, m.Subject, m.Text, m.CreatedAt, m.NextAt)
	if err != nil {
		return fmt.Errorf("notification: add: %w", err)
	}
	return nil
}

// Missing implements notification.Store.
func (s *Store) Missing(ctx context.Context, events []id.ID) ([]id.ID, error) {
	rows, err := s.pool.Query(ctx, `SELECT e FROM unnest($1::uuid[]) AS e WHERE NOT EXISTS (SELECT FROM message m WHERE m.id = e)`, events)
	if err != nil {
		return nil, fmt.Errorf("notification: missing: %w", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[id.ID])
	if err != nil {
		return nil, fmt.Errorf("notification: missing: %w", err)
	}
	return out, nil
}

// Lease implements notification.Store.
func (s *Store) Lease(ctx context.Context, limit int, lease time.Duration) ([]notification.Message, error) {
	out, err := s.list(ctx, `WITH due AS (
			SELECT id AS due_id, next_at AS due_at FROM message WHERE state = 'pending' AND next_at <= now() ORDER BY next_at LIMIT $1 FOR UPDATE SKIP LOCKED
		), leased AS (
			UPDATE message m SET next_at = now() + make_interval(secs => $2) FROM due WHERE m.id = due.due_id RETURNING m.*, due.due_at
		) SELECT `+columns+` FROM leased ORDER BY due_at`, limit, lease.Seconds())
	if err != nil {
		return nil, fmt.Errorf("notification: lease: %w", err)
	}
	return out, nil
}

// Record implements notification.Store.
func (s *Store) Record(ctx context.Context, m notification.Message) error {
	_, err := s.pool.Exec(ctx, `UPDATE message SET state = $2, attempts = $3, last_error = $4, next_at = $5 WHERE id = $1`,
		m.ID, string(m.State), m.Attempts, m.LastError, m.NextAt)
	if err != nil {
		return fmt.Errorf("notification: record: %w", err)
	}
	return nil
}

// Of implements notification.Store.
func (s *Store) Of(ctx context.Context, user id.ID, limit int) ([]notification.Message, error) {
	out, err := s.list(ctx, `SELECT `+columns+` FROM message WHERE user_id = $1 ORDER BY created_at DESC, id LIMIT $2`, user, limit)
	if err != nil {
		return nil, fmt.Errorf("notification: of: %w", err)
	}
	return out, nil
}

// Audit implements notification.Store.
func (s *Store) Audit(ctx context.Context) ([]audit.Check, error) {
	var pending, late int64
	err := s.pool.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE created_at < now() - make_interval(secs => $1)) FROM message WHERE state = 'pending'`,
		notification.PendingBound.Seconds()).Scan(&pending, &late)
	if err != nil {
		return nil, fmt.Errorf("notification: audit: %w", err)
	}
	return notification.Checks(pending, late), nil
}
