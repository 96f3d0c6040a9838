package sqliteorder_test

import (
	"flashsale/database/sqlite"
	"flashsale/order/ordertest"
	"flashsale/order/sqliteorder"
	"path/filepath"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	t.Parallel()
	ordertest.Exercise(t, func(t *testing.T) ordertest.StoreUnderTest {
		db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "order.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		if err := sqlite.Migrate(t.Context(), db, sqliteorder.Migrations); err != nil {
			t.Fatal(err)
		}
		return ordertest.StoreUnderTest{
			Store: sqliteorder.New(db, time.Now),
			Corrupt: func(t *testing.T, sql string) {
				if _, err := db.Write.ExecContext(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}
