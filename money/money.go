// Package money holds amounts: an integer of minor units and an ISO 4217 currency.
package money

import (
	"errors"
	"fmt"
	"math"
)

// Money is an amount in minor units (cents of EUR, yen of JPY) of an ISO 4217 currency.
type Money struct {
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
}

// Errors of arithmetic and validation.
var (
	ErrOverflow = errors.New("money: the amount does not fit 64 bits")
	ErrCurrency = errors.New("money: a currency is three capital letters (ISO 4217), such as EUR")
	ErrMixed    = errors.New("money: amounts of different currencies cannot be added")
)

// Validate returns ErrCurrency when the currency is not three capital letters.
func (m Money) Validate() error {
	if len(m.Currency) != 3 {
		return ErrCurrency
	}
	for i := range 3 {
		if m.Currency[i] < 'A' || m.Currency[i] > 'Z' {
			return ErrCurrency
		}
	}
	return nil
}

// Times returns the amount n times. It returns ErrOverflow rather than wrap round.
func (m Money) Times(n int64) (Money, error) {
	product := m.Amount * n
	if n != 0 && (product/n != m.Amount || n == -1 && m.Amount == math.MinInt64) { // the quotient of that pair wraps too
		return Money{}, ErrOverflow
	}
	return Money{Amount: product, Currency: m.Currency}, nil
}

// Plus returns the sum. It returns ErrMixed or ErrOverflow; the zero Money adds to anything.
func (m Money) Plus(o Money) (Money, error) {
	switch {
	case m == Money{}:
		return o, nil
	case o == Money{}:
		return m, nil
	case m.Currency != o.Currency:
		return Money{}, ErrMixed
	case o.Amount > 0 && m.Amount > math.MaxInt64-o.Amount, o.Amount < 0 && m.Amount < math.MinInt64-o.Amount:
		return Money{}, ErrOverflow
	}
	return Money{Amount: m.Amount + o.Amount, Currency: m.Currency}, nil
}

// String returns the minor units and the currency, for logs and terminals.
func (m Money) String() string { return fmt.Sprintf("%d %s", m.Amount, m.Currency) }
