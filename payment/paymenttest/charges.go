package paymenttest

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/payment"
	"fmt"
	"slices"
	"sync"
	"testing"
)

// Charges is what a simulated provider keeps its charges in: the method set of simprovider.Store.
type Charges interface {
	PutCharge(ctx context.Context, c payment.Charge) (payment.Charge, error)
	Charge(ctx context.Context, key id.ID) (payment.Charge, error)
	RefundCharge(ctx context.Context, key id.ID) error
	Charges(ctx context.Context, charge func(payment.Charge) error) error
}

// charge is a captured charge that no store has seen.
func (s *till) charge() payment.Charge {
	s.n++
	return payment.Charge{Key: id.Derive("charge", fmt.Sprint(s.n)), Ref: fmt.Sprint("ref-", s.n), Amount: euros(int64(s.n)), Captured: true}
}

func (s *till) wantCharges(want ...payment.Charge) {
	s.t.Helper()
	var got []payment.Charge
	must(s.t, s.Charges(s.t.Context(), func(c payment.Charge) error { got = append(got, c); return nil }))
	for _, list := range [][]payment.Charge{got, want} {
		slices.SortFunc(list, func(a, b payment.Charge) int { return slices.Compare(a.Key[:], b.Key[:]) })
	}
	if !slices.Equal(got, want) {
		s.t.Fatalf("charges %+v\nwant %+v", got, want)
	}
}

func chargesPut(t *testing.T, s *till) {
	captured, declined := s.charge(), s.charge()
	declined.Captured, declined.Reason = false, "card_declined"
	for _, c := range []payment.Charge{captured, declined} {
		other := s.charge()
		other.Key, other.Captured, other.Reason = c.Key, !c.Captured, "another"
		for _, put := range []payment.Charge{c, c, other} { // the first stays
			if got, err := s.PutCharge(t.Context(), put); err != nil || got != c {
				t.Fatalf("put %+v: %+v, %v", put, got, err)
			}
		}
		if got, err := s.Store.Charge(t.Context(), c.Key); err != nil || got != c {
			t.Fatalf("charge %+v, %v\nwant %+v", got, err, c)
		}
	}
	s.wantCharges(captured, declined)
	for range 2 {
		must(t, s.RefundCharge(t.Context(), captured.Key))
		must(t, s.RefundCharge(t.Context(), declined.Key)) // nothing was captured: nothing to give back
		must(t, s.RefundCharge(t.Context(), id.Derive("none")))
	}
	captured.Refunded = true
	s.wantCharges(captured, declined)
	if got, err := s.PutCharge(t.Context(), declined); err != nil || got != declined {
		t.Fatalf("%+v, %v", got, err)
	}
	stop, calls := errors.New("enough"), 0
	wantErr(t, s.Charges(t.Context(), func(payment.Charge) error { calls++; return stop }), stop)
	if calls != 1 {
		t.Fatalf("called %d times after the error", calls-1)
	}
}

func chargesCrowd(t *testing.T, s *till) {
	c := s.charge()
	answers := make([]payment.Charge, 8)
	var wg sync.WaitGroup
	for w := range answers {
		wg.Go(func() {
			mine := c
			mine.Ref, mine.Captured = fmt.Sprint(w), w%2 == 0
			var err error
			if answers[w], err = s.PutCharge(t.Context(), mine); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s.wantCharges(answers[0])
	for _, got := range answers {
		if got != answers[0] || got.Key != c.Key {
			t.Fatalf("two outcomes of one charge: %+v, %+v", got, answers[0])
		}
	}
}
