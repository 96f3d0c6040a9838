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
	inventorytest.ExerciseLedger(t, func(t *testing.T) inventorytest.LedgerUnderTest { return underTest(t, 0) })
}

func TestUnpaid(t *testing.T) {
	t.Parallel()
	inventorytest.ExerciseUnpaid(t, underTest)
}

func underTest(t *testing.T, mostUnpaid int) inventorytest.LedgerUnderTest {
	t.Helper()
	pool, err := postgres.Open(t.Context(), testenv.Postgres(t), 12, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if err := postgres.Migrate(t.Context(), pool, pgledger.Migrations); err != nil {
		t.Fatal(err)
	}
	l := pgledger.New(pool)
	l.LimitUnpaid(mostUnpaid)
	return inventorytest.LedgerUnderTest{
		Ledger: l,
		After:  time.Sleep, // the server's clock is everybody's
		Corrupt: func(t *testing.T, sql string) {
			if _, err := pool.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		},
	}
}
