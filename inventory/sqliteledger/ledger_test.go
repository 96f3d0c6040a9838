package sqliteledger_test

import (
	"flashsale/database/sqlite"
	"flashsale/inventory/inventorytest"
	"flashsale/inventory/sqliteledger"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

func TestLedger(t *testing.T) {
	t.Parallel()
	inventorytest.ExerciseLedger(t, func(t *testing.T) inventorytest.LedgerUnderTest {
		db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "inventory.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		if err := sqlite.Migrate(t.Context(), db, sqliteledger.Migrations); err != nil {
			t.Fatal(err)
		}
		var ahead atomic.Int64
		clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		return inventorytest.LedgerUnderTest{
			Ledger: sqliteledger.New(db, clock),
			After:  func(d time.Duration) { ahead.Add(int64(d)) },
			Corrupt: func(t *testing.T, sql string) {
				if _, err := db.Write.ExecContext(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}
