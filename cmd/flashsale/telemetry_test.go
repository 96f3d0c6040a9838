package main

import (
	"errors"
	"flashsale/engine"
	"flashsale/httpapi"
	"flashsale/reservation"
	"testing"
)

// full has room for nobody.
type full struct{ httpapi.Reservations }

func (full) Come(int) engine.Turned { return engine.Turned{Away: true} }

// TestTurnedAwayIsCounted: who is turned away before anybody knows what he wants is in the figures of those who wanted to
// reserve.
func TestTurnedAwayIsCounted(t *testing.T) {
	t.Parallel()
	var counted []error
	r := reserving{full{}, func(_, _ bool, err error) { counted = append(counted, err) }}
	if !r.Come(3).Away || len(counted) != 1 || !errors.Is(counted[0], reservation.ErrOverloaded) {
		t.Errorf("counted: %v", counted)
	}
}
