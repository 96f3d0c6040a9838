package pgledger_test

import (
	"flashsale/database/postgres"
	"flashsale/inventory/inventorytest"
	"flashsale/inventory/pgledger"
	"flashsale/testenv"
	"testing"
	"time"
)

func TestLedger(t *testing.T) {
	t.Parallel()
	inventorytest.ExerciseLedger(t, func(t *testing.T) inventorytest.LedgerUnderTest {
		pool, err := postgres.Open(t.Context(), testenv.Postgres(t), 12, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		if err := postgres.Migrate(t.Context(), pool, pgledger.Migrations); err != nil {
			t.Fatal(err)
		}
		return inventorytest.LedgerUnderTest{
			Ledger: pgledger.New(pool),
			After:  time.Sleep, // the server's clock is everybody's
			Corrupt: func(t *testing.T, sql string) {
				if _, err := pool.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}
