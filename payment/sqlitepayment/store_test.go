package sqlitepayment_test

import (
	"flashsale/database/sqlite"
	"flashsale/id"
	"flashsale/payment/paymenttest"
	"flashsale/payment/sqlitepayment"
	"path/filepath"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	t.Parallel()
	paymenttest.Exercise(t, func(t *testing.T) paymenttest.StoreUnderTest {
		db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "payment.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		if err := sqlite.Migrate(t.Context(), db, sqlitepayment.Migrations); err != nil {
			t.Fatal(err)
		}
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
