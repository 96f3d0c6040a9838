package sqliteaccount_test

import (
	"flashsale/account"
	"flashsale/account/accounttest"
	"flashsale/account/sqliteaccount"
	"flashsale/database/sqlite"
	"path/filepath"
	"testing"
)

func TestStore(t *testing.T) {
	t.Parallel()
	accounttest.ExerciseStore(t, func(t *testing.T) account.Store {
		db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "account.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		if err := sqlite.Migrate(t.Context(), db, sqliteaccount.Migrations); err != nil {
			t.Fatal(err)
		}
		return sqliteaccount.New(db)
	})
}
