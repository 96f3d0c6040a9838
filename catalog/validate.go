package catalog

import (
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Bounds of what operators and shoppers may ask.
const (
	MaxItems    = 1000
	MaxStock    = 10_000_000
	MaxQuery    = 100
	MaxPage     = 100
	DefaultPage = 20
)

// validText says what is wrong with a text of at most this many characters, or returns nil.
func validText(field, s string, least, most int) error {
	n := utf8.RuneCountInString(s)
	switch {
	case !utf8.ValidString(s):
		return invalid(field, "is not valid UTF-8")
	case n < least || n > most:
		return invalid(field, "has the wrong length: "+lengths(least, most))
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }):
		return invalid(field, "has control characters")
	}
	return nil
}

func lengths(least, most int) string {
	if least == 0 {
		return "at most " + number(most) + " characters"
	}
	return number(least) + " to " + number(most) + " characters"
}

func validSKU(s string) error {
	ok := len(s) >= 1 && len(s) <= 64
	for i := range len(s) {
		c := s[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-')
	}
	if !ok {
		return invalid("sku", "is 1 to 64 of the letters A-Z a-z, digits, and . _ -")
	}
	return nil
}

// Validate returns ErrInvalid with the first field that is wrong.
func (p Product) Validate() error {
	for _, err := range []error{
		validSKU(p.SKU), validText("name", p.Name, 1, 200), validText("description", p.Description, 0, 5000),
		validText("category", p.Category, 1, 64),
	} {
		if err != nil {
			return err
		}
	}
	if p.Price.Amount < 0 || p.Price.Validate() != nil {
		return invalid("price", "is an amount of 0 or more in minor units, and a currency such as EUR")
	}
	return nil
}

// Validate returns ErrInvalid with the first field that is wrong.
func (s Sale) Validate() error {
	if err := validText("name", s.Name, 1, 200); err != nil {
		return err
	}
	switch {
	case s.OpensAt.IsZero() || !s.OpensAt.Before(s.EndsAt):
		return invalid("ends_at", "comes after opens_at")
	case s.OpensAt.UTC().Year() < 2000 || s.EndsAt.UTC().Year() > 9999: // JSON has four digits for a year
		return invalid("opens_at", "and ends_at are in the years 2000 to 9999, UTC")
	case s.PerUserLimit < 0 || s.PerUserLimit > 1000:
		return invalid("per_user_limit", "is 0 (none) to 1000")
	case s.HoldFor < time.Second || s.HoldFor > 24*time.Hour:
		return invalid("hold_seconds", "is 1 to 86400")
	case len(s.Items) < 1 || len(s.Items) > MaxItems:
		return invalid("items", "has 1 to 1000 entries")
	}
	skus := map[string]bool{}
	for _, i := range s.Items {
		if err := validSKU(i.SKU); err != nil {
			return err
		}
		switch {
		case skus[i.SKU]:
			return invalid("items", "names the SKU "+i.SKU+" twice")
		case i.Stock < 1 || i.Stock > MaxStock:
			return invalid("stock", "is 1 to 10000000")
		case i.UnitPrice.Amount < 0 || i.UnitPrice.Amount > 1_000_000_000_000 || i.UnitPrice.Validate() != nil:
			return invalid("unit_price", "is an amount of 0 to 1000000000000 in minor units, and a currency such as EUR")
		}
		skus[i.SKU] = true
	}
	return nil
}

// Words splits a query into the lower-case words that are searched for: letters with their marks,
// and digits. However an accent is encoded, the word is the same.
func Words(q string) []string {
	words := strings.FieldsFunc(norm.NFC.String(strings.ToLower(q)), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r)
	})
	slices.Sort(words)
	return slices.Compact(words)
}

// SearchText is what the words of a search are looked for in: lower-case words with a space before
// each. A word matches as the prefix of one of them.
func (p Product) SearchText() string {
	return " " + strings.Join(Words(p.Name+" "+p.Description+" "+p.Category+" "+p.SKU), " ")
}
