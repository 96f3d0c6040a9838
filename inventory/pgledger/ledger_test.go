package pgledger_test

import (
	"flashsale/inventory/inventorytest"
	"flashsale/inventory/pgledger"
	"flashsale/testenv/databases"
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
	pool := databases.Postgres(t, pgledger.Migrations)
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
