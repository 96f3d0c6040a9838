package main

import (
	"io"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestEcho(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]struct {
		status int
		body   string
	}{
		`{"sale_id":"a","sku":"b","quantity":1}`: {201, `{"sale_id":"a","sku":"b","quantity":1}`},
		`{"quantity":2, "sku":"b"}`:              {201, `{"sale_id":"","sku":"b","quantity":2}`},
		`{"sale_id":"a","price":1}`:              {400, "Bad Request"},
		`{"sale_id":`:                            {400, "Bad Request"},
	} {
		resp, err := app().Test(httptest.NewRequestWithContext(t.Context(), "POST", "/api/v1/reservations", strings.NewReader(body)))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if cerr := resp.Body.Close(); err == nil {
			err = cerr
		}
		if err != nil || resp.StatusCode != want.status || string(b) != want.body {
			t.Errorf("%s: %d %s, %v; want %d %s", body, resp.StatusCode, b, err, want.status, want.body)
		}
	}
}
