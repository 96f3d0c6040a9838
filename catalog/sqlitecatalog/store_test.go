package sqlitecatalog_test

import (
	"flashsale/catalog/catalogtest"
	"flashsale/catalog/sqlitecatalog"
	"flashsale/database/sqlite"
	"path/filepath"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	t.Parallel()
	catalogtest.ExerciseStore(t, func(t *testing.T) catalogtest.Store {
		db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalog.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		if err := sqlite.Migrate(t.Context(), db, sqlitecatalog.Migrations); err != nil {
			t.Fatal(err)
		}
		return sqlitecatalog.New(db, time.Now)
	})
}
