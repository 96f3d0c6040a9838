// Package postgres opens PostgreSQL databases, keeps their schema, and holds the outbox that every
// service's PostgreSQL store shares.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/multitracer"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// ErrOutdated is returned when a database's schema is not the one this program was built for.
var ErrOutdated = errors.New("postgres: the schema is not up to date; run `flashsale migrate`")

// ErrUnsafe is returned when the server would lose acknowledged commits.
var ErrUnsafe = errors.New("postgres: unsafe server settings")

// How long the other end may be silent.
const (
	pingBound    = 2 * time.Second
	connectBound = 5 * time.Second
	idleBound    = "5s" // within a transaction: they are all of statements that follow each other at once
)

// Open connects to the database of the URL, trying for up to patience, and returns a pool of at
// most conns connections. The tracers are told of connections and statements.
func Open(ctx context.Context, url string, conns int32, patience time.Duration, tracers ...pgx.QueryTracer) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("postgres: the database URL is not valid (want postgres://user:password@host:port/database): %w", err)
	}
	cfg.MaxConns = conns
	// The server keeps the plan of a statement that was first run on an empty table: it would read the
	// whole table for every group of a sale, until the next analyze. A scan that must be is still made.
	cfg.ConnConfig.RuntimeParams["enable_seqscan"] = "off"
	// Planning a statement anew for its values costs more than running it, and with every scan an index scan
	// finds nothing better.
	cfg.ConnConfig.RuntimeParams["plan_cache_mode"] = "force_generic_plan"
	cfg.ConnConfig.RuntimeParams["jit"] = "off" // compiling an audit's queries takes longer than running them
	// A server, or a client, that is gone without a word: a connection that has been idle is tried before it is used,
	// connecting does not wait for ever, and the server ends a transaction whose client is silent, with its locks, for
	// which others wait. To a client that goes on after that it has failed, like one whose connection was lost.
	cfg.PingTimeout = pingBound
	if cfg.ConnConfig.ConnectTimeout <= 0 || cfg.ConnConfig.ConnectTimeout > connectBound {
		cfg.ConnConfig.ConnectTimeout = connectBound
	}
	if _, set := cfg.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"]; !set {
		cfg.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = idleBound
	}
	cfg.AfterConnect = func(_ context.Context, c *pgx.Conn) error {
		c.TypeMap().TryWrapEncodePlanFuncs = append([]pgtype.TryWrapEncodePlanFunc{planIDs}, c.TypeMap().TryWrapEncodePlanFuncs...)
		return nil
	}
	if len(tracers) > 0 {
		cfg.ConnConfig.Tracer = multitracer.New(tracers...)
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	wait := backoff.NewExponentialBackOff(backoff.WithInitialInterval(50*time.Millisecond), backoff.WithMaxElapsedTime(patience))
	if err := backoff.Retry(func() error { return pool.Ping(ctx) }, backoff.WithContext(wait, ctx)); err != nil {
		pool.Close()
		return nil, fmt.Errorf("postgres: no answer from %s:%d/%s in %s; is the server running? %w",
			cfg.ConnConfig.Host, cfg.ConnConfig.Port, cfg.ConnConfig.Database, patience, err)
	}
	return pool, nil
}

// turn makes those that migrate one database at the same time do so one after the other. The
// server ends the lock with the session, however that ends.
type turn struct{}

const turnKey = 0x666c617368 // any number that is always the same

// SessionLock implements goose's SessionLocker.
func (turn) SessionLock(ctx context.Context, c *sql.Conn) error {
	_, err := c.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, int64(turnKey))
	return err
}

// SessionUnlock implements goose's SessionLocker.
func (turn) SessionUnlock(ctx context.Context, c *sql.Conn) error {
	_, err := c.ExecContext(ctx, `SELECT pg_advisory_unlock($1)`, int64(turnKey))
	return err
}

// Migrate brings the schema to the newest of the migrations in files (goose, *.sql). Several may
// call it at the same time.
func Migrate(ctx context.Context, pool *pgxpool.Pool, files fs.FS) error {
	db := stdlib.OpenDBFromPool(pool)
	defer func() { _ = db.Close() }()
	p, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(turn{}))
	if err != nil {
		return fmt.Errorf("postgres: migrations: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("postgres: migrations: %w", err)
	}
	return nil
}

// CheckVersion returns ErrOutdated unless the schema is the newest of the migrations in files.
func CheckVersion(ctx context.Context, pool *pgxpool.Pool, files fs.FS) error {
	db := stdlib.OpenDBFromPool(pool)
	defer func() { _ = db.Close() }()
	p, err := goose.NewProvider(goose.DialectPostgres, db, files)
	if err != nil {
		return fmt.Errorf("postgres: migrations: %w", err)
	}
	sources := p.ListSources()
	want := sources[len(sources)-1].Version
	// Asked without goose: its GetDBVersion would create the version table, and a check changes nothing.
	var have int64
	err = pool.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&have)
	if err != nil && Code(err) != "42P01" { // undefined_table: never migrated
		return fmt.Errorf("postgres: schema version: %w", err)
	}
	if have != want {
		return fmt.Errorf("%w (database %s: version %d, wanted %d)", ErrOutdated, pool.Config().ConnConfig.Database, have, want)
	}
	return nil
}

// CheckSafe returns ErrUnsafe, with what to change, when the server does not keep what it has
// committed through a crash.
func CheckSafe(ctx context.Context, pool *pgxpool.Pool) error {
	for _, name := range []string{"fsync", "full_page_writes", "synchronous_commit"} {
		var value string
		if err := pool.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&value); err != nil {
			return fmt.Errorf("postgres: setting %s: %w", name, err)
		}
		if value == "off" {
			return fmt.Errorf("%w: %s is off, so a crash would lose acknowledged reservations; run ALTER SYSTEM SET %s = on and reload the server", ErrUnsafe, name, name)
		}
	}
	return nil
}

// Code returns the SQLSTATE of err, or "" when it is not an answer of the server.
func Code(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// Storable returns an error for a text that PostgreSQL refuses: one that is not UTF-8, or has a NUL. Ask before such a text
// joins a group: the others' transaction would fail with it.
func Storable(texts ...string) error {
	for _, t := range texts {
		if !utf8.ValidString(t) || strings.ContainsRune(t, 0) {
			return fmt.Errorf("text %.40q cannot be stored: it is not UTF-8, or has a NUL", t)
		}
	}
	return nil
}

// Constraint returns the constraint that err names, or "".
func Constraint(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.ConstraintName
	}
	return ""
}

// Away reports whether the server did not answer, is starting or stopping, or has ended a session that hung. What was
// asked for may have happened.
func Away(err error) bool {
	var connect *pgconn.ConnectError
	var network net.Error
	code := Code(err)
	return errors.As(err, &connect) || errors.As(err, &network) || pgconn.SafeToRetry(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		strings.HasPrefix(code, "57P") || strings.HasPrefix(code, "08") || code == "53300" || code == "25P03" // shutting down or starting; connection; too many; idle in a transaction
}

// Conflict reports whether the server gave up a transaction that can be run again: a deadlock or a
// serialization failure. Nothing of it happened.
func Conflict(err error) bool {
	c := Code(err)
	return c == "40P01" || c == "40001"
}
