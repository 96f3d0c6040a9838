package sqlite_test

import (
	"database/sql"
	"errors"
	"flashsale/database/databasetest"
	"flashsale/database/sqlite"
	"flashsale/transport"
	"io/fs"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"
)

const outboxTable = `-- +goose Up
CREATE TABLE outbox (
    id blob PRIMARY KEY, kind text NOT NULL, source text NOT NULL, subject blob NOT NULL,
    at integer NOT NULL, trace text NOT NULL, data blob NOT NULL,
    written_at integer NOT NULL, leased_until integer NOT NULL DEFAULT 0
);
CREATE INDEX outbox_written_at ON outbox (written_at);
-- +goose Down
DROP TABLE outbox;
`

// migrations are files numbered from 1.
func migrations(sqls ...string) fs.FS {
	files := fstest.MapFS{}
	for n, sql := range sqls {
		files["0000"+string(rune('1'+n))+"_step.sql"] = &fstest.MapFile{Data: []byte(sql)}
	}
	return files
}

func open(t *testing.T, path string) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path)
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error %v, want %v", got, want)
	}
}

func TestOutbox(t *testing.T) {
	t.Parallel()
	undo := errors.New("undo")
	databasetest.ExerciseOutbox(t, func(t *testing.T) databasetest.OutboxUnderTest {
		db := open(t, filepath.Join(t.TempDir(), "outbox.db"))
		must(t, sqlite.Migrate(t.Context(), db, migrations(outboxTable)))
		var ahead atomic.Int64
		clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		return databasetest.OutboxUnderTest{
			Outbox: sqlite.NewOutbox(db, clock),
			Enqueue: func(t *testing.T, commit bool, es ...transport.Envelope) {
				err := db.Tx(t.Context(), func(tx *sql.Tx) error {
					if err := sqlite.Enqueue(t.Context(), tx, clock(), es); err != nil || commit {
						return err
					}
					return undo
				})
				if commit || !errors.Is(err, undo) {
					must(t, err)
				}
			},
			After: func(_ *testing.T, d time.Duration) { ahead.Add(int64(d)) },
		}
	})
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	databasetest.ExercisePlaces(t, func(t *testing.T) transport.Places {
		db := open(t, filepath.Join(t.TempDir(), "places.db"))
		must(t, sqlite.Migrate(t.Context(), db, migrations(`-- +goose Up
CREATE TABLE place (sweep text PRIMARY KEY, upto integer NOT NULL, leased_until integer NOT NULL) WITHOUT ROWID;
`)))
		return sqlite.NewPlaces(db, time.Now)
	})
}
