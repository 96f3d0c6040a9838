package inventory

import (
	"context"
	"flashsale/id"
	"flashsale/reservation"
	"time"
)

// Step is an entry of the journal as a service that follows the ledger reads it: a reservation has
// reached a state, or, with an empty state, only stock has moved. Paying moves no stock, so it is no step.
type Step struct {
	N           int64             `json:"n"`
	Reservation id.ID             `json:"reservation"`
	State       reservation.State `json:"state,omitempty"`
}

// History is the ledger as its followers see it, behind the events.
type History interface {
	// Steps returns up to limit steps numbered above after and older than age, in order. Age must be
	// longer than any of the ledger's transactions may take twice: numbers are given before the commit.
	Steps(ctx context.Context, after int64, age time.Duration, limit int) ([]Step, error)
	// Rows returns those of the reservations that are there, in any order.
	Rows(ctx context.Context, reservations []id.ID) ([]reservation.Reservation, error)
}

// Stepped returns the state that an entry of the journal of this kind says was reached, or "".
func Stepped(kind string) reservation.State {
	if kind == "hold" {
		return reservation.Held
	}
	_, to, _ := reservation.MoveKind(kind).Edge()
	return to
}
