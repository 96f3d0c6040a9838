package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// person speaks the API, with or without a token.
type person struct {
	t      *testing.T
	client *http.Client
	base   string
	token  string
	tag    string // tells apart the shoppers of tests that share a house
}

// said is an answer, read.
type said struct {
	status int
	header http.Header
	body   map[string]any
}

// kind is the last part of the problem's type, or empty.
func (s said) kind() string {
	t, _ := s.body["type"].(string)
	return strings.TrimPrefix(t, "/problems/")
}

func (s said) text(name string) string {
	v, _ := s.body[name].(string)
	return v
}

// do sends a request. A string or []byte is sent as it is, anything else as JSON.
func (p person) do(method, path string, body any, header ...string) said {
	p.t.Helper()
	var payload io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		payload = strings.NewReader(b)
	default:
		j, err := json.Marshal(b)
		if err != nil {
			p.t.Fatal(err)
		}
		payload = bytes.NewReader(j)
	}
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.base+path, payload)
	if err != nil {
		p.t.Fatal(err)
	}
	if payload != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header[http.CanonicalHeaderKey(header[i])] = []string{header[i+1]}
	}
	resp, err := p.client.Do(req)
	if err != nil {
		p.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	s := said{status: resp.StatusCode, header: resp.Header}
	_ = json.Unmarshal(b, &s.body) // an answer that is not JSON has an empty body here
	return s
}

// patient repeats a request for as long as another of the same shopper's is being decided.
func (p person) patient(method, path string, body any, header ...string) said {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	for {
		if got := p.do(method, path, body, header...); got.kind() != "in-flight" || ctx.Err() != nil {
			return got
		}
	}
}

// want sends a request and fails unless the answer has this status, and this problem when it is one.
func (p person) want(status int, kind, method, path string, body any, header ...string) said {
	p.t.Helper()
	s := p.do(method, path, body, header...)
	if s.status != status || s.kind() != kind {
		p.t.Errorf("%s %s with %.120v: %d %s (%v), want %d %s", method, path, body, s.status, s.kind(), s.body, status, kind)
	}
	return s
}

// eventually asks until the field has the value: what a 202 promised.
func (p person) eventually(path, field, value string) said {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		s := p.do(http.MethodGet, path, nil)
		if s.status == http.StatusOK && s.text(field) == value {
			return s
		}
		select {
		case <-ctx.Done():
			p.t.Fatalf("%s: %s is never %q; the last answer is %d %v", path, field, value, s.status, s.body)
		case <-tick.C:
		}
	}
}

func (p person) login(email, password string) person {
	p.t.Helper()
	p.token = p.want(http.StatusOK, "", "POST", "/api/v1/auth/login", map[string]string{"email": email, "password": password}).text("access_token")
	return p
}

func (p person) register(name string) person {
	p.t.Helper()
	email := p.tag + name + "@example.com"
	p.want(http.StatusCreated, "", "POST", "/api/v1/auth/register", map[string]string{"email": email, "password": "correct horse battery"})
	return p.login(email, "correct horse battery")
}

// stall is a house with an operator and what they put on sale.
type stall struct {
	t        *testing.T
	mode     Mode
	operator person
	house    *house
	n        int
}

func openStall(t *testing.T, mode Mode, k *contract) *stall {
	t.Helper()
	return stallIn(t, mode, k, embeddedHouse(t, mode), "")
}

func stallIn(t *testing.T, mode Mode, k *contract, h *house, tag string) *stall {
	t.Helper()
	client := &http.Client{Transport: k, Timeout: 30 * time.Second}
	t.Cleanup(k.next.(*http.Transport).CloseIdleConnections)
	s := &stall{t: t, mode: mode, house: h}
	s.operator = person{t: t, client: client, base: h.base, tag: tag}.login(testOperator, testPassword)
	return s
}

func (s *stall) nobody() person {
	p := s.operator
	p.token = ""
	return p
}

type wares struct{ sale, sku, product string }

func (w wares) reserve(qty int) map[string]any {
	return map[string]any{"sale_id": w.sale, "sku": w.sku, "quantity": qty}
}

// sell creates a product and a sale of it, not yet open.
func (s *stall) sell(stock, limit int, hold time.Duration) wares {
	s.t.Helper()
	s.n++
	w := wares{sku: fmt.Sprintf("%sSKU-%d", s.operator.tag, s.n)}
	price := map[string]any{"amount": 9900, "currency": "EUR"}
	w.product = s.operator.want(201, "", "POST", "/api/v1/admin/products", map[string]any{
		"sku": w.sku, "name": "Blue shoe", "category": "shoes", "price": price,
	}).text("id")
	made := s.operator.do("POST", "/api/v1/admin/sales", map[string]any{
		"name": "Sale", "opens_at": time.Now().Add(-time.Minute).UTC(), "ends_at": time.Now().Add(time.Hour).UTC(), "per_user_limit": limit,
		"hold_seconds": int(hold.Seconds()), "items": []any{map[string]any{"sku": w.sku, "unit_price": price, "stock": stock}},
	})
	if want := map[Mode]int{Sync: 201, Async: 202}[s.mode]; made.status != want {
		s.t.Fatalf("create sale: %d %v, want %d", made.status, made.body, want)
	}
	w.sale = made.text("id")
	return w
}

// open opens a sale and waits until it can be bought.
func (s *stall) open(w wares) {
	s.t.Helper()
	s.status(w, "open")
	p := s.nobody()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	for p.do("GET", "/api/v1/sales/"+w.sale, nil).text("status") != "open" { // by the ledger, which a 202 promised
		if ctx.Err() != nil {
			s.t.Fatal("the sale never opens")
		}
	}
}

