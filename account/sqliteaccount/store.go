// Package sqliteaccount keeps accounts in a SQLite file.
package sqliteaccount

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"flashsale/account"
	"flashsale/database/sqlite"
	"flashsale/id"
	"fmt"
	"io/fs"
	"time"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations is the schema, for sqlite.Migrate.
var Migrations, _ = fs.Sub(files, "migrations")

// Store implements account.Store on a SQLite file.
type Store struct{ db *sqlite.DB }

// New returns the store of a migrated file.
func New(db *sqlite.DB) *Store { return &Store{db: db} }

// Create implements account.Store.
func (s *Store) Create(ctx context.Context, u account.User) error {
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO account (id, email, password_hash, role, created_at) VALUES (?,?,?,?,?)`,
			u.ID[:], u.Email, u.PasswordHash, string(u.Role), sqlite.Micros(u.CreatedAt))
		return err
	})
	if sqlite.Unique(err) {
		return account.ErrEmailTaken
	}
	if err != nil {
		return fmt.Errorf("account: create: %w", err)
	}
	return nil
}

func (s *Store) find(ctx context.Context, where string, arg any) (account.User, error) {
	var u account.User
	var uid []byte
	var created int64
	err := s.db.Read.QueryRowContext(ctx, `SELECT id, email, password_hash, role, created_at FROM account WHERE `+where, arg).
		Scan(&uid, &u.Email, &u.PasswordHash, &u.Role, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return u, account.ErrNotFound
	}
	if err != nil {
		return u, fmt.Errorf("account: find: %w", err)
	}
	u.ID, u.CreatedAt = id.ID(uid), sqlite.Time(created)
	return u, nil
}

// ByEmail implements account.Store.
func (s *Store) ByEmail(ctx context.Context, email string) (account.User, error) {
	return s.find(ctx, `email = ?`, email)
}

// ByID implements account.Store.
func (s *Store) ByID(ctx context.Context, user id.ID) (account.User, error) {
	return s.find(ctx, `id = ?`, user[:])
}

// Emails implements account.Store.
func (s *Store) Emails(ctx context.Context, users []id.ID) (map[id.ID]string, error) {
	out := make(map[id.ID]string, len(users))
	for _, user := range users {
		u, err := s.ByID(ctx, user)
		if errors.Is(err, account.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[user] = u.Email
	}
	return out, nil
}

func insert(ctx context.Context, tx *sql.Tx, r account.Refresh) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO refresh (hash, family, account, expires_at) VALUES (?,?,?,?)`,
		r.Hash[:], r.Family[:], r.User[:], sqlite.Micros(r.ExpiresAt))
	return err
}

// Grant implements account.Store.
func (s *Store) Grant(ctx context.Context, r account.Refresh) error {
	if err := s.db.Tx(ctx, func(tx *sql.Tx) error { return insert(ctx, tx, r) }); err != nil {
		return fmt.Errorf("account: grant: %w", err)
	}
	return nil
}

// Rotate implements account.Store.
func (s *Store) Rotate(ctx context.Context, used [32]byte, next account.Refresh, now time.Time) (account.Refresh, error) {
	var verdict error
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		var family, user []byte
		var expires int64
		var spent, revoked bool
		err := tx.QueryRowContext(ctx, `SELECT family, account, expires_at, used, revoked FROM refresh WHERE hash = ?`, used[:]).
			Scan(&family, &user, &expires, &spent, &revoked)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			verdict = account.ErrTokenInvalid
			return nil
		case err != nil:
			return err
		case spent:
			verdict = account.ErrRefreshReused // the revocation is committed
			_, err := tx.ExecContext(ctx, `UPDATE refresh SET revoked = 1 WHERE family = ?`, family)
			return err
		case revoked, !now.Before(sqlite.Time(expires)):
			verdict = account.ErrTokenInvalid
			return nil
		}
		next.Family, next.User = id.ID(family), id.ID(user)
		if _, err := tx.ExecContext(ctx, `UPDATE refresh SET used = 1 WHERE hash = ?`, used[:]); err != nil {
			return err
		}
		return insert(ctx, tx, next)
	})
	if err != nil {
		return next, fmt.Errorf("account: rotate: %w", err)
	}
	return next, verdict
}
