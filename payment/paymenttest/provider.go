package paymenttest

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/money"
	"flashsale/payment"
	"fmt"
	"sync"
	"testing"
)

// ProviderUnderTest is a provider on a fresh account, and means of payment of a known fate.
type ProviderUnderTest struct {
	payment.Provider
	OK        string
	Decline   string
	Timeout   string // never answered, nothing captured
	LostReply string // captured, never answered
}

// ExerciseProvider runs the suite; open returns an account without charges.
func ExerciseProvider(t *testing.T, open func(t *testing.T) ProviderUnderTest) {
	t.Helper()
	// Each test returns what the account must hold in the end: captured minus refunded.
	for name, test := range map[string]func(*testing.T, *account) int64{
		"a charge moves money once":            providerCharge,
		"amounts are exact":                    providerAmounts,
		"a decline stays one":                  providerDecline,
		"no answer, nothing captured":          providerTimeout,
		"captured, and no answer":              providerLostReply,
		"a void is for good":                   providerVoid,
		"a refund gives back once":             providerRefund,
		"who does not wait does not know":      providerImpatient,
		"a charge against a void, one of them": providerCrowd,
		"the statement has every charge":       providerStatement,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := &account{ProviderUnderTest: open(t), t: t}
			want := test(t, a)
			var net int64
			for _, c := range a.statement() {
				if c.Refunded && !c.Captured {
					t.Errorf("given back without having been taken: %+v", c)
				}
				if c.Captured {
					net += c.Amount.Amount
				}
				if c.Refunded {
					net -= c.Amount.Amount
				}
			}
			if net != want {
				t.Errorf("captured minus refunded is %d, want %d", net, want)
			}
		})
	}
}

// account is a provider, and words for what the suite does to it.
type account struct {
	ProviderUnderTest
	t *testing.T
	n int
}

func (a *account) key() id.ID {
	a.n++
	return id.Derive("payment", fmt.Sprint(a.n))
}

// statement returns the charges by key, each of which is in the statement once.
func (a *account) statement() map[id.ID]payment.Charge {
	a.t.Helper()
	all := map[id.ID]payment.Charge{}
	must(a.t, a.Statement(a.t.Context(), func(c payment.Charge) error {
		if _, twice := all[c.Key]; twice {
			a.t.Errorf("%s is in the statement twice", c.Key)
		}
		all[c.Key] = c
		return nil
	}))
	return all
}

func (a *account) captured(amount int64, method string) payment.Charge {
	a.t.Helper()
	key := a.key()
	c, err := a.Charge(a.t.Context(), key, euros(amount), method)
	must(a.t, err)
	if want := (payment.Charge{Key: key, Ref: c.Ref, Amount: euros(amount), Captured: true}); c != want || c.Ref == "" {
		a.t.Fatalf("charge %+v\nwant   %+v", c, want)
	}
	a.wantCharge(c)
	return c
}

func (a *account) wantCharge(want payment.Charge) {
	a.t.Helper()
	if got, err := a.Lookup(a.t.Context(), want.Key); err != nil || got != want {
		a.t.Fatalf("looked up %+v, %v\nwant %+v", got, err, want)
	}
}

func providerCharge(t *testing.T, a *account) int64 {
	c, other := a.captured(700, a.OK), a.captured(50, a.OK)
	if c.Ref == other.Ref {
		t.Fatalf("two charges have the reference %q", c.Ref)
	}
	for _, method := range []string{a.OK, a.Decline, a.Timeout, a.LostReply} { // the key decides, not what is asked now
		if got, err := a.Charge(t.Context(), c.Key, euros(1), method); err != nil || got != c {
			t.Fatalf("again by %s: %+v, %v\nwant %+v", method, got, err, c)
		}
	}
	a.wantCharge(c)
	return 750
}

func providerAmounts(t *testing.T, a *account) int64 {
	var sum int64
	for _, m := range []money.Money{euros(1), euros(1<<53 + 1), {Amount: 1200, Currency: "JPY"}} {
		c, err := a.Charge(t.Context(), a.key(), m, a.OK)
		if err != nil || c.Amount != m {
			t.Fatalf("%+v, %v", c, err)
		}
		a.wantCharge(c)
		sum += m.Amount
	}
	return sum
}