func (s *stall) status(w wares, verb string) {
	s.t.Helper()
	got := s.operator.do("POST", "/api/v1/admin/sales/"+w.sale+"/"+verb, nil)
	if want := map[Mode]int{Sync: 200, Async: 202}[s.mode]; got.status != want {
		s.t.Fatalf("%s: %d %v, want %d", verb, got.status, got.body, want)
	}
}

// held reserves and waits for the decision.
func (s *stall) held(p person, w wares, qty int, key string) said {
	p.t.Helper()
	got := p.patient("POST", "/api/v1/reservations", w.reserve(qty), "Idempotency-Key", key)
	if want := map[Mode]int{Sync: 201, Async: 202}[s.mode]; got.status != want {
		p.t.Fatalf("reserve: %d %v, want %d", got.status, got.body, want)
	}
	p.eventually("/api/v1/orders/"+got.text("order_id"), "state", "open")
	return p.eventually(got.header.Get("Location"), "state", "held")
}

// TestAPI goes through the API in both wirings, every answer held against the OpenAPI document, and
// then asks that every answer of the document was given.
func TestAPI(t *testing.T) {
	t.Parallel()
	k := newContract(t)
	ran := t.Run("modes", func(t *testing.T) {
		for _, mode := range []Mode{Sync, Async} {
			t.Run(string(mode), func(t *testing.T) {
				t.Parallel()
				for name, test := range map[string]func(*testing.T, *stall){
					"operation":              apiOperation,
					"accounts":               apiAccounts,
					"catalogue":              apiCatalogue,
					"operators":              apiOperators,
					"carts":                  apiCarts,
					"every route, bad input": apiBadInput(k),
					"reservations":           apiReservations,
					"the same key":           apiIdempotency,
					"payments":               apiPayments,
					"waiting":                apiWaiting,
					"expiry":                 apiExpiry,
					"somebody else's":        apiOwnership,
					"dead letters":           apiDeadLetters,
				} {
					t.Run(name, func(t *testing.T) {
						t.Parallel()
						test(t, openStall(t, mode, k))
					})
				}
			})
		}
	})
	if !ran || t.Failed() {
		return
	}
	// What is shed has a test of its own, and the simulated provider never fails to refund.
	unseen := k.unseen(func(op, status string) bool { return status == "503" || op == "refund" && status == "202" })
	if len(unseen) > 0 {
		t.Errorf("documented, but never answered:\n%s", strings.Join(unseen, "\n"))
	}
}

// TestFlows: the saga and its compensations (decline, time-out, refund, cancel, expiry, stock added,
// a sale paused and ended) with every role in a process of its own, over HTTP and over RabbitMQ: the
// same tests as in one process.
func TestFlows(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Sync, Async} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			h, k := splitHouse(t, mode), newContract(t)
			for tag, test := range map[string]func(*testing.T, *stall){
				"pay-": apiPayments, "expiry-": apiExpiry, "reserve-": apiReservations, "own-": apiOwnership, "operate-": apiOperators, "wait-": apiWaiting,
			} {
				t.Run(strings.TrimSuffix(tag, "-"), func(t *testing.T) { test(t, stallIn(t, mode, k, h, tag)) })
			}
		})
	}
}

func apiOperation(t *testing.T, s *stall) {
	report := s.operator.want(200, "", "GET", "/api/v1/admin/audit", nil)
	if checks, _ := report.body["checks"].([]any); len(checks) < 18 {
		t.Errorf("the audit has %d checks", len(checks))
	}
	p := s.nobody()
	p.want(200, "", "GET", "/healthz", nil)
	p.want(200, "", "GET", "/readyz", nil)
	p.want(200, "", "GET", "/openapi.json", nil)
	p.want(200, "", "GET", "/problems/sold-out", nil)
	p.want(404, "not-found", "GET", "/problems/nothing", nil)
	p.want(404, "not-found", "GET", "/nothing", nil)
	p.want(404, "not-found", "GET", "/api/v1/Reservations", nil)
	s405 := p.want(405, "method-not-allowed", "PATCH", "/api/v1/sales", nil)
	if s405.header.Get("Allow") == "" {
		t.Error("405 without Allow")
	}
	given := p.want(404, "not-found", "GET", "/nothing", nil, "X-Request-Id", "my-request.1")
	if given.text("request_id") != "my-request.1" || given.header.Get("X-Request-Id") != "my-request.1" {
		t.Errorf("the request id is %q", given.text("request_id"))
	}
	for _, odd := range []string{strings.Repeat("x", 65), "a b", "a\tb", `"`, "ü"} {
		if got := p.want(404, "not-found", "GET", "/nothing", nil, "X-Request-Id", odd); got.text("request_id") == odd {
			t.Errorf("the request id %q is taken", odd)
		}
	}
}

