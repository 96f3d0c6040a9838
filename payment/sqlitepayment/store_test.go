package sqlitepayment_test

import (
	"flashsale/id"
	"flashsale/payment/paymenttest"
	"flashsale/payment/sqlitepayment"
	"flashsale/testenv/databases"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	t.Parallel()
	paymenttest.Exercise(t, func(t *testing.T) paymenttest.StoreUnderTest {
		db := databases.SQLite(t, sqlitepayment.Migrations)
		exec := func(t *testing.T, sql string, args ...any) {
			t.Helper()
			if _, err := db.Write.ExecContext(t.Context(), sql, args...); err != nil {
				t.Fatal(err)
			}
		}
		return paymenttest.StoreUnderTest{
			Store: sqlitepayment.New(db, time.Now),
			Backdate: func(t *testing.T, p id.ID, d time.Duration) {
				exec(t, `UPDATE payment SET created_at = created_at - ?2, updated_at = updated_at - ?2 WHERE id = ?1`, p[:], d.Microseconds())
			},
			Corrupt: func(t *testing.T, sql string) { exec(t, sql) },
		}
	})
}
