package sqliteledger_test

import (
	"flashsale/inventory/inventorytest"
	"flashsale/inventory/sqliteledger"
	"flashsale/testenv/databases"
	"sync/atomic"
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
	db := databases.SQLite(t, sqliteledger.Migrations)
	var ahead atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	l := sqliteledger.New(db, clock)
	l.LimitUnpaid(mostUnpaid)
	return inventorytest.LedgerUnderTest{
		Ledger: l,
		After:  func(d time.Duration) { ahead.Add(int64(d)) },
		Corrupt: func(t *testing.T, sql string) {
			if _, err := db.Write.ExecContext(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		},
	}
}