func apiAccounts(t *testing.T, s *stall) {
	p := s.nobody()
	me := map[string]string{"email": "Ann@example.com", "password": "correct horse battery"}
	p.want(201, "", "POST", "/api/v1/auth/register", me)
	p.want(409, "email-taken", "POST", "/api/v1/auth/register", map[string]string{"email": "ann@EXAMPLE.com", "password": "another password"})
	p.want(422, "weak-password", "POST", "/api/v1/auth/register", map[string]string{"email": "b@example.com", "password": "short"})
	p.want(422, "weak-password", "POST", "/api/v1/auth/register", map[string]string{"email": "b@example.com", "password": strings.Repeat("x", 129)})
	p.want(422, "invalid-email", "POST", "/api/v1/auth/register", map[string]string{"email": "nobody", "password": "correct horse battery"})
	p.want(400, "malformed", "POST", "/api/v1/auth/register", `{"email":"c@example.com","password":"correct horse battery","role":"operator"}`)
	p.want(401, "bad-credentials", "POST", "/api/v1/auth/login", map[string]string{"email": "ann@example.com", "password": "wrong password"})
	p.want(401, "bad-credentials", "POST", "/api/v1/auth/login", map[string]string{"email": "nobody@example.com", "password": "wrong password"})
	first := p.want(200, "", "POST", "/api/v1/auth/login", me)
	next := p.want(200, "", "POST", "/api/v1/auth/refresh", map[string]string{"refresh_token": first.text("refresh_token")})
	p.want(401, "refresh-reused", "POST", "/api/v1/auth/refresh", map[string]string{"refresh_token": first.text("refresh_token")})
	p.want(401, "unauthorized", "POST", "/api/v1/auth/refresh", map[string]string{"refresh_token": next.text("refresh_token")})
	p.want(401, "unauthorized", "POST", "/api/v1/auth/refresh", map[string]string{"refresh_token": "nonsense"})
	p.want(401, "unauthorized", "POST", "/api/v1/auth/refresh", map[string]string{"refresh_token": first.text("access_token")})
	for _, token := range []string{"x", first.text("refresh_token"), "eyJhbGciOiJub25lIn0.e30.", first.text("access_token") + "x"} {
		q := p
		q.token = token
		q.want(401, "unauthorized", "GET", "/api/v1/orders", nil)
	}
	p.want(401, "unauthorized", "GET", "/api/v1/orders", nil, "Authorization", "Basic YTpi")
	p.token = next.text("access_token")
	p.want(200, "", "GET", "/api/v1/orders", nil)
	p.want(403, "forbidden", "GET", "/api/v1/admin/audit", nil)
}

