package memstock_test

import (
	"testing"

	"flashsale/inventory/inventorytest"
	"flashsale/inventory/memstock"
)

func TestGate(t *testing.T) {
	t.Parallel()
	inventorytest.ExerciseGate(t, func(*testing.T) inventorytest.Gate { return memstock.New(2) })
}
