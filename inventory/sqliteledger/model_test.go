package sqliteledger_test

import (
	"context"
	"flashsale/database/sqlite"
	"flashsale/id"
	"flashsale/inventory/inventorytest"
	"flashsale/inventory/sqliteledger"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// fresh is a migrated file of the test's own.
func fresh(t *testing.T) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "inventory.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := sqlite.Migrate(t.Context(), db, sqliteledger.Migrations); err != nil {
		t.Fatal(err)
	}
	return db
}

func TestModel(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	var ahead atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	inventorytest.ExerciseLedgerModel(t, inventorytest.TimedLedger{
		Ledger: sqliteledger.New(db, clock),
		Now:    clock,
		Pass:   func(_ context.Context, _ id.ID, d time.Duration) error { ahead.Add(int64(d)); return nil },
	})
}