func apiCatalogue(t *testing.T, s *stall) {
	p := s.nobody()
	empty := p.want(200, "", "GET", "/api/v1/products", nil)
	if got := fmt.Sprint(empty.body); got != "map[products:[]]" {
		t.Errorf("an empty catalogue is %s", got)
	}
	if got := fmt.Sprint(p.want(200, "", "GET", "/api/v1/sales", nil).body); got != "map[sales:[]]" {
		t.Errorf("no sales are %s", got)
	}
	a, b := s.sell(5, 0, time.Minute), s.sell(5, 0, time.Minute)
	s.open(a)
	product := p.want(200, "", "GET", "/api/v1/products/"+a.product, nil)
	again := p.want(200, "", "GET", "/api/v1/products/"+a.product, nil)
	if again.header.Get("X-Cache") != "HIT" || product.text("sku") != a.sku {
		t.Errorf("product %v, cache %s", product.body, again.header.Get("X-Cache"))
	}
	if offers, _ := product.body["offers"].([]any); len(offers) != 1 || offers[0].(map[string]any)["available"] != 5.0 {
		t.Errorf("offers %v", product.body["offers"])
	}
	p.want(404, "not-found", "GET", "/api/v1/products/"+a.sale, nil)
	p.want(404, "not-found", "GET", "/api/v1/products/nonsense", nil)
	p.want(404, "not-found", "GET", "/api/v1/sales/"+a.product, nil)

	skus := func(path string) (out []string) {
		for path != "" {
			page := p.want(200, "", "GET", path, nil)
			for _, v := range page.body["products"].([]any) {
				out = append(out, v.(map[string]any)["sku"].(string))
			}
			path = page.text("next")
		}
		slices.Sort(out)
		return out
	}
	both := []string{a.sku, b.sku}
	for path, want := range map[string][]string{
		"/api/v1/products?limit=1":                                 both,
		"/api/v1/products/search?q=BLUE+sho":                       both,
		"/api/v1/products/search?q=" + a.sku:                       {a.sku},
		"/api/v1/products/search?q=green":                          nil,
		"/api/v1/products/search?q=%25":                            nil, // no wildcard
		"/api/v1/products/search?category=shoes&min_price=9900":    both,
		"/api/v1/products/search?category=hats":                    nil,
		"/api/v1/products/search?min_price=9901":                   nil,
		"/api/v1/products/search?max_price=9899":                   nil,
		"/api/v1/products/search?min_price=1&max_price=9900&q=sku": both,
	} {
		if got := skus(path); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	for path, kind := range map[string]string{
		"/api/v1/products?limit=x": "malformed", "/api/v1/products?limit=-1": "malformed", "/api/v1/products?limit=1.5": "malformed",
		"/api/v1/products?page=x": "malformed", "/api/v1/products?nothing=1": "malformed", "/api/v1/products?limit=1&limit=2": "malformed",
		"/api/v1/products?limit=101": "invalid", "/api/v1/sales?limit=101": "invalid", "/api/v1/sales?limit=x": "malformed",
		"/api/v1/products/search?min_price=2&max_price=1": "invalid", "/api/v1/products/search?max_price=9e9": "malformed",
		"/api/v1/products/search?q=" + strings.Repeat("x", 101): "malformed", "/api/v1/products/search?q=%ff": "malformed",
	} {
		p.want(map[string]int{"malformed": 400, "invalid": 422}[kind], kind, "GET", path, nil)
	}
	var sales []string
	for path := "/api/v1/sales?limit=1"; path != ""; {
		page := p.want(200, "", "GET", path, nil)
		for _, v := range page.body["sales"].([]any) {
			sales = append(sales, v.(map[string]any)["id"].(string))
		}
		path = page.text("next")
	}
	if !slices.Equal(sales, []string{b.sale, a.sale}) {
		t.Errorf("sales %v, want the newest first: %s, %s", sales, b.sale, a.sale)
	}
}

func apiOperators(t *testing.T, s *stall) {
	op := s.operator
	shopper := s.nobody().register("ann")
	w := s.sell(2, 0, time.Minute)
	price := map[string]any{"amount": 1, "currency": "EUR"}
	op.want(409, "sku-taken", "POST", "/api/v1/admin/products", map[string]any{"sku": w.sku, "name": "x", "category": "x", "price": price})
	for _, change := range []map[string]any{
		{"sku": ""},
		{"sku": "a b"},
		{"name": ""},
		{"name": strings.Repeat("x", 201)},
		{"name": "a\u0000"},
		{"category": ""},
		{"price": map[string]any{"amount": -1, "currency": "EUR"}},
		{"price": map[string]any{"amount": 1, "currency": "eur"}},
	} {
		body := map[string]any{"sku": "NEW", "name": "x", "category": "x", "price": price}
		for k, v := range change {
			body[k] = v
		}
		op.want(422, "invalid", "POST", "/api/v1/admin/products", body)
	}
	item := map[string]any{"sku": w.sku, "unit_price": price, "stock": 1}
	sale := func(change map[string]any) map[string]any {
		body := map[string]any{
			"name": "Sale", "opens_at": time.Now().UTC(), "ends_at": time.Now().Add(time.Hour).UTC(), "hold_seconds": 60, "items": []any{item},
		}
		for k, v := range change {
			body[k] = v
		}
		return body
	}
	for _, change := range []map[string]any{
		{"name": ""},
		{"hold_seconds": 0},
		{"hold_seconds": 86401},
		{"hold_seconds": -9223372036854775808},
		{"per_user_limit": -1},
		{"per_user_limit": 1001},
		{"ends_at": time.Now().Add(-time.Hour).UTC()},
		{"items": []any{}},
		{"items": []any{item, item}},
		{"items": []any{map[string]any{"sku": w.sku, "unit_price": price, "stock": 0}}},
		{"items": []any{map[string]any{"sku": w.sku, "unit_price": price, "stock": 10_000_001}}},
	} {
		op.want(422, "invalid", "POST", "/api/v1/admin/sales", sale(change))
	}
	op.want(422, "unknown-sku", "POST", "/api/v1/admin/sales", sale(map[string]any{"items": []any{map[string]any{"sku": "NOTHING", "unit_price": price, "stock": 1}}}))

	var many []any
	for n := range 400 {
		many = append(many, map[string]any{"sku": fmt.Sprint("UNKNOWN-", n), "unit_price": price, "stock": 1})
	}
	op.want(422, "unknown-sku", "POST", "/api/v1/admin/sales", sale(map[string]any{"items": many}))

	// A sale that is not open sells nothing; a paused one neither; an ended one is ended for good.
	shopper.want(422, "sale-not-open", "POST", "/api/v1/reservations", w.reserve(1), "Idempotency-Key", "early")
	s.open(w)
	s.held(shopper, w, 1, "first")
	s.status(w, "pause")
	shopper.eventually("/api/v1/sales/"+w.sale, "status", "paused")
	s.refusedSoon(shopper, w, "sale-not-open")
	// What was made while it was open is still there for whoever repeats the request.
	if again := shopper.do("POST", "/api/v1/reservations", w.reserve(1), "Idempotency-Key", "first"); again.status != 201 || again.text("state") != "held" {
		t.Errorf("a repetition while the sale is paused: %d %v", again.status, again.body)
	}
	s.status(w, "open")
	stock := "/api/v1/admin/sales/" + w.sale + "/items/" + w.sku + "/stock"
	for range 2 { // the same addition twice is one
		got := op.do("POST", stock, map[string]any{"quantity": 3}, "Idempotency-Key", "more")
		if got.status != 200 && got.status != 202 {
			t.Errorf("add stock: %d %v", got.status, got.body)
		}
	}
	op.want(400, "idempotency-key", "POST", stock, map[string]any{"quantity": 3})
	op.want(422, "invalid", "POST", stock, map[string]any{"quantity": 0}, "Idempotency-Key", "none")
	op.want(422, "invalid", "POST", stock, map[string]any{"quantity": 10_000_001}, "Idempotency-Key", "much")
	op.want(404, "not-found", "POST", "/api/v1/admin/sales/"+w.sale+"/items/OTHER/stock", map[string]any{"quantity": 1}, "Idempotency-Key", "other")
	op.want(404, "not-found", "POST", "/api/v1/admin/sales/"+w.product+"/items/"+w.sku+"/stock", map[string]any{"quantity": 1}, "Idempotency-Key", "else")
	s.stockIs(w, 5, 4)
	s.status(w, "end")
	for _, verb := range []string{"open", "pause"} {
		op.want(409, "illegal-move", "POST", "/api/v1/admin/sales/"+w.sale+"/"+verb, nil)
	}
	op.want(409, "illegal-move", "POST", stock, map[string]any{"quantity": 1}, "Idempotency-Key", "late")
	scheduled := s.sell(1, 0, time.Minute)
	op.want(409, "illegal-move", "POST", "/api/v1/admin/sales/"+scheduled.sale+"/pause", nil)
	for _, verb := range []string{"open", "pause", "end"} {
		op.want(404, "not-found", "POST", "/api/v1/admin/sales/"+w.product+"/"+verb, nil)
	}
	op.want(404, "not-found", "POST", "/api/v1/admin/orders/"+w.product+"/refund", nil)
}

// refusedSoon asks until the gate knows what the operator has just said.
func (s *stall) refusedSoon(p person, w wares, kind string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	for n := 0; ; n++ {
		if p.do("POST", "/api/v1/reservations", w.reserve(1000), "Idempotency-Key", fmt.Sprint("soon", n)).kind() == kind {
			return
		}
		if ctx.Err() != nil {
			s.t.Fatalf("never refused with %s", kind)
		}
	}
}

// stockIs waits until a sale shows this total and this many available.
func (s *stall) stockIs(w wares, total, available float64) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	for {
		item := s.nobody().do("GET", "/api/v1/sales/"+w.sale, nil).body["items"].([]any)[0].(map[string]any)
		if item["stock"] == total && item["available"] == available {
			return
		}
		if ctx.Err() != nil {
			s.t.Fatalf("stock %v, want total %v and available %v", item, total, available)
		}
	}
}

