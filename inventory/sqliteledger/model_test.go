package sqliteledger_test

import (
	"context"
	"flashsale/id"
	"flashsale/inventory/inventorytest"
	"flashsale/inventory/sqliteledger"
	"flashsale/testenv/databases"
	"sync/atomic"
	"testing"
	"time"
)

func TestModel(t *testing.T) {
	t.Parallel()
	db := databases.SQLite(t, sqliteledger.Migrations)
	var ahead atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	inventorytest.ExerciseLedgerModel(t, inventorytest.TimedLedger{
		Ledger: sqliteledger.New(db, clock),
		Now:    clock,
		Pass:   func(_ context.Context, _ id.ID, d time.Duration) error { ahead.Add(int64(d)); return nil },
	})
}
