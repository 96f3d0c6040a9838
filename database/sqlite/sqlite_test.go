package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"flashsale/database/sqlite"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	one = "-- +goose Up\nCREATE TABLE one (n integer PRIMARY KEY, name text UNIQUE, CHECK (n < 1000)) STRICT;\n-- +goose Down\nDROP TABLE one;\n"
	two = "-- +goose Up\nCREATE TABLE two (n integer REFERENCES one);\n-- +goose Down\nDROP TABLE two;\n"
	bad = "-- +goose Up\nCREATE TABLE three (n integer);\nCREATE TABLE one (n integer);\n-- +goose Down\nDROP TABLE three;\n"
)

func migrated(t *testing.T) *sqlite.DB {
	t.Helper()
	db := open(t, filepath.Join(t.TempDir(), "test.db"))
	must(t, sqlite.Migrate(t.Context(), db, migrations(one, two)))
	return db
}

func insert(ctx context.Context, tx *sql.Tx, n int) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO one (n) VALUES (?)`, n)
	return err
}

// count is how many rows a reader sees.
func count(t *testing.T, db *sqlite.DB) (n int) {
	t.Helper()
	must(t, db.Read.QueryRowContext(t.Context(), `SELECT count(*) FROM one`).Scan(&n))
	return n
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	db, ctx := open(t, filepath.Join(t.TempDir(), "test.db")), t.Context()
	tables := func() (n int) {
		must(t, db.Read.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('one', 'two', 'three')`).Scan(&n))
		return n
	}
	for range 2 {
		must(t, sqlite.Migrate(ctx, db, migrations(one)))
	}
	must(t, db.Tx(ctx, func(tx *sql.Tx) error { return insert(ctx, tx, 1) }))
	must(t, sqlite.Migrate(ctx, db, migrations(one, two)))
	if err := sqlite.Migrate(ctx, db, migrations(one, two, bad)); err == nil {
		t.Error("a migration that fails is no error")
	}
	if n := tables(); n != 2 || count(t, db) != 1 {
		t.Errorf("%d tables, %d rows after a migration that failed half-way", n, count(t, db))
	}
	must(t, sqlite.Migrate(ctx, db, migrations(one, two))) // and the file is as good as before
	if err := sqlite.Migrate(ctx, db, migrations()); err == nil {
		t.Error("no migrations at all is no error")
	}
}

func TestTx(t *testing.T) {
	t.Parallel()
	enough := errors.New("enough")
	for name, c := range map[string]struct {
		run  func(ctx context.Context, db *sqlite.DB) error
		want error
		rows int
	}{
		"commit": {func(ctx context.Context, db *sqlite.DB) error {
			return db.Tx(ctx, func(tx *sql.Tx) error { return errors.Join(insert(ctx, tx, 1), insert(ctx, tx, 2)) })
		}, nil, 2},
		"an error rolls back": {func(ctx context.Context, db *sqlite.DB) error {
			return db.Tx(ctx, func(tx *sql.Tx) error { return errors.Join(insert(ctx, tx, 1), enough) })
		}, enough, 0},
		"a panic rolls back": {func(ctx context.Context, db *sqlite.DB) (err error) {
			defer func() { err = recover().(error) }()
			return db.Tx(ctx, func(tx *sql.Tx) error { panic(errors.Join(insert(ctx, tx, 1), enough)) })
		}, enough, 0},
		"a context that ends within it": {func(ctx context.Context, db *sqlite.DB) error {
			ctx, cancel := context.WithCancel(ctx)
			return db.Tx(ctx, func(tx *sql.Tx) error {
				defer cancel()
				return insert(ctx, tx, 1)
			})
		}, context.Canceled, 0},
		"a context that has ended": {func(ctx context.Context, db *sqlite.DB) error {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return db.Tx(ctx, func(*sql.Tx) error { return enough })
		}, context.Canceled, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := migrated(t)
			wantErr(t, c.run(t.Context(), db), c.want)
			if n := count(t, db); n != c.rows {
				t.Fatalf("%d rows, want %d", n, c.rows)
			}
			must(t, db.Tx(t.Context(), func(tx *sql.Tx) error { return insert(t.Context(), tx, 100) })) // the writer is free again
			if n := count(t, db); n != c.rows+1 {
				t.Fatalf("%d rows, want %d", n, c.rows+1)
			}
		})
	}
}

