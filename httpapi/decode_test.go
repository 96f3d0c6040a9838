package httpapi

import (
	"encoding/json"
	"errors"
	"flashsale/id"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func testAPI(t *testing.T) *API {
	t.Helper()
	return New(Config{
		Verify:  nil,
		Timeout: time.Second, MaxRequests: 4, Clock: time.Now, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
}

const goodSale = `"0192f0a0-0000-7000-8000-000000000001"`

func TestDecodeStrictly(t *testing.T) {
	t.Parallel()
	good := `{"sale_id":` + goodSale + `,"sku":"A","quantity":2}`
	v, err := decodeJSON[reserveBody]([]byte(good))
	if err != nil || v.Quantity != 2 || v.SKU != "A" || v.Sale.String() != strings.Trim(goodSale, `"`) {
		t.Fatalf("%+v, %v", v, err)
	}
	for name, body := range map[string]string{
		"empty":                     ``,
		"spaces only":               "  \n",
		"no object":                 `[]`,
		"a string":                  `"x"`,
		"cut off":                   good[:len(good)-1],
		"trailing object":           good + `{}`,
		"trailing text":             good + `x`,
		"duplicate field":           `{"sku":"A","sku":"B"}`,
		"unknown field":             `{"price":1}`,
		"unknown inside":            `{"unit_price":{"amount":1,"currency":"EUR","tax":2}}`,
		"field in capitals":         `{"SKU":"A"}`,
		"duplicate by another case": `{"sku":"A","Sku":"B"}`,
		"fraction":                  `{"quantity":1.5}`,
		"whole fraction":            `{"quantity":1.0}`,
		"exponent":                  `{"quantity":1e2}`,
		"a quoted number":           `{"quantity":"1"}`,
		"overflow":                  `{"quantity":9223372036854775808}`,
		"huge overflow":             `{"quantity":1e400}`,
		"minus zero is a fraction":  `{"quantity":-0.0}`,
		"leading zero":              `{"quantity":01}`,
		"hexadecimal":               `{"quantity":0x1}`,
		"not a number":              `{"quantity":NaN}`,
		"invalid UTF-8":             "{\"sku\":\"\xff\xfe\"}",
		"invalid UTF-8 in a name":   "{\"\xff\":1}",
		"half a surrogate":          `{"sku":"\ud800"}`,
		"control character":         "{\"sku\":\"a\x00\"}",
		"id in braces":              `{"sale_id":"{0192f0a0-0000-7000-8000-000000000001}"}`,
		"id too short":              `{"sale_id":"0192f0a0"}`,
		"id is a number":            `{"sale_id":1}`,
		"comment":                   `{/* */"sku":"A"}`,
		"byte order mark":           "\xef\xbb\xbf" + good,
		"single quotes":             `{'sku':'A'}`,
		"deep":                      strings.Repeat(`{"unit_price":`, 20_000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := decodeJSON[reserveBody]([]byte(body))
			var bad badBody
			if !errors.As(err, &bad) || bad.why == "" {
				t.Fatalf("%q decoded: %v", body, err)
			}
			if strings.Contains(bad.why, "httpapi") || strings.Contains(bad.why, "Go ") {
				t.Errorf("the reason speaks of the program: %q", bad.why)
			}
		})
	}
}

// FuzzDecode: what the strict decoder takes, the standard library takes too and reads the same.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"sale_id":` + goodSale + `,"sku":"A","quantity":2,"cart_id":` + goodSale + `,"unit_price":{"amount":1,"currency":"EUR"}}`,
		`{"sku":"\u00e9","quantity":-1}`, `null`, `{}`, `{"sku":"A","sku":"A"}`, `{"Sku":"A"}`, "{\"sku\":\"\xff\"}", `{"quantity":1e0}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		v, err := decodeJSON[reserveBody](body)
		if err != nil {
			return
		}
		var loose struct {
			Sale     id.ID  `json:"sale_id"`
			SKU      string `json:"sku"`
			Quantity int    `json:"quantity"`
		}
		if err := json.Unmarshal(body, &loose); err != nil {
			t.Fatalf("%q: taken, but the standard library says %v", body, err)
		}
		if loose.Sale != v.Sale || loose.SKU != v.SKU || loose.Quantity != v.Quantity {
			t.Fatalf("%q: %+v and %+v", body, v, loose)
		}
	})
}

func FuzzTraceParent(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("00-00000000000000000000000000000000-b7ad6b7169203331-01")
	f.Fuzz(func(t *testing.T, s string) {
		if got, ok := parseTraceParent(s); ok && (got != s || len(s) != 55 || strings.ContainsAny(s, "\r\n ") || s[3:35] == strings.Repeat("0", 32)) {
			t.Fatalf("%q is taken as %q", s, got)
		}
	})
}