func apiCarts(t *testing.T, s *stall) {
	w := s.sell(5, 0, time.Minute)
	s.open(w)
	p := s.nobody().register("ann")
	cart := p.want(201, "", "POST", "/api/v1/carts", nil)
	at := cart.header.Get("Location")
	if items, ok := cart.body["items"].([]any); !ok || len(items) != 0 {
		t.Errorf("a new cart is %v", cart.body)
	}
	p.want(201, "", "POST", "/api/v1/carts", "{}")
	p.want(400, "malformed", "POST", "/api/v1/carts", `{"user":"x"}`)
	p.want(200, "", "POST", at+"/items", w.reserve(2))
	full := p.want(200, "", "GET", at, nil)
	if items := full.body["items"].([]any); len(items) != 1 || items[0].(map[string]any)["quantity"] != 2.0 {
		t.Errorf("the cart is %v", full.body)
	}
	for _, n := range []int{0, -1, 1001, 999} { // 999 and the 2 that are there are too many
		p.want(422, "quantity", "POST", at+"/items", w.reserve(n))
	}
	p.want(422, "unknown-item", "POST", at+"/items", map[string]any{"sale_id": w.sale, "sku": "OTHER", "quantity": 1})
	p.want(422, "unknown-item", "POST", at+"/items", map[string]any{"sale_id": w.product, "sku": w.sku, "quantity": 1})
	p.want(400, "malformed", "POST", at+"/items", map[string]any{"sale_id": w.sale, "sku": w.sku, "quantity": 1, "unit_price": map[string]any{"amount": 1, "currency": "EUR"}})
	p.want(404, "not-found", "POST", "/api/v1/carts/"+w.sale+"/items", w.reserve(1))
	p.want(404, "not-found", "GET", "/api/v1/carts/"+w.sale, nil)

	body := w.reserve(2)
	body["cart_id"] = cart.text("id")
	got := p.do("POST", "/api/v1/reservations", body, "Idempotency-Key", "checkout")
	p.eventually("/api/v1/orders/"+got.text("order_id"), "state", "open")
	p.want(409, "cart-checked-out", "POST", at+"/items", w.reserve(1))
}

func apiReservations(t *testing.T, s *stall) {
	w := s.sell(4, 3, time.Minute)
	s.open(w)
	ann, ben := s.nobody().register("ann"), s.nobody().register("ben")
	for _, n := range []int{0, -1, 4, 1001} {
		ann.want(422, "quantity", "POST", "/api/v1/reservations", w.reserve(n), "Idempotency-Key", fmt.Sprint("q", n))
	}
	ann.want(422, "unknown-item", "POST", "/api/v1/reservations", map[string]any{"sale_id": w.sale, "sku": "OTHER", "quantity": 1}, "Idempotency-Key", "o")
	ann.want(422, "sale-not-open", "POST", "/api/v1/reservations", map[string]any{"sale_id": w.product, "sku": w.sku, "quantity": 1}, "Idempotency-Key", "n")
	wrong := w.reserve(1)
	wrong["unit_price"] = map[string]any{"amount": 1, "currency": "EUR"}
	ann.want(422, "price-changed", "POST", "/api/v1/reservations", wrong, "Idempotency-Key", "p")
	wrong["unit_price"] = map[string]any{"amount": 9900, "currency": "USD"}
	ann.want(422, "price-changed", "POST", "/api/v1/reservations", wrong, "Idempotency-Key", "p")
	for _, field := range []string{"user", "user_id", "state", "expires_at", "price", "id"} { // nobody sets what is not theirs
		body := w.reserve(1)
		body[field] = "x"
		ann.want(400, "malformed", "POST", "/api/v1/reservations", body, "Idempotency-Key", "mass")
	}
	one := s.held(ann, w, 2, "1")
	if total := one.body["total"].(map[string]any); total["amount"] != 19800.0 || one.body["quantity"] != 2.0 {
		t.Errorf("reservation %v", one.body)
	}
	ann.want(409, "limit-reached", "POST", "/api/v1/reservations", w.reserve(2), "Idempotency-Key", "2")
	s.held(ben, w, 2, "1")
	out := ben.want(409, "held-out", "POST", "/api/v1/reservations", w.reserve(1), "Idempotency-Key", "2")
	if out.header.Get("Retry-After") == "" {
		t.Error("held out without Retry-After")
	}
	self := one.body["links"].(map[string]any)["self"].(string)
	cancelled := ann.do("DELETE", self, nil)
	if want := map[Mode]int{Sync: 200, Async: 202}[s.mode]; cancelled.status != want {
		t.Errorf("cancel: %d %v, want %d", cancelled.status, cancelled.body, want)
	}
	ann.eventually(self, "state", "cancelled")
	ann.want(200, "", "DELETE", self, nil) // twice is once
	if s.mode == Sync {
		ann.want(200, "", "POST", "/api/v1/reservations", w.reserve(2), "Idempotency-Key", "1") // it was made, and is over
	}
	order := ann.eventually("/api/v1/orders/"+one.text("id"), "state", "cancelled")
	ann.want(409, "illegal-move", "POST", "/api/v1/orders/"+order.text("id")+"/payments", map[string]any{"method": "tok_ok"}, "Idempotency-Key", "p")
	s.stockIs(w, 4, 2) // what was given back can be bought again, to the last unit
	again := s.held(ben, w, 1, "3")
	last := s.held(ann, w, 1, "3")
	for _, r := range []struct {
		p person
		s said
	}{{ben, again}, {ann, last}} {
		paid(t, s, r.p, r.s, "tok_ok", "captured")
		r.p.eventually("/api/v1/orders/"+r.s.text("id"), "state", "confirmed")
	}
	ann.want(409, "illegal-move", "DELETE", "/api/v1/reservations/"+last.text("id"), nil)
	cat := s.nobody().register("cat")
	cat.want(409, "held-out", "POST", "/api/v1/reservations", w.reserve(1), "Idempotency-Key", "1")
	list := ben.want(200, "", "GET", "/api/v1/orders?limit=1", nil)
	if list.text("next") == "" || len(list.body["orders"].([]any)) != 1 {
		t.Errorf("orders %v", list.body)
	}
	rest := ben.want(200, "", "GET", list.text("next"), nil)
	if rest.text("next") != "" || len(rest.body["orders"].([]any)) != 1 {
		t.Errorf("the rest of the orders %v", rest.body)
	}
	for _, q := range []string{"limit=101", "limit=x", "after=x", "x=1"} {
		ben.want(400, "malformed", "GET", "/api/v1/orders?"+q, nil)
	}
}

