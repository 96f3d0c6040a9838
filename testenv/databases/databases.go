// Package databases opens databases of a test's own with the schema that it names.
package databases

import (
	"flashsale/database/postgres"
	"flashsale/database/sqlite"
	"flashsale/testenv"
	"io/fs"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Postgres returns a database of the test's own in which the migrations have been made. settings are the server's, for
// its sessions: name=value.
func Postgres(t testing.TB, migrations fs.FS, settings ...string) *pgxpool.Pool {
	t.Helper()
	u, err := url.Parse(testenv.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		query.Set(name, value)
	}
	u.RawQuery = query.Encode()
	pool, err := postgres.Open(t.Context(), u.String(), 12, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if err := postgres.Migrate(t.Context(), pool, migrations); err != nil {
		t.Fatal(err)
	}
	return pool
}

// SQLite returns a file of the test's own in which the migrations have been made.
func SQLite(t testing.TB, migrations fs.FS) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := sqlite.Migrate(t.Context(), db, migrations); err != nil {
		t.Fatal(err)
	}
	return db
}
