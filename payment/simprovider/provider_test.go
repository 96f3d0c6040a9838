package simprovider_test

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/money"
	"flashsale/payment"
	"flashsale/payment/paymenttest"
	"flashsale/payment/pgpayment"
	"flashsale/payment/simprovider"
	"flashsale/payment/sqlitepayment"
	"flashsale/testenv/databases"
	"fmt"
	"math"
	"testing"
	"time"
)

func inPostgres(t *testing.T) simprovider.Store {
	t.Helper()
	pool := databases.Postgres(t, pgpayment.Migrations)
	store := pgpayment.New(pool)
	t.Cleanup(store.Close)
	return store
}

func inSQLite(t *testing.T) simprovider.Store {
	t.Helper()
	db := databases.SQLite(t, sqlitepayment.Migrations)
	return sqlitepayment.New(db, time.Now)
}

func noWait(ctx context.Context, _ time.Duration) error { return ctx.Err() }

func provider(t *testing.T, store simprovider.Store, f simprovider.Faults) *simprovider.Provider {
	t.Helper()
	p, err := simprovider.New(store, f, noWait)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestProvider(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]func(*testing.T) simprovider.Store{"postgres": inPostgres, "sqlite": inSQLite} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			paymenttest.ExerciseProvider(t, func(t *testing.T) paymenttest.ProviderUnderTest {
				return paymenttest.ProviderUnderTest{
					Provider: provider(t, store(t), simprovider.Faults{Decline: 1}), // the means of payment decides all the same
					OK:       simprovider.MethodOK, Decline: simprovider.MethodDecline,
					Timeout: simprovider.MethodTimeout, LostReply: simprovider.MethodLostReply,
				}
			})
		})
	}
}

// fate is what becomes of a charge by a means of payment that leaves it to the rates.
func fate(t *testing.T, p *simprovider.Provider, n int) string {
	t.Helper()
	key := id.Derive("payment", fmt.Sprint(n))
	_, err := p.Charge(t.Context(), key, money.Money{Amount: 1, Currency: "EUR"}, "tok_visa")
	c, found := p.Lookup(t.Context(), key)
	switch {
	case err == nil && found == nil && c.Captured:
		return "ok"
	case errors.Is(err, payment.ErrDeclined) && found == nil && !c.Captured:
		return "declined"
	case errors.Is(err, payment.ErrUnknown) && errors.Is(found, payment.ErrNoCharge):
		return "timeout"
	case errors.Is(err, payment.ErrUnknown) && found == nil && c.Captured:
		return "lost reply"
	}
	t.Fatalf("payment %d: %v, then %+v, %v", n, err, c, found)
	return ""
}

// TestRates: the shares are met, and seed and key alone decide.
func TestRates(t *testing.T) {
	t.Parallel()
	const n = 200
	f := simprovider.Faults{Decline: 0.2, Timeout: 0.3, LostReply: 0.1, Seed: 7}
	other := f
	other.Seed = 8
	p, twin, stranger := provider(t, inSQLite(t), f), provider(t, inSQLite(t), f), provider(t, inSQLite(t), other)
	got, differs := map[string]int{}, 0
	for i := range n {
		v := fate(t, p, i)
		got[v]++
		if w := fate(t, twin, i); w != v {
			t.Errorf("payment %d: %s, and with the same seed %s", i, v, w)
		}
		if fate(t, stranger, i) != v {
			differs++
		}
	}
	for what, share := range map[string]float64{"declined": 0.2, "timeout": 0.3, "lost reply": 0.1, "ok": 0.4} {
		if math.Abs(float64(got[what])/n-share) > 0.1 {
			t.Errorf("%s: %d of %d, want a share of %.1f", what, got[what], n, share)
		}
	}
	if differs < n/4 {
		t.Errorf("another seed changed %d fates of %d", differs, n)
	}
}

func TestRatesAtTheirEnds(t *testing.T) {
	t.Parallel()
	for what, f := range map[string]simprovider.Faults{
		"ok": {}, "declined": {Decline: 1}, "timeout": {Timeout: 1}, "lost reply": {LostReply: 1},
	} {
		p := provider(t, inSQLite(t), f)
		for i := range 20 {
			if v := fate(t, p, i); v != what {
				t.Errorf("%+v: payment %d: %s", f, i, v)
			}
		}
	}
}

func TestLatency(t *testing.T) {
	t.Parallel()
	const least, most = 20 * time.Millisecond, 80 * time.Millisecond
	for name, c := range map[string]struct {
		faults      simprovider.Faults
		least, most time.Duration
		several     bool
	}{
		"between":   {simprovider.Faults{MinLatency: least, MaxLatency: most}, least, most, true},
		"the same":  {simprovider.Faults{MinLatency: least, MaxLatency: least}, least, least, false},
		"the least": {simprovider.Faults{MinLatency: least}, least, least, false},
		"none":      {simprovider.Faults{}, 0, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var waited []time.Duration
			p, err := simprovider.New(inSQLite(t), c.faults, func(_ context.Context, d time.Duration) error {
				waited = append(waited, d)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			seen := map[time.Duration]bool{}
			for i := range 10 {
				for range 2 {
					if _, err := p.Charge(t.Context(), id.Derive(fmt.Sprint(i)), money.Money{Amount: 1, Currency: "EUR"}, simprovider.MethodOK); err != nil {
						t.Fatal(err)
					}
				}
				first, again := waited[2*i], waited[2*i+1]
				if first < c.least || first > c.most || again != first {
					t.Errorf("payment %d: waited %s, then %s", i, first, again)
				}
				seen[first] = true
			}
			if len(waited) != 20 || len(seen) > 1 != c.several {
				t.Errorf("waited %v", waited)
			}
		})
	}
}

func TestNewRefusesRatesThatAreNone(t *testing.T) {
	t.Parallel()
	for _, f := range []simprovider.Faults{
		{Decline: -0.1},
		{Timeout: 1.1},
		{LostReply: math.NaN()},
		{Decline: math.Inf(1)},
		{Decline: 0.5, Timeout: 0.4, LostReply: 0.2},
		{MinLatency: -1},
		{MaxLatency: -1},
	} {
		if p, err := simprovider.New(nil, f, noWait); !errors.Is(err, simprovider.ErrFaults) || p != nil {
			t.Errorf("%+v: %v, %v", f, p, err)
		}
	}
	if _, err := simprovider.New(nil, simprovider.Faults{Decline: 0.7, Timeout: 0.2, LostReply: 0.1}, noWait); err != nil {
		t.Errorf("all of them: %v", err) // 0.7 + 0.2 + 0.1 is not quite 1 in binary
	}
}

// TestPatienceEndsBeforeTheAnswer: whoever stops waiting knows nothing, and nothing was taken yet.
func TestPatienceEndsBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	p, err := simprovider.New(inSQLite(t), simprovider.Faults{MinLatency: time.Hour}, func(_ context.Context, d time.Duration) error {
		if d != time.Hour {
			t.Errorf("waits %s", d)
		}
		return context.DeadlineExceeded
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.Charge(t.Context(), id.Derive("payment"), money.Money{Amount: 1, Currency: "EUR"}, simprovider.MethodOK)
	if !errors.Is(err, payment.ErrUnknown) || c != (payment.Charge{}) {
		t.Errorf("charged %+v, %v", c, err)
	}
	if c, err = p.Lookup(t.Context(), id.Derive("payment")); !errors.Is(err, payment.ErrNoCharge) {
		t.Errorf("looked up %+v, %v", c, err)
	}
}