func providerDecline(t *testing.T, a *account) int64 {
	key := a.key()
	first, err := a.Charge(t.Context(), key, euros(700), a.Decline)
	wantErr(t, err, payment.ErrDeclined)
	if first.Key != key || first.Captured || first.Reason == "" {
		t.Fatalf("declined %+v", first)
	}
	for _, method := range []string{a.Decline, a.OK} {
		c, err := a.Charge(t.Context(), key, euros(700), method)
		wantErr(t, err, payment.ErrDeclined)
		if c != first {
			t.Fatalf("again by %s: %+v\nwant %+v", method, c, first)
		}
	}
	a.wantCharge(first)
	_, err = a.Refund(t.Context(), key)
	wantErr(t, err, payment.ErrNoCharge)
	if c, err := a.Void(t.Context(), key); err != nil || c != first {
		t.Fatalf("voided %+v, %v", c, err)
	}
	return 0
}

func providerTimeout(t *testing.T, a *account) int64 {
	key := a.key()
	for range 2 {
		_, err := a.Charge(t.Context(), key, euros(700), a.Timeout)
		wantErr(t, err, payment.ErrUnknown)
		_, err = a.Lookup(t.Context(), key)
		wantErr(t, err, payment.ErrNoCharge)
	}
	_, err := a.Refund(t.Context(), key)
	wantErr(t, err, payment.ErrNoCharge)
	_, err = a.Void(t.Context(), key)
	must(t, err)
	_, err = a.Charge(t.Context(), key, euros(700), a.Timeout)
	wantErr(t, err, payment.ErrDeclined)
	return 0
}

func providerLostReply(t *testing.T, a *account) int64 {
	asked, voided, retried := a.key(), a.key(), a.key()
	for _, key := range []id.ID{asked, voided, retried} {
		c, err := a.Charge(t.Context(), key, euros(700), a.LostReply)
		wantErr(t, err, payment.ErrUnknown)
		if c != (payment.Charge{}) {
			t.Fatalf("an answer that was lost: %+v", c)
		}
	}
	known, err := a.Lookup(t.Context(), asked)
	if err != nil || !known.Captured || known.Amount != euros(700) || known.Refunded {
		t.Fatalf("looked up %+v, %v", known, err)
	}
	known, err = a.Void(t.Context(), voided)
	wantErr(t, err, payment.ErrCaptured)
	if !known.Captured || known.Key != voided || known.Amount != euros(700) {
		t.Fatalf("voided %+v", known)
	}
	known, err = a.Charge(t.Context(), retried, euros(700), a.LostReply)
	if err != nil || !known.Captured || known.Amount != euros(700) {
		t.Fatalf("retried %+v, %v", known, err)
	}
	_, err = a.Refund(t.Context(), voided)
	must(t, err)
	return 1400
}

func providerVoid(t *testing.T, a *account) int64 {
	key, taken := a.key(), a.captured(300, a.OK)
	first, err := a.Void(t.Context(), key)
	if err != nil || first.Key != key || first.Captured || first.Refunded || first.Reason == "" {
		t.Fatalf("voided %+v, %v", first, err)
	}
	if again, err := a.Void(t.Context(), key); err != nil || again != first {
		t.Fatalf("again %+v, %v", again, err)
	}
	for _, method := range []string{a.OK, a.LostReply} {
		c, err := a.Charge(t.Context(), key, euros(700), method)
		wantErr(t, err, payment.ErrDeclined)
		if c != first {
			t.Fatalf("charged after the void: %+v", c)
		}
	}
	_, err = a.Refund(t.Context(), key)
	wantErr(t, err, payment.ErrNoCharge)
	c, err := a.Void(t.Context(), taken.Key)
	wantErr(t, err, payment.ErrCaptured)
	if c != taken {
		t.Fatalf("void of what was captured: %+v\nwant %+v", c, taken)
	}
	a.wantCharge(taken)
	return 300
}

