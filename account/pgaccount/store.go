// Package pgaccount keeps accounts in PostgreSQL.
package pgaccount

import (
	"context"
	"embed"
	"errors"
	"flashsale/account"
	"flashsale/database/postgres"
	"flashsale/id"
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

// Store implements account.Store on PostgreSQL.
type Store struct{ pool *pgxpool.Pool }

// New returns the store of a migrated database.
func New(pool *pgxpool.Pool) *Store { return &Store{pool: pool} }

// Create implements account.Store.
func (s *Store) Create(ctx context.Context, u account.User) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO account (id, email, password_hash, role, created_at) VALUES ($1,$2,$3,$4,$5)`,
		u.ID, u.Email, u.PasswordHash, string(u.Role), u.CreatedAt)
	if postgres.Constraint(err) == "account_email" {
		return account.ErrEmailTaken
	}
	if err != nil {
		return fmt.Errorf("account: create: %w", err)
	}
	return nil
}

func (s *Store) find(ctx context.Context, where string, arg any) (account.User, error) {
	var u account.User
	err := s.pool.QueryRow(ctx, `SELECT id, email, password_hash, role, created_at FROM account WHERE `+where, arg).
		Scan(&u.ID, &u.Email, &u.PasswordHash, &u.Role, &u.CreatedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return u, account.ErrNotFound
	}
	if err != nil {
		return u, fmt.Errorf("account: find: %w", err)
	}
	u.CreatedAt = u.CreatedAt.UTC()
	return u, nil
}

// ByEmail implements account.Store.
func (s *Store) ByEmail(ctx context.Context, email string) (account.User, error) {
	return s.find(ctx, `email = $1`, email)
}

// ByID implements account.Store.
func (s *Store) ByID(ctx context.Context, user id.ID) (account.User, error) {
	return s.find(ctx, `id = $1`, user)
}

// Emails implements account.Store.
func (s *Store) Emails(ctx context.Context, users []id.ID) (map[id.ID]string, error) {
	rows, err := s.pool.Query(ctx, `SELECT id, email FROM account WHERE id = ANY($1::uuid[])`, users)
	if err != nil {
		return nil, fmt.Errorf("account: emails: %w", err)
	}
	out := make(map[id.ID]string, len(users))
	var user id.ID
	var email string
	if _, err := pgx.ForEachRow(rows, []any{&user, &email}, func() error { out[user] = email; return nil }); err != nil {
		return nil, fmt.Errorf("account: emails: %w", err)
	}
	return out, nil
}

const insertRefresh = `INSERT INTO refresh (hash, family, account, expires_at) VALUES ($1,$2,$3,$4)`

// Grant implements account.Store.
func (s *Store) Grant(ctx context.Context, r account.Refresh) error {
	if _, err := s.pool.Exec(ctx, insertRefresh, r.Hash[:], r.Family, r.User, r.ExpiresAt); err != nil {
		return fmt.Errorf("account: grant: %w", err)
	}
	return nil
}

// Rotate implements account.Store. The account is locked before anything is read, so of two uses at
// the same time one is second: a revocation would otherwise miss the token that a rotation inserts
// meanwhile. The lock lets logins through, whose tokens only refer to the account.
func (s *Store) Rotate(ctx context.Context, used [32]byte, next account.Refresh, now time.Time) (account.Refresh, error) {
	var verdict error
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var expires time.Time
		var spent, revoked bool
		var family, user id.ID
		err := tx.QueryRow(ctx, `SELECT a.id FROM account a JOIN refresh r ON r.account = a.id WHERE r.hash = $1 FOR NO KEY UPDATE OF a`, used[:]).Scan(&user)
		if err == nil {
			err = tx.QueryRow(ctx, `SELECT family, expires_at, used, revoked FROM refresh WHERE hash = $1`, used[:]).Scan(&family, &expires, &spent, &revoked)
		}
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			verdict = account.ErrTokenInvalid
			return nil
		case err != nil:
			return err
		case spent:
			verdict = account.ErrRefreshReused // the revocation is committed
			_, err := tx.Exec(ctx, `UPDATE refresh SET revoked = true WHERE family = $1`, family)
			return err
		case revoked, !now.Before(expires):
			verdict = account.ErrTokenInvalid
			return nil
		}
		next.Family, next.User = family, user
		if _, err := tx.Exec(ctx, `UPDATE refresh SET used = true WHERE hash = $1`, used[:]); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, insertRefresh, next.Hash[:], next.Family, next.User, next.ExpiresAt)
		return err
	})
	if err != nil {
		return next, fmt.Errorf("account: rotate: %w", err)
	}
	return next, verdict
}
