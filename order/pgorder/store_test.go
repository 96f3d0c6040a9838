package pgorder_test

import (
	"flashsale/database/postgres"
	"flashsale/order/ordertest"
	"flashsale/order/pgorder"
	"flashsale/testenv"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	t.Parallel()
	ordertest.Exercise(t, func(t *testing.T) ordertest.StoreUnderTest {
		pool, err := postgres.Open(t.Context(), testenv.Postgres(t), 12, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		if err := postgres.Migrate(t.Context(), pool, pgorder.Migrations); err != nil {
			t.Fatal(err)
		}
		return ordertest.StoreUnderTest{
			Store: pgorder.New(pool),
			Corrupt: func(t *testing.T, sql string) {
				if _, err := pool.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}
