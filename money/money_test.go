package money_test

import (
	"encoding/json"
	"errors"
	"flashsale/money"
	"math"
	"math/big"
	"testing"
)

func eur(amount int64) money.Money { return money.Money{Amount: amount, Currency: "EUR"} }

func TestValidate(t *testing.T) {
	t.Parallel()
	for currency, want := range map[string]error{
		"EUR": nil, "JPY": nil, "AAA": nil, "ZZZ": nil,
		"": money.ErrCurrency, "EU": money.ErrCurrency, "EURO": money.ErrCurrency, "eur": money.ErrCurrency, "EuR": money.ErrCurrency,
		"E1R": money.ErrCurrency, "E R": money.ErrCurrency, "€": money.ErrCurrency, "@AB": money.ErrCurrency, "[AB": money.ErrCurrency,
	} {
		if err := (money.Money{Amount: 1, Currency: currency}).Validate(); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", currency, err, want)
		}
	}
}

func TestPlusOfCurrencies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b, want money.Money
		err        error
	}{
		{eur(1), eur(2), eur(3), nil},
		{money.Money{}, eur(2), eur(2), nil},
		{eur(1), money.Money{}, eur(1), nil},
		{money.Money{}, money.Money{}, money.Money{}, nil},
		{eur(1), money.Money{Amount: 1, Currency: "USD"}, money.Money{}, money.ErrMixed},
		{eur(0), money.Money{Amount: 0, Currency: "USD"}, money.Money{}, money.ErrMixed},
		{eur(1), money.Money{Amount: 1}, money.Money{}, money.ErrMixed},
	} {
		if got, err := c.a.Plus(c.b); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s plus %s: %s, %v", c.a, c.b, got, err)
		}
	}
}

// exact holds an operation against integers without a bound: the sum or product, or ErrOverflow
// when, and only when, it does not fit 64 bits.
func exact(t *testing.T, what string, got money.Money, err error, want *big.Int) {
	t.Helper()
	switch {
	case !want.IsInt64():
		if !errors.Is(err, money.ErrOverflow) || got != (money.Money{}) {
			t.Errorf("%s: %s, %v; want overflow", what, got, err)
		}
	case err != nil || got != eur(want.Int64()):
		t.Errorf("%s: %s, %v; want %s", what, got, err, want)
	}
}

func check(t *testing.T, a, b int64) {
	t.Helper()
	x, y := big.NewInt(a), big.NewInt(b)
	product, err := eur(a).Times(b)
	exact(t, x.String()+" × "+y.String(), product, err, new(big.Int).Mul(x, y))
	sum, err := eur(a).Plus(eur(b))
	exact(t, x.String()+" + "+y.String(), sum, err, new(big.Int).Add(x, y))
}

func edges() []int64 {
	return []int64{
		0, 1, -1, 2, -2, 3, 990, -990, math.MaxInt32, math.MinInt32, 3037000499, 3037000500, -3037000500,
		math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 / 2, math.MaxInt64/2 + 1, math.MinInt64, math.MinInt64 + 1, math.MinInt64 / 2,
	}
}

func TestArithmetic(t *testing.T) {
	t.Parallel()
	for _, a := range edges() {
		for _, b := range edges() {
			check(t, a, b)
		}
	}
}

func FuzzArithmetic(f *testing.F) {
	f.Add(int64(math.MinInt64), int64(-1))
	f.Add(int64(3037000500), int64(3037000500))
	f.Fuzz(check)
}

func TestWire(t *testing.T) {
	t.Parallel()
	b, err := json.Marshal(eur(-990))
	if err != nil || string(b) != `{"amount":-990,"currency":"EUR"}` {
		t.Errorf("%s, %v", b, err)
	}
	if s := eur(990).String(); s != "990 EUR" {
		t.Errorf("%q", s)
	}
}
