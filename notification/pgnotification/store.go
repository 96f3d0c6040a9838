// Package pgnotification keeps messages in PostgreSQL.
package pgnotification

import (
	"context"
	"embed"
	"errors"
	"flashsale/audit"
	"flashsale/database/postgres"
	"flashsale/groupcommit"
	"flashsale/id"
	"flashsale/notification"
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

// Store implements notification.Store on PostgreSQL.
type Store struct {
	pool *pgxpool.Pool
	adds *groupcommit.Group[notification.Message, struct{}]
}

const (
	maxGroup = 256
	maxQueue = 4096
	parallel = 2 // one group is prepared while the other waits for the disk
)

// New returns the store of a migrated database. Close it when done, before the pool.
func New(pool *pgxpool.Pool) *Store {
	s := &Store{pool: pool}
	s.adds = groupcommit.New(maxGroup, maxQueue, parallel, s.addAll)
	return s
}

// Close finishes what is under way. It may be called twice.
func (s *Store) Close() { s.adds.Close() }

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

// Add implements notification.Store. What comes at the same time is written together.
func (s *Store) Add(ctx context.Context, m notification.Message) error {
	if err := postgres.Storable(m.To, m.Kind, m.Subject, m.Text); err != nil {
		return fmt.Errorf("notification: add: %w", err)
	}
	_, err := s.adds.Do(ctx, m)
	switch {
	case errors.Is(err, groupcommit.ErrFull), errors.Is(err, groupcommit.ErrStopped):
		return fmt.Errorf("notification: add: %w", transport.ErrOverloaded) // nothing was written
	case err != nil:
		return fmt.Errorf("notification: add: %w", err)
	}
	return nil
}

// addAll writes in the order of the ids: two groups that have the same messages do not wait for one another.
func (s *Store) addAll(ctx context.Context, ms []notification.Message) ([]struct{}, error) {
	slices.SortFunc(ms, func(a, b notification.Message) int { return slices.Compare(a.ID[:], b.ID[:]) })
	n := len(ms)
	ids, users, ats, nexts := make([]id.ID, n), make([]id.ID, n), make([]time.Time, n), make([]time.Time, n)
	tos, kinds, subjects, texts := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i, m := range ms {
		ids[i], users[i], ats[i], nexts[i] = m.ID, m.User, m.CreatedAt, m.NextAt
		tos[i], kinds[i], subjects[i], texts[i] = m.To, m.Kind, m.Subject, m.Text
	}
	_, err := s.pool.Exec(ctx, `INSERT INTO message (id, user_id, recipient, kind, subject, body, created_at, next_at, state, attempts, last_error)
		SELECT *, 'pending', 0, '' FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::timestamptz[])
		ON CONFLICT DO NOTHING`, ids, users, tos, kinds, subjects, texts, ats, nexts)
	return make([]struct{}, n), err
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
func (s *Store) Record(ctx context.Context, ms []notification.Message) error {
	n := len(ms)
	ids, states, attempts := make([]id.ID, n), make([]string, n), make([]int32, n)
	errs, nexts := make([]string, n), make([]time.Time, n)
	for i, m := range ms {
		ids[i], states[i], attempts[i], errs[i], nexts[i] = m.ID, string(m.State), int32(m.Attempts), m.LastError, m.NextAt
	}
	_, err := s.pool.Exec(ctx, `UPDATE message m SET state = u.state, attempts = u.attempts, last_error = u.error, next_at = u.next
		FROM unnest($1::uuid[], $2::text[], $3::int[], $4::text[], $5::timestamptz[]) AS u (id, state, attempts, error, next) WHERE m.id = u.id`,
		ids, states, attempts, errs, nexts)
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
