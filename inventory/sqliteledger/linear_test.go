package sqliteledger_test

import (
	"flashsale/inventory/inventorytest"
	"flashsale/inventory/sqliteledger"
	"testing"
	"time"
)

func TestOrder(t *testing.T) {
	t.Parallel()
	inventorytest.ExerciseLedgerOrder(t, sqliteledger.New(fresh(t), time.Now))
}