func providerRefund(t *testing.T, a *account) int64 {
	c, kept := a.captured(700, a.OK), a.captured(300, a.OK)
	c.Refunded = true
	for range 3 {
		if got, err := a.Refund(t.Context(), c.Key); err != nil || got != c {
			t.Fatalf("refunded %+v, %v\nwant %+v", got, err, c)
		}
	}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if _, err := a.Refund(t.Context(), c.Key); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	a.wantCharge(c)
	if got, err := a.Charge(t.Context(), c.Key, euros(700), a.OK); err != nil || got != c { // not charged anew
		t.Fatalf("charged again %+v, %v\nwant %+v", got, err, c)
	}
	got, err := a.Void(t.Context(), c.Key)
	wantErr(t, err, payment.ErrCaptured)
	if got != c {
		t.Fatalf("voided %+v", got)
	}
	a.wantCharge(kept)
	_, err = a.Refund(t.Context(), a.key())
	wantErr(t, err, payment.ErrNoCharge)
	return 300
}

func providerImpatient(t *testing.T, a *account) int64 {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	taken, key := a.captured(300, a.OK), a.key()
	for what, call := range map[string]func() error{
		"charge": func() error { _, err := a.Charge(gone, key, euros(700), a.OK); return err },
		"lookup": func() error { _, err := a.Lookup(gone, taken.Key); return err },
		"void":   func() error { _, err := a.Void(gone, key); return err },
		"refund": func() error { _, err := a.Refund(gone, taken.Key); return err },
	} {
		if err := call(); !errors.Is(err, payment.ErrUnknown) {
			t.Errorf("%s: %v, want %v", what, err, payment.ErrUnknown)
		}
	}
	if a.Statement(gone, func(payment.Charge) error { return nil }) == nil {
		t.Error("a statement of nothing, without an error")
	}
	// Unknown may be either; asking again with the key gives the one outcome.
	c, err := a.Charge(t.Context(), key, euros(700), a.OK)
	if err != nil && !errors.Is(err, payment.ErrDeclined) {
		t.Fatal(err)
	}
	a.wantCharge(c)
	var net int64
	for _, k := range []id.ID{key, taken.Key} {
		if c, err := a.Lookup(t.Context(), k); err == nil && c.Captured && !c.Refunded {
			net += c.Amount.Amount
		}
	}
	return net
}

// providerCrowd: charges and voids of one key at the same time agree on what happened.
func providerCrowd(t *testing.T, a *account) int64 {
	var net int64
	for range 5 {
		key := a.key()
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for w := range errs {
			wg.Go(func() {
				if w%2 == 0 {
					_, errs[w] = a.Charge(t.Context(), key, euros(100), a.OK)
				} else {
					_, errs[w] = a.Void(t.Context(), key)
				}
			})
		}
		wg.Wait()
		c, err := a.Lookup(t.Context(), key)
		must(t, err)
		want := [2]error{payment.ErrDeclined, nil} // of the charges, of the voids
		if c.Captured {
			want = [2]error{nil, payment.ErrCaptured}
			net += 100
		}
		for w, err := range errs {
			if !errors.Is(err, want[w%2]) {
				t.Errorf("caller %d of %+v: %v, want %v", w, c, err, want[w%2])
			}
		}
	}
	return net
}

func providerStatement(t *testing.T, a *account) int64 {
	if all := a.statement(); len(all) != 0 {
		t.Fatalf("a new account has charges: %+v", all)
	}
	back := a.captured(700, a.OK)
	_, err := a.Refund(t.Context(), back.Key)
	must(t, err)
	keys := []id.ID{a.captured(300, a.OK).Key, back.Key}
	for _, method := range []string{a.Decline, a.LostReply} {
		keys = append(keys, a.key())
		if _, err := a.Charge(t.Context(), keys[len(keys)-1], euros(200), method); err == nil {
			t.Fatal("charged by", method)
		}
	}
	all := a.statement()
	for _, key := range keys {
		a.wantCharge(all[key])
	}
	if len(all) != len(keys) {
		t.Fatalf("%d charges, want %d", len(all), len(keys))
	}
	stop, calls := errors.New("enough"), 0
	wantErr(t, a.Statement(t.Context(), func(payment.Charge) error { calls++; return stop }), stop)
	if calls != 1 {
		t.Fatalf("called %d times after the error", calls-1)
	}
	return 500
}