// paid pays for a reservation and waits for the payment's state.
func paid(t *testing.T, s *stall, p person, r said, method, state string) said {
	t.Helper()
	got := p.do("POST", "/api/v1/orders/"+r.text("order_id")+"/payments", map[string]any{"method": method}, "Idempotency-Key", "pay-"+r.text("id"))
	if s.mode == Async && got.status != 202 || got.status != 201 && got.status != 202 {
		t.Fatalf("pay: %d %v", got.status, got.body)
	}
	return p.eventually(got.header.Get("Location"), "state", state)
}

func apiIdempotency(t *testing.T, s *stall) {
	w := s.sell(3, 0, time.Minute)
	s.open(w)
	p := s.nobody().register("ann")
	one := s.held(p, w, 1, "k")
	again := p.do("POST", "/api/v1/reservations", w.reserve(1), "Idempotency-Key", "k")
	if again.text("id") != one.text("id") {
		t.Errorf("the same request again is %d %v", again.status, again.body)
	}
	if s.mode == Sync && (again.status != 201 || again.header.Get("Idempotency-Replayed") != "true") {
		t.Errorf("the same request again: %d, replayed %q", again.status, again.header.Get("Idempotency-Replayed"))
	}
	if s.mode == Sync {
		p.want(422, "idempotency-key-reused", "POST", "/api/v1/reservations", w.reserve(2), "Idempotency-Key", "k")
		priced := w.reserve(1)
		priced["unit_price"] = map[string]any{"amount": 9900, "currency": "EUR"}
		p.want(422, "idempotency-key-reused", "POST", "/api/v1/reservations", priced, "Idempotency-Key", "k")
	}
	for _, key := range []string{"", strings.Repeat("k", 129), "a b", "ü", "a\tb"} {
		p.want(400, "idempotency-key", "POST", "/api/v1/reservations", w.reserve(1), "Idempotency-Key", key)
	}
	p.want(400, "idempotency-key", "POST", "/api/v1/reservations", w.reserve(1))
	s.held(p, w, 1, strings.Repeat("k", 128))
	other := s.nobody().register("ben") // another shopper's same key is another request
	if theirs := s.held(other, w, 1, "k"); theirs.text("id") == one.text("id") {
		t.Error("two shoppers share a reservation")
	}
	s.stockIs(w, 3, 0)

	// Many at once with one key: one reservation, the others wait, are told to, or get the same.
	more := s.sell(50, 0, time.Minute)
	s.open(more)
	ids := map[string]bool{}
	busy := 0
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 24 {
		all.Go(func() {
			got := p.do("POST", "/api/v1/reservations", more.reserve(1), "Idempotency-Key", "burst")
			mu.Lock()
			defer mu.Unlock()
			switch {
			case got.status == 201 || got.status == 202:
				ids[got.text("id")] = true
			case got.kind() == "in-flight":
				busy++
			default:
				t.Errorf("burst: %d %v", got.status, got.body)
			}
		})
	}
	all.Wait()
	if len(ids) != 1 {
		t.Errorf("one key made %d reservations", len(ids))
	}
	s.stockIs(more, 50, 49)

	pay := "/api/v1/orders/" + one.text("order_id") + "/payments"
	first := p.do("POST", pay, map[string]any{"method": "tok_ok"}, "Idempotency-Key", "pay")
	p.eventually(first.header.Get("Location"), "state", "captured")
	second := p.want(201, "", "POST", pay, map[string]any{"method": "tok_ok"}, "Idempotency-Key", "pay")
	if second.text("id") != first.text("id") || second.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("the same payment again is %v, replayed %q", second.body, second.header.Get("Idempotency-Replayed"))
	}
	p.want(422, "idempotency-key-reused", "POST", pay, map[string]any{"method": "tok_decline"}, "Idempotency-Key", "pay")
	p.eventually("/api/v1/orders/"+one.text("order_id"), "state", "confirmed")
	p.want(409, "illegal-move", "POST", pay, map[string]any{"method": "tok_ok"}, "Idempotency-Key", "another")
}