// TestReaders see what is committed, are never blocked by the writer, and cannot write.
func TestReaders(t *testing.T) {
	t.Parallel()
	db, ctx := migrated(t), t.Context()
	must(t, db.Tx(ctx, func(tx *sql.Tx) error {
		must(t, insert(ctx, tx, 1))
		if n := count(t, db); n != 0 {
			t.Errorf("%d rows are seen before the commit", n)
		}
		return nil
	}))
	if n := count(t, db); n != 1 {
		t.Errorf("%d rows are seen after the commit", n)
	}
	if _, err := db.Read.ExecContext(ctx, `INSERT INTO one (n) VALUES (2)`); err == nil || !strings.Contains(err.Error(), "readonly") {
		t.Errorf("a reader writes: %v", err)
	}
}

// TestSerial: read-modify-write in transactions at the same time loses nothing, over two openings of a file.
func TestSerial(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "test.db")
	dbs := []*sqlite.DB{open(t, path), open(t, path)}
	must(t, sqlite.Migrate(t.Context(), dbs[0], migrations(one)))
	var wg sync.WaitGroup
	for n := range 40 {
		wg.Go(func() {
			err := dbs[n%2].Tx(t.Context(), func(tx *sql.Tx) error {
				var rows int
				if err := tx.QueryRowContext(t.Context(), `SELECT count(*) FROM one`).Scan(&rows); err != nil {
					return err
				}
				return insert(t.Context(), tx, rows)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := count(t, dbs[0]); n != 40 {
		t.Errorf("%d rows", n)
	}
	impatient, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate")
	must(t, err)
	t.Cleanup(func() { _ = impatient.Close() })
	must(t, dbs[0].Tx(t.Context(), func(*sql.Tx) error { // which has not written yet
		if tx, err := impatient.BeginTx(t.Context(), nil); err == nil {
			t.Error("two transactions that will write have begun")
			return tx.Rollback()
		}
		return nil
	}))
}

// TestSettings: what the promises rest on is set on every connection.
func TestSettings(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "10000"} {
		for side, c := range map[string]*sql.DB{"write": db.Write, "read": db.Read} {
			var got string
			must(t, c.QueryRowContext(t.Context(), `PRAGMA `+pragma).Scan(&got))
			if got != want {
				t.Errorf("%s of the %s side is %s, want %s", pragma, side, got, want)
			}
		}
	}
}

func TestUnique(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	exec := func(q string) error { _, err := db.Write.ExecContext(t.Context(), q); return err }
	must(t, exec(`INSERT INTO one VALUES (1, 'a')`))
	for q, want := range map[string]bool{
		`INSERT INTO one VALUES (1, 'b')`:    true,
		`INSERT INTO one VALUES (2, 'a')`:    true,
		`INSERT INTO one VALUES (2, 'b')`:    false,
		`INSERT INTO one VALUES (1000, 'c')`: false,
		`INSERT INTO two VALUES (77)`:        false,
		`INSERT INTO nothing VALUES (1)`:     false,
	} {
		if err := exec(q); sqlite.Unique(err) != want {
			t.Errorf("%s: %v is unique: %v", q, err, !want)
		}
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for _, name := range []string{"plain.db", "with space.db", "a?mode=memory.db", "50%25.db", "a#b.db", "ü+&=;:.db"} {
		db := open(t, filepath.Join(folder, name))
		must(t, sqlite.Migrate(t.Context(), db, migrations(one)))
		must(t, db.Tx(t.Context(), func(tx *sql.Tx) error { return insert(t.Context(), tx, 1) }))
		if n := count(t, db); n != 1 { // both sides have the same file
			t.Errorf("%s: %d rows", name, n)
		}
		must(t, db.Close())
		if _, err := os.Stat(filepath.Join(folder, name)); err != nil {
			t.Errorf("%v", err)
		}
		if n := count(t, open(t, filepath.Join(folder, name))); n != 1 {
			t.Errorf("%s: %d rows when it is opened again", name, n)
		}
	}
	_, err := sqlite.Open(t.Context(), filepath.Join(folder, "missing", "x.db"))
	if err == nil || !strings.Contains(err.Error(), "is the folder there and writable?") {
		t.Errorf("%v", err)
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 10, 0, 0, 123456789, time.FixedZone("CET", 3600))
	for _, c := range []struct {
		in, want time.Time
	}{
		{at, time.Date(2026, 11, 21, 9, 0, 0, 123456000, time.UTC)},
		{time.Time{}, time.Time{}},
		{time.Date(1969, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(1969, 12, 31, 23, 59, 59, 0, time.UTC)},
	} {
		if got := sqlite.Time(sqlite.Micros(c.in)); got != c.want {
			t.Errorf("%s is kept as %s, want %s", c.in, got, c.want)
		}
	}
}
