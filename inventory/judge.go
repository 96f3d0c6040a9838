package inventory

import (
	"flashsale/reservation"
	"time"
)

// Judge holds a move against the reservation as it is, by the ledger's clock. made says that the
// same cause has made the move before; otherwise verdict says why it cannot be made, or nil. Every
// ledger calls it under the lock of the reservation.
func (m Move) Judge(r reservation.Reservation, now time.Time) (verdict error, made bool) {
	from, to, ok := m.Kind.Edge()
	if !ok {
		return reservation.ErrIllegalMove, false
	}
	ofPayment := m.Kind == reservation.MovePay || m.Kind == reservation.MoveCapture ||
		m.Kind == reservation.MoveDecline || m.Kind == reservation.MoveRefund
	same := !ofPayment || r.Payment == m.Payment
	switch {
	case r.State == to && same:
		return nil, true
	case m.Kind == reservation.MovePay && same && !r.Payment.IsZero():
		return nil, true // this payment was begun, whatever it has come to since
	case m.Kind == reservation.MoveCapture && same && r.State == reservation.Refunded:
		return nil, true
	case (m.Kind == reservation.MovePay || m.Kind == reservation.MoveCancel) && r.State == reservation.Expired:
		return reservation.ErrExpired, false // the shopper's own moves: the hold ended since it was looked at
	case r.State != from, m.Kind != reservation.MovePay && !same:
		return reservation.ErrIllegalMove, false
	case m.Kind == reservation.MovePay && !now.Before(r.ExpiresAt):
		return reservation.ErrExpired, false
	case m.Kind == reservation.MoveExpire && now.Before(r.ExpiresAt):
		return reservation.ErrIllegalMove, false
	}
	return nil, false
}

// Apply returns the reservation after the move; it has been judged before.
func (m Move) Apply(r reservation.Reservation) reservation.Reservation {
	_, to, _ := m.Kind.Edge()
	r.State = to
	switch m.Kind {
	case reservation.MovePay:
		r.Payment = m.Payment
	case reservation.MoveDecline, reservation.MoveCancel, reservation.MoveExpire, reservation.MoveRefund:
		r.Reason = m.Reason
		if r.Reason == "" {
			r.Reason = string(to)
		}
	case reservation.MoveCapture:
	}
	return r
}

// Deltas returns how a unit's bucket changes by the move: held, sold, and whether the unit goes
// back with a credit.
func (m Move) Deltas() (held, sold int64, back bool) {
	switch m.Kind {
	case reservation.MoveCapture:
		return -1, 1, false
	case reservation.MoveDecline, reservation.MoveCancel, reservation.MoveExpire:
		return -1, 0, true
	case reservation.MoveRefund:
		return 0, -1, true
	case reservation.MovePay:
	}
	return 0, 0, false
}