func apiPayments(t *testing.T, s *stall) {
	w := s.sell(5, 0, time.Minute)
	s.open(w)
	p := s.nobody().register("ann")
	pay := func(r said) string { return "/api/v1/orders/" + r.text("order_id") + "/payments" }

	// Declined: the hold is released, the order cancelled.
	no := s.held(p, w, 1, "decline")
	got := p.do("POST", pay(no), map[string]any{"method": "tok_decline"}, "Idempotency-Key", "1")
	if s.mode == Sync && (got.status != 402 || got.kind() != "payment-declined") {
		t.Errorf("a decline is %d %v", got.status, got.body)
	}
	p.eventually(got.header.Get("Location"), "state", "declined")
	p.eventually("/api/v1/orders/"+no.text("id"), "state", "cancelled")
	p.eventually("/api/v1/reservations/"+no.text("id"), "state", "declined")
	p.want(402, "payment-declined", "POST", pay(no), map[string]any{"method": "tok_decline"}, "Idempotency-Key", "1")

	// No answer, nothing charged: voided, released. No answer, but charged: found out, confirmed.
	for method, want := range map[string][2]string{"tok_timeout": {"declined", "cancelled"}, "tok_charge_then_timeout": {"captured", "confirmed"}} {
		r := s.held(p, w, 1, method)
		got := p.do("POST", pay(r), map[string]any{"method": method}, "Idempotency-Key", method)
		if got.status != 202 {
			t.Errorf("%s: %d %v, want 202", method, got.status, got.body)
		}
		if got.header.Get("Retry-After") == "" {
			t.Errorf("%s: 202 does not say when to look", method)
		}
		look := p.want(200, "", "GET", got.header.Get("Location"), nil)
		if told := look.header.Get("Retry-After") != ""; told != slices.Contains([]string{"requested", "charging", "unknown"}, look.text("state")) {
			t.Errorf("%s is %s: told when to look again: %t", method, look.text("state"), told)
		}
		p.eventually(got.header.Get("Location"), "state", want[0])
		p.eventually("/api/v1/orders/"+r.text("id"), "state", want[1])
	}

	// A refund gives the units back, once.
	r := s.held(p, w, 2, "refund")
	s.operator.want(404, "not-found", "POST", "/api/v1/admin/orders/"+r.text("id")+"/refund", nil)
	payment := paid(t, s, p, r, "tok_ok", "captured")
	p.eventually("/api/v1/orders/"+r.text("id"), "state", "confirmed")
	s.stockIs(w, 5, 2)
	s.operator.want(409, "illegal-move", "POST", "/api/v1/admin/orders/"+no.text("id")+"/refund", nil)
	for range 2 {
		s.operator.want(200, "", "POST", "/api/v1/admin/orders/"+r.text("id")+"/refund", nil)
	}
	p.eventually("/api/v1/payments/"+payment.text("id"), "state", "refunded")
	p.eventually("/api/v1/orders/"+r.text("id"), "state", "refunded")
	p.eventually("/api/v1/reservations/"+r.text("id"), "state", "refunded")
	s.stockIs(w, 5, 4)
	p.want(400, "idempotency-key", "POST", pay(r), map[string]any{"method": "tok_ok"})
	p.want(400, "malformed", "POST", pay(r), map[string]any{"method": ""}, "Idempotency-Key", "m")
	for _, method := range []string{strings.Repeat("x", 129), "tok ok", "tok\u0000", "tök"} {
		p.want(400, "malformed", "POST", pay(r), map[string]any{"method": method}, "Idempotency-Key", "m")
	}
	p.want(400, "malformed", "POST", pay(r), map[string]any{"method": "tok_ok", "amount": 1}, "Idempotency-Key", "m")
}

// apiWaiting: whoever is told "accepted" can wait for the decision, by preference or by a stream.
func apiWaiting(t *testing.T, s *stall) {
	w := s.sell(3, 2, time.Minute)
	s.open(w)
	p := s.nobody().register("ann")
	held := p.want(201, "", "POST", "/api/v1/reservations", w.reserve(1), "Idempotency-Key", "k", "Prefer", "respond-async, wait=9")
	if held.text("state") != "held" || (held.header.Get("Preference-Applied") == "wait=9") != (s.mode == Async) {
		t.Errorf("waited for: %v, applied %q", held.body, held.header.Get("Preference-Applied"))
	}
	for _, prefer := range []string{"wait=0", "wait=-1", "wait=x", "wait"} { // as if it were not there
		got := p.patient("POST", "/api/v1/reservations", w.reserve(1), "Idempotency-Key", "again", "Prefer", prefer)
		if got.header.Get("Preference-Applied") != "" || got.status != 201 && got.status != 202 {
			t.Errorf("Prefer: %s: %d %v", prefer, got.status, got.body)
		}
	}
	id := p.patient("POST", "/api/v1/reservations", w.reserve(1), "Idempotency-Key", "again").text("id")
	for range 2 { // until it is decided, and again when it is
		events := p.stream("/api/v1/reservations/" + id + "/events")
		if n := strings.Count(events, "event: decided\ndata: {"); n != 1 || !strings.Contains(events, `"state":"held"`) || !strings.HasSuffix(events, "}\n\n") {
			t.Errorf("the stream is %q", events)
		}
	}
	p.want(404, "not-found", "GET", "/api/v1/reservations/"+w.sale+"/events", nil)
	s.nobody().register("eve").want(404, "not-found", "GET", "/api/v1/reservations/"+id+"/events", nil)
}

// stream reads a stream of events to its end.
func (p person) stream(path string) string {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.base+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	resp, err := p.client.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		p.t.Fatalf("%s: %d, %v, %s", path, resp.StatusCode, err, b)
	}
	return string(b)
}

