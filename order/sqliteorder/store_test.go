package sqliteorder_test

import (
	"flashsale/order/ordertest"
	"flashsale/order/sqliteorder"
	"flashsale/testenv/databases"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	t.Parallel()
	ordertest.Exercise(t, func(t *testing.T) ordertest.StoreUnderTest {
		db := databases.SQLite(t, sqliteorder.Migrations)
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
