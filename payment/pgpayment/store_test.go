package pgpayment_test

import (
	"flashsale/database/postgres"
	"flashsale/id"
	"flashsale/payment/paymenttest"
	"flashsale/payment/pgpayment"
	"flashsale/testenv"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	t.Parallel()
	paymenttest.Exercise(t, func(t *testing.T) paymenttest.StoreUnderTest {
		pool, err := postgres.Open(t.Context(), testenv.Postgres(t), 12, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		if err := postgres.Migrate(t.Context(), pool, pgpayment.Migrations); err != nil {
			t.Fatal(err)
		}
		exec := func(t *testing.T, sql string, args ...any) {
			t.Helper()
			if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
				t.Fatal(err)
			}
		}
		return paymenttest.StoreUnderTest{
			Store: pgpayment.New(pool),
			Backdate: func(t *testing.T, p id.ID, d time.Duration) {
				exec(t, `UPDATE payment SET created_at = created_at - make_interval(secs => $2), updated_at = updated_at - make_interval(secs => $2)
					WHERE id = $1`, p, d.Seconds())
			},
			Corrupt: func(t *testing.T, sql string) { exec(t, sql) },
		}
	})
}