func apiExpiry(t *testing.T, s *stall) {
	w := s.sell(1, 0, time.Second)
	s.open(w)
	p := s.nobody().register("ann")
	r := s.held(p, w, 1, "k")
	p.eventually("/api/v1/reservations/"+r.text("id"), "state", "expired")
	p.eventually("/api/v1/orders/"+r.text("id"), "state", "cancelled")
	p.want(410, "expired", "DELETE", "/api/v1/reservations/"+r.text("id"), nil)
	if s.mode == Sync {
		p.want(410, "expired", "POST", "/api/v1/reservations", w.reserve(1), "Idempotency-Key", "k")
	}
	p.want(410, "expired", "POST", "/api/v1/orders/"+r.text("id")+"/payments", map[string]any{"method": "tok_ok"}, "Idempotency-Key", "p")
	s.stockIs(w, 1, 1)
	again := s.held(p, w, 1, "k2")
	paid(t, s, p, again, "tok_ok", "captured")
	p.eventually("/api/v1/orders/"+again.text("id"), "state", "confirmed")
	sold := s.nobody().register("ben")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for n := 0; sold.do("POST", "/api/v1/reservations", w.reserve(1), "Idempotency-Key", fmt.Sprint(n)).kind() != "sold-out"; n++ {
		if ctx.Err() != nil {
			t.Fatal("the last unit is paid for, and it is never called sold out")
		}
	}
}

func apiOwnership(t *testing.T, s *stall) {
	w := s.sell(5, 0, time.Minute)
	s.open(w)
	ann, eve := s.nobody().register("ann"), s.nobody().register("eve")
	cart := ann.want(201, "", "POST", "/api/v1/carts", nil).text("id")
	r := s.held(ann, w, 1, "k")
	for _, probe := range []struct{ method, path string }{
		{"GET", "/api/v1/carts/" + cart},
		{"POST", "/api/v1/carts/" + cart + "/items"},
		{"GET", "/api/v1/reservations/" + r.text("id")},
		{"DELETE", "/api/v1/reservations/" + r.text("id")},
		{"GET", "/api/v1/orders/" + r.text("id")},
		{"POST", "/api/v1/orders/" + r.text("id") + "/payments"},
	} {
		var body any
		switch {
		case strings.HasSuffix(probe.path, "/items"):
			body = w.reserve(1)
		case probe.method == "POST":
			body = map[string]any{"method": "tok_ok"}
		}
		eve.want(404, "not-found", probe.method, probe.path, body, "Idempotency-Key", "k")
		s.operator.want(404, "not-found", probe.method, probe.path, body, "Idempotency-Key", "k")
	}
	payment := paid(t, s, ann, r, "tok_ok", "captured")
	eve.want(404, "not-found", "GET", "/api/v1/payments/"+payment.text("id"), nil)
	eve.want(404, "not-found", "POST", "/api/v1/orders/"+r.text("id")+"/payments", map[string]any{"method": "tok_ok"}, "Idempotency-Key", "pay-"+r.text("id"))
	if got := eve.want(200, "", "GET", "/api/v1/orders", nil); len(got.body["orders"].([]any)) != 0 {
		t.Errorf("eve sees %v", got.body)
	}
	ann.eventually("/api/v1/orders/"+r.text("id"), "state", "confirmed")

	// Somebody else's cart in a reservation is not emptied by it.
	body := w.reserve(1)
	body["cart_id"] = cart
	got := eve.do("POST", "/api/v1/reservations", body, "Idempotency-Key", "cart")
	eve.eventually("/api/v1/orders/"+got.text("order_id"), "state", "open")
	if ann.want(200, "", "GET", "/api/v1/carts/"+cart, nil).body["checked_out"] != false {
		t.Error("eve has checked out ann's cart")
	}
}

// apiBadInput sends to every route of the document what no route takes.
func apiBadInput(k *contract) func(*testing.T, *stall) {
	return func(t *testing.T, s *stall) {
		w := s.sell(1, 0, time.Minute)
		shopper := s.nobody().register("ann")
		paths, _ := k.child(node{k.doc, ""}, "paths")
		tried := 0
		for pattern, item := range paths.v {
			path := strings.NewReplacer("{id}", w.sale, "{sku}", w.sku, "{name}", "malformed").Replace(pattern)
			for method, v := range item.(map[string]any) {
				op, isOp := v.(map[string]any)
				if !isOp {
					continue
				}
				method = strings.ToUpper(method)
				p := shopper
				if strings.Contains(path, "/admin/") {
					p = s.operator
				}
				key := []string{"Idempotency-Key", "bad"}
				if _, open := op["security"]; !open {
					s.nobody().want(401, "unauthorized", method, path, nil, key...)
					if strings.Contains(path, "/admin/") {
						shopper.want(403, "forbidden", method, path, nil, key...)
					}
				}
				if pattern == "/api/v1/carts" {
					op["requestBody"] = true // it takes an empty object
				}
				if op["requestBody"] == nil {
					continue
				}
				tried++
				for _, body := range []string{
					"{", "{}{}", `{} x`, `[]`, `"x"`, `{"nothing":1}`, `{"a":1,"a":2}`, "{\"a\":\"\xff\"}", "\xef\xbb\xbf{}", `{"a":1e400}`, " ",
				} {
					p.want(400, "malformed", method, path, body, key...)
				}
				most := 16 << 10
				if pattern == "/api/v1/admin/sales" { // up to 1000 items
					most = 256 << 10
				}
				p.want(413, "body-too-large", method, path, `{"a":"`+strings.Repeat("x", most)+`"}`, key...)
				p.want(415, "unsupported-media-type", method, path, "{}", append(key, "Content-Type", "text/plain")...)
				p.want(415, "unsupported-media-type", method, path, "{}", append(key, "Content-Type", "")...)
				p.want(415, "unsupported-media-type", method, path, "{}", append(key, "Content-Type", "application/json; charset=latin1")...)
				p.want(415, "unsupported-media-type", method, path, "{}", append(key, "Content-Encoding", "gzip")...)
			}
		}
		if tried < 10 {
			t.Errorf("only %d routes with a body", tried)
		}
	}
}
