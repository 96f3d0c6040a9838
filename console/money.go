package console

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// money is an amount in minor units of an ISO 4217 currency.
type money struct {
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
}

// digits returns how many decimal digits the minor unit of a currency has (ISO 4217, list one).
func digits(currency string) int {
	switch currency {
	case "BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF":
		return 0
	case "BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND":
		return 3
	case "CLF", "UYW":
		return 4
	}
	return 2
}

// String is the amount as people write it: 99.00 EUR.
func (m money) String() string {
	if m.Currency == "" {
		return "–"
	}
	return decimal(m.Amount, digits(m.Currency)) + " " + m.Currency
}

func decimal(amount int64, n int) string {
	sign, u := "", uint64(amount)
	if amount < 0 {
		sign, u = "-", -u
	}
	s := strconv.FormatUint(u, 10)
	if n == 0 {
		return sign + s
	}
	if len(s) <= n {
		s = strings.Repeat("0", n+1-len(s)) + s
	}
	return sign + s[:len(s)-n] + "." + s[len(s)-n:]
}

var errAmount = errors.New("console: an amount is a number such as 19.90, with no more digits than the currency has")

// parseAmount reads 19.90 as minor units with n digits. Nothing is rounded: a digit too many is errAmount.
func parseAmount(s string, n int) (int64, error) {
	whole, part, _ := strings.Cut(strings.TrimSpace(s), ".")
	if whole == "" || len(part) > n || strings.Trim(whole+part, "0123456789") != "" {
		return 0, errAmount
	}
	u, err := strconv.ParseUint(whole+part+strings.Repeat("0", n-len(part)), 10, 64)
	if err != nil || u > math.MaxInt64 {
		return 0, errAmount
	}
	return int64(u), nil
}

// parseMoney reads an amount and its currency from a form.
func parseMoney(amount, currency string) (money, error) {
	m := money{Currency: strings.ToUpper(strings.TrimSpace(currency))}
	var err error
	m.Amount, err = parseAmount(amount, digits(m.Currency))
	return m, err
}
