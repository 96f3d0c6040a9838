package sqliteledger_test

import (
	"flashsale/inventory/inventorytest"
	"flashsale/inventory/sqliteledger"
	"flashsale/testenv/databases"
	"testing"
	"time"
)

func TestOrder(t *testing.T) {
	t.Parallel()
	inventorytest.ExerciseLedgerOrder(t, sqliteledger.New(databases.SQLite(t, sqliteledger.Migrations), time.Now))
}
