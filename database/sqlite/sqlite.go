// Package sqlite opens SQLite files, keeps their schema, and holds the outbox that every service's
// SQLite store shares. It is the embedded default: one process, one writer, WAL, no cgo.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite" // registers the driver "sqlite"
	lib "modernc.org/sqlite/lib"
)

// DB is a SQLite file with one connection that writes and several that read.
type DB struct {
	Write *sql.DB // one connection: transactions on it are serial
	Read  *sql.DB // snapshots; never blocked by the writer
}

// Open opens or creates the file. Commits are synced to disk before they return.
func Open(ctx context.Context, path string) (*DB, error) {
	q := url.Values{}
	for _, p := range []string{"journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(10000)", "foreign_keys(ON)"} {
		q.Add("_pragma", p)
	}
	q.Set("_txlock", "immediate") // a transaction that will write takes the lock at once: no upgrade deadlock
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
	write, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %s: %w", path, err)
	}
	write.SetMaxOpenConns(1)
	if err := write.PingContext(ctx); err != nil {
		_ = write.Close()
		return nil, fmt.Errorf("sqlite: cannot open %s; is the folder there and writable? %w", path, err)
	}
	q.Set("_txlock", "deferred")
	q.Add("_pragma", "query_only(ON)")
	read, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		_ = write.Close()
		return nil, fmt.Errorf("sqlite: %s: %w", path, err)
	}
	read.SetMaxOpenConns(4)
	return &DB{Write: write, Read: read}, nil
}

// Close closes both sides.
func (db *DB) Close() error { return errors.Join(db.Read.Close(), db.Write.Close()) }

// Tx runs f in a transaction of the writer and commits unless f returns an error.
func (db *DB) Tx(ctx context.Context, f func(tx *sql.Tx) error) error {
	tx, err := db.Write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("sqlite: begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // no effect after Commit
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("sqlite: commit: %w", err)
	}
	return nil
}

// Migrate brings the schema to the newest of the migrations in files (goose, *.sql).
func Migrate(ctx context.Context, db *DB, files fs.FS) error {
	p, err := goose.NewProvider(goose.DialectSQLite3, db.Write, files)
	if err != nil {
		return fmt.Errorf("sqlite: migrations: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("sqlite: migrations: %w", err)
	}
	return nil
}

// Unique reports whether err says that a row with this key exists.
func Unique(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	return e.Code() == lib.SQLITE_CONSTRAINT_UNIQUE || e.Code() == lib.SQLITE_CONSTRAINT_PRIMARYKEY
}

// Micros is how times are stored: microseconds since 1970, UTC, as PostgreSQL keeps them. The
// zero time is 0.
func Micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// Time is the reverse of Micros.
func Time(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
