package memstock_test

import (
	"flashsale/inventory/inventorytest"
	"flashsale/inventory/memstock"
	"testing"
)

func TestOrder(t *testing.T) {
	t.Parallel()
	inventorytest.ExerciseGateOrder(t, memstock.New(1))
}
