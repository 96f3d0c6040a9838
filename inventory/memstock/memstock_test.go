package memstock_test

import (
	"flashsale/inventory/inventorytest"
	"flashsale/inventory/memstock"
	"testing"
)

func TestGate(t *testing.T) {
	t.Parallel()
	inventorytest.ExerciseGate(t, func(*testing.T) inventorytest.Gate { return memstock.New(2) })
}
