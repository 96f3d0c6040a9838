package console

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"
)

// The ids of the recorded answers.
const (
	shoeID        = "01980000-0000-7000-8000-0000000000a1"
	hatID         = "01980000-0000-7000-8000-0000000000a2"
	saleID        = "01980000-0000-7000-8000-0000000000b1"
	soldOutID     = "01980000-0000-7000-8000-0000000000b2"
	reservationID = "01980000-0000-7000-8000-0000000000c1"
	paymentID     = "01980000-0000-7000-8000-0000000000d1"

	shopperToken  = "e30.eyJyb2xlIjoic2hvcHBlciJ9.one"
	operatorToken = "e30.eyJyb2xlIjoib3BlcmF0b3IifQ.one"
)

func recordedAt() time.Time { return time.Date(2026, 6, 1, 12, 1, 0, 0, time.UTC) }

// reply is an answer of the API as it was recorded: a file of testdata.
type reply struct {
	status int
	file   string
}

// asked is a request that the console sent to the API.
type asked struct{ method, path, query, key, auth, body string }

// replay is the API's side of the wire: it gives recorded answers, for a route that is asked again the next one, and
// the last for ever.
type replay struct {
	t       *testing.T
	mu      sync.Mutex
	answers map[string][]reply
	asked   []asked
}

func (a *replay) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	route := r.Method + " " + r.URL.Path
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, asked{r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("Idempotency-Key"), r.Header.Get("Authorization"), string(body)})
	list := a.answers[route]
	if len(list) == 0 {
		a.t.Errorf("the console asks for %s, which the test has no answer for", route)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if len(list) > 1 {
		a.answers[route] = list[1:]
	}
	kind := "application/json"
	if list[0].status >= 400 {
		kind = "application/problem+json"
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(list[0].status)
	_, _ = w.Write(golden(a.t, list[0].file))
}

// to returns what was asked of a route.
func (a *replay) to(route string) (out []asked) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, q := range a.asked {
		if q.method+" "+q.path == route {
			out = append(out, q)
		}
	}
	return out
}

func golden(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// browser is a person in front of a console of their own. It follows no redirect.
type browser struct {
	t    *testing.T
	api  *replay
	stop func() // ends the API
	site *url.URL
	http *http.Client
}

type answers map[string][]reply

// catalogue is what the pages of a sale read besides.
func catalogue(more answers) answers {
	all := answers{
		"GET /api/v1/sales/" + saleID:    {{200, "sale_open"}},
		"GET /api/v1/products/" + shoeID: {{200, "product"}},
		"GET /api/v1/products/" + hatID:  {{200, "product_hat"}},
	}
	for route, list := range more {
		all[route] = list
	}
	return all
}

func open(t *testing.T, a answers) *browser {
	t.Helper()
	b := &browser{t: t, api: &replay{t: t, answers: a}}
	api := httptest.NewServer(b.api)
	t.Cleanup(api.Close)
	b.stop = api.Close
	c, err := New(Config{API: api.URL, Client: api.Client(), Clock: recordedAt})
	if err != nil {
		t.Fatal(err)
	}
	site := httptest.NewServer(c)
	t.Cleanup(site.Close)
	jar, _ := cookiejar.New(nil)
	b.http = site.Client()
	b.http.Jar = jar
	b.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	b.site, _ = url.Parse(site.URL)
	return b
}

// as puts a session into the browser.
func (b *browser) as(access string) *browser {
	b.http.Jar.SetCookies(b.site, []*http.Cookie{
		{Name: accessCookie, Value: access}, {Name: refreshCookie, Value: "refresh-one"}, {Name: csrfCookie, Value: "secret"},
	})
	return b
}

func (b *browser) cookie(name string) string {
	for _, c := range b.http.Jar.Cookies(b.site) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

type shown struct {
	t      *testing.T
	status int
	header http.Header
	body   string
}

func (b *browser) do(method, path string, form url.Values, header ...string) shown {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.site.String()+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := b.http.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	s := shown{b.t, resp.StatusCode, resp.Header, string(body)}
	s.check(method + " " + path)
	return s
}

func (b *browser) get(path string) shown { b.t.Helper(); return b.do("GET", path, nil) }

// post sends a form with the session's secret.
func (b *browser) post(path string, form ...string) shown {
	b.t.Helper()
	v := url.Values{"csrf": {b.cookie(csrfCookie)}}
	for i := 0; i+1 < len(form); i += 2 {
		v.Add(form[i], form[i+1])
	}
	return b.do("POST", path, v)
}

var (
	inline = regexp.MustCompile(`(?i)<script(?:>| [^>]*[^r]>)|<style|<[a-z][^<>"]*(?:"[^"]*"[^<>"]*)* (?:style|on[a-z]+)=`)
	posted = regexp.MustCompile(`(?s)<form method="post".*?</form>`)
)

// check holds what is true of every answer.
func (s shown) check(what string) {
	s.t.Helper()
	h := s.header
	if h.Get("Content-Security-Policy") != contentRules || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") == "" {
		s.t.Errorf("%s: headers %v", what, h)
	}
	if found := inline.FindString(s.body); found != "" && strings.HasPrefix(h.Get("Content-Type"), "text/html") {
		s.t.Errorf("%s: %q would be refused by the content security policy, or was not escaped", what, found)
	}
	for _, form := range posted.FindAllString(s.body, -1) {
		if !strings.Contains(form, `name="csrf" value="`) || strings.Contains(form, `name="csrf" value=""`) {
			s.t.Errorf("%s: a form without a secret: %s", what, form)
		}
	}
	for _, raw := range []string{"<i>Friday", "<i>shoes", "<b>fast", "alert(1)</script>"} {
		if strings.Contains(s.body, raw) {
			s.t.Errorf("%s: %q is not escaped", what, raw)
		}
	}
}

// want fails unless the answer has the status and every text.
func (s shown) want(status int, texts ...string) shown {
	s.t.Helper()
	if s.status != status {
		s.t.Errorf("status %d, want %d: %s", s.status, status, s.body)
	}
	for _, text := range texts {
		if !strings.Contains(s.body, text) {
			s.t.Errorf("no %q in the page:\n%s", text, s.body)
		}
	}
	return s
}

func (s shown) without(texts ...string) shown {
	s.t.Helper()
	for _, text := range texts {
		if strings.Contains(s.body, text) {
			s.t.Errorf("%q is in the page:\n%s", text, s.body)
		}
	}
	return s
}

// leads fails unless the answer is a redirect to this address.
func (s shown) leads(to string) shown {
	s.t.Helper()
	if s.status != http.StatusSeeOther || s.header.Get("Location") != to {
		s.t.Errorf("%d to %q, want 303 to %q: %s", s.status, s.header.Get("Location"), to, s.body)
	}
	return s
}

// field is the value of the first field of a name.
func (s shown) field(name string) string {
	s.t.Helper()
	m := regexp.MustCompile(`name="` + name + `" value="([^"]*)"`).FindStringSubmatch(s.body)
	if m == nil {
		s.t.Fatalf("no field %s in the page:\n%s", name, s.body)
	}
	return m[1]
}

func TestPages(t *testing.T) {
	t.Parallel()
	reserved := func(file string) answers {
		return catalogue(answers{"GET /api/v1/reservations/" + reservationID: {{200, file}}})
	}
	ordered := func(file string) answers {
		return catalogue(answers{"GET /api/v1/orders/" + reservationID: {{200, file}}})
	}
	paid := func(file string) answers {
		return answers{"GET /api/v1/payments/" + paymentID: {{200, file}}}
	}
	aSale := func(file string) answers { return catalogue(answers{"GET /api/v1/sales/" + saleID: {{200, file}}}) }
	products := answers{"GET /api/v1/products": {{200, "products"}}}
	const sale, reservation, order, payment = "/sales/" + saleID, "/reservations/" + reservationID, "/orders/" + reservationID, "/payments/" + paymentID
	for _, c := range []struct {
		name, as, path string
		answers        answers
		status         int
		has, hasNot    []string
	}{
		{"sales", "", "/", answers{"GET /api/v1/sales": {{200, "sales"}}}, 200, []string{"Black &lt;i&gt;Friday", `chip open`, `href="/?page=` + saleID + `"`, "2 items"}, []string{"/logout"}},
		{"logged out", "", "/?said=bye", answers{"GET /api/v1/sales": {{200, "sales"}}}, 200, []string{"Logged out"}, nil},
		{"nothing is said that is not ours", "", "/?said=%3Cb%3E", answers{"GET /api/v1/sales": {{200, "sales"}}}, 200, nil, []string{`class="notice`}},
		{"sale, nobody", "", sale, aSale("sale_open"), 200, []string{"&lt;script&gt;alert(1)&lt;/script&gt; shoe", "89.00 EUR", `data-n="held">1<`, `width="25.0"`, "Log in to reserve", `data-poll="/sales/` + saleID + `/stock?page=1"`, "At most 2 of each"}, []string{`name="key"`}},
		{"sale, shopper", shopperToken, sale, aSale("sale_open"), 200, []string{`name="key"`, `max="2"`, `<button data-buy>Reserve`, "/logout"}, []string{"/operator"}},
		{"sale, scheduled", shopperToken, sale, aSale("sale_scheduled"), 200, []string{"Opens any moment", `<button data-buy disabled>`}, []string{`<button data-buy>`}},
		{"sale, paused", shopperToken, sale, aSale("sale_paused"), 200, []string{"Paused", `<button data-buy disabled>`}, []string{`<button data-buy>`}},
		{"sale, ended", shopperToken, sale, aSale("sale_ended"), 200, []string{"Over", `<button data-buy disabled>`}, []string{`<button data-buy>`}},
		{"sale, sold out", shopperToken, sale, aSale("sale_sold_out"), 200, []string{`<button data-buy disabled>`, `data-hint>Sold out`}, nil},
		{"sale, not there", "", sale, answers{"GET /api/v1/sales/" + saleID: {{404, "problem_not-found"}}}, 404, []string{"Not found", "Check the address"}, nil},
		{"products", "", "/products?q=shoe&category=x&min=1&max=100.5", answers{"GET /api/v1/products/search": {{200, "products"}}}, 200, []string{"&lt;script&gt;", "99.00 EUR", `value="100.5"`}, nil},
		{"products, no price", "", "/products?min=cheap", nil, 422, []string{"Not a price", `value="cheap"`}, nil},
		{"products, no range", "", "/products?min=2&max=1.99", nil, 422, []string{"No such range"}, nil},
		{"products, refused", "", "/products?q=" + strings.Repeat("x", 101), answers{"GET /api/v1/products/search": {{422, "problem_invalid"}}}, 422, []string{"A value is not allowed"}, nil},
		{"product", "", "/products/" + shoeID, catalogue(nil), 200, []string{"&lt;script&gt;", "&lt;b&gt;fast", `href="/sales/` + saleID + `"`, "<b>3</b> available"}, nil},
		{"login", "", "/login?next=/orders", nil, 200, []string{`name="next" value="/orders"`}, nil},
		{"login, leading elsewhere", "", "/login?next=//evil.example", nil, 200, []string{`name="next" value="/"`}, []string{"evil"}},
		{"register", "", "/register", nil, 200, []string{"10 to 128 characters"}, nil},
		{"orders", shopperToken, "/orders", answers{"GET /api/v1/orders": {{200, "orders"}}}, 200, []string{"1 × SHOE-42", "cancelled", "/orders?after=", "Pay or cancel"}, nil},
		{"order, open", shopperToken, order, ordered("order_open"), 200, []string{"Pay or cancel", `data-state="open"`}, nil},
		{"order, confirmed", shopperToken, order, ordered("order_confirmed"), 200, []string{"Confirmed: it is yours", "&lt;script&gt;"}, []string{"data-poll"}},
		{"order, cancelled", shopperToken, order, ordered("order_cancelled"), 200, []string{"(declined)", "Reserve again"}, nil},
		{"order, refunded", shopperToken, order, ordered("order_refunded"), 200, []string{"Refunded"}, nil},
		{"reservation, requested", shopperToken, reservation, reserved("reservation_requested"), 200, []string{"being decided", `data-state="requested"`, `<noscript><meta http-equiv="refresh"`}, []string{"/pay"}},
		{"reservation, held", shopperToken, reservation, reserved("reservation_held"), 200, []string{"Held for you until", "Pay 89.00 EUR", "tok_ok", "tok_decline", "tok_timeout", "tok_charge_then_timeout", "/cancel", `data-until="2026-06-01T12:05`}, []string{"http-equiv"}},
		{"reservation, paying", shopperToken, reservation, reserved("reservation_paying"), 200, []string{"under way", "http-equiv"}, []string{"/pay"}},
		{"reservation, paid", shopperToken, reservation, reserved("reservation_paid"), 200, []string{"it is yours", order}, []string{"/pay", "data-poll"}},
		{"reservation, cancelled", shopperToken, reservation, reserved("reservation_cancelled"), 200, []string{"You gave it back"}, nil},
		{"reservation, expired", shopperToken, reservation, catalogue(answers{
			"GET /api/v1/reservations/" + reservationID: {{200, "reservation_expired"}}, "GET /api/v1/sales/" + soldOutID: {{200, "sale_sold_out"}},
		}), 200, []string{"The time to pay is over", "Reserve again"}, nil},
		{"reservation, declined", shopperToken, reservation, reserved("reservation_declined"), 200, []string{"another means of payment"}, nil},
		{"reservation, refunded", shopperToken, reservation, reserved("reservation_refunded"), 200, []string{"refunded"}, nil},
		{"reservation, refused", shopperToken, reservation, reserved("reservation_refused"), 200, []string{"All held", "try again", sale}, nil},
		{"payment, requested", shopperToken, payment, paid("payment_requested"), 200, []string{"under way", `data-state="requested"`}, nil},
		{"payment, unknown", shopperToken, payment, paid("payment_unknown"), 200, []string{"bank has not answered", "http-equiv"}, nil},
		{"payment, captured", shopperToken, payment, paid("payment_captured"), 200, []string{"Paid."}, []string{"data-poll"}},
		{"payment, refunded", shopperToken, payment, paid("payment_refunded"), 200, []string{"on its way back"}, nil},
		{"operator", operatorToken, "/operator", catalogue(answers{"GET /api/v1/sales": {{200, "sales"}}}), 200, []string{`<td class="n">104</td><td class="n">103</td><td class="n">1</td><td class="n">0</td><td class="n">0.0</td>`, "/operator/sales/" + saleID}, nil},
		{"operator, a shopper", shopperToken, "/operator", nil, 403, []string{"Operators only", "/login?next=%2Foperator"}, nil},
		{"operator's sale, scheduled", operatorToken, "/operator" + sale, aSale("sale_scheduled"), 200, []string{"/open", "/end", "Add stock"}, []string{"/pause"}},
		{"operator's sale, open", operatorToken, "/operator" + sale, aSale("sale_open"), 200, []string{"/pause", "/end", `data-state="open"`, "data-burn"}, []string{saleID + "/open"}},
		{"operator's sale, ended", operatorToken, "/operator" + sale, aSale("sale_ended"), 200, []string{"Ended for good"}, []string{"/pause", "Add stock"}},
		{"new product", operatorToken, "/operator/products/new", nil, 200, []string{`value="EUR"`}, nil},
		{"new sale", operatorToken, "/operator/sales/new", products, 200, []string{`<option value="SHOE-42">&lt;script&gt;`, `value="2026-06-01T12:01"`, `value="2026-06-01T13:01"`}, nil},
		{"refund", operatorToken, "/operator/refund?order=" + reservationID, nil, 200, []string{`value="` + reservationID}, nil},
		{"audit, not run", operatorToken, "/operator/audit", nil, 200, []string{"Run the audit"}, []string{"Equation"}},
		{"audit", operatorToken, "/operator/audit?run=1", answers{"GET /api/v1/admin/audit": {{200, "audit"}}}, 200, []string{"Every equation holds", "Σ granted = total", "buckets ", "holds</span>"}, []string{"broken"}},
		{"audit, out of balance", operatorToken, "/operator/audit?run=1", answers{"GET /api/v1/admin/audit": {{200, "audit_broken"}}}, 200, []string{"Out of balance", "broken</span>", "holds</span>"}, nil},
		{"audit, a shopper", shopperToken, "/operator/audit?run=1", answers{"GET /api/v1/admin/audit": {{403, "problem_forbidden"}}}, 403, []string{"Operators only", "req-1"}, nil},
		{"no such page", "", "/nothing", nil, 404, []string{"There is no such page"}, nil},
		{"no id", "", "/sales/..%2Fadmin", nil, 404, []string{"Not found"}, nil},
		{"no asset", "", "/static/other.css", nil, 404, []string{"Not found"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := open(t, c.answers)
			if c.as != "" {
				b.as(c.as)
			}
			b.get(c.path).want(c.status, c.has...).without(c.hasNot...)
		})
	}
}

func TestPagesWithoutLogin(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/orders", "/orders/" + reservationID, "/reservations/" + reservationID, "/payments/" + paymentID, "/operator", "/operator/audit?run=1"} {
		open(t, nil).get(path).leads("/login?next=" + url.QueryEscape(path))
	}
	open(t, nil).get("/reservations/"+reservationID+"/state").want(401, "Not logged in")
}

func TestFormAddressesAsPages(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	for path, to := range map[string]string{
		"/sales/" + saleID + "/reserve": "/sales/" + saleID, "/reservations/" + reservationID + "/pay": "/reservations/" + reservationID,
		"/reservations/" + reservationID + "/cancel": "/reservations/" + reservationID,
		"/operator/sales": "/operator/sales/new", "/operator/products": "/operator/products/new",
	} {
		b.get(path).leads(to)
	}
}

func reserveForm(key string) []string {
	return []string{"sku", "SHOE-42", "quantity", "1", "amount", "8900", "currency", "EUR", "key", key, "back", "/sales/" + saleID}
}

// TestRefusals: every refusal is a sentence that says what to do next, and offers another try only where that can help;
// with the same key where the request may have been handled, with a new one where it was decided.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind, title, next string
		status            int
		again             again
	}{
		{"sold-out", "Sold out", "Every unit has been bought", 409, never},
		{"held-out", "All held", "Some may come back: wait a moment, then try again", 409, newKey},
		{"limit-reached", "Limit per shopper reached", "Pay for what you hold, or cancel it", 409, never},
		{"too-many-unpaid", "Too many holds that are not paid for", "Pay for them or cancel some", 409, never},
		{"rate-limited", "Too many requests", "Wait a second, then try again", 429, sameKey},
		{"sale-not-open", "The sale is not open", "says when it opens", 422, never},
		{"price-changed", "The price is another", "reserve again if you agree", 422, never},
		{"quantity", "Quantity not allowed", "Choose 1 or more", 422, never},
		{"unknown-item", "The sale has no such item", "Choose one of the items", 422, never},
		{"idempotency-key-reused", "Idempotency-Key used for another request", "load the page again", 422, never},
		{"in-flight", "The same request is being handled", "it happens once", 409, sameKey},
		{"overloaded", "Overloaded", "Wait some seconds, then try again", 503, sameKey},
		{"draining", "Shutting down", "Wait a second, then try again", 503, sameKey},
		{"uncertain", "Not known whether it happened", "Try again to find out", 503, sameKey},
		{"internal", "Something went wrong here", "tell us the request id", 500, sameKey},
	} {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			b := open(t, catalogue(answers{"POST /api/v1/reservations": {{c.status, "problem_" + c.kind}}})).as(shopperToken)
			s := b.post("/sales/"+saleID+"/reserve", reserveForm("once")...).
				want(c.status, c.title, c.next, "1 × &lt;script&gt;", "89.00 EUR", "req-1", `data-kind="`+c.kind+`"`)
			switch c.again {
			case never:
				s.without("Try again<")
			case sameKey:
				if s.want(c.status, "Try again<").field("key") != "once" {
					t.Error("another try has another key")
				}
			case newKey:
				if key := s.want(c.status, "Try again<").field("key"); key == "once" || key == "" {
					t.Errorf("another try has the key %q", key)
				}
			}
		})
	}
}

func TestReserve(t *testing.T) {
	t.Parallel()
	for status, file := range map[int]string{201: "reservation_created", 202: "reservation_requested"} {
		b := open(t, catalogue(answers{
			"POST /api/v1/reservations":                 {{status, file}},
			"GET /api/v1/reservations/" + reservationID: {{200, "reservation_requested"}, {200, "reservation_requested"}, {200, "reservation_held"}},
		})).as(shopperToken)
		key := b.get("/sales/" + saleID).field("key")
		for range 2 { // a double click
			b.post("/sales/"+saleID+"/reserve", reserveForm(key)...).leads("/reservations/" + reservationID)
		}
		sent := b.api.to("POST /api/v1/reservations")
		if len(sent) != 2 || sent[0].key != key || sent[1].key != key || sent[0].auth != "Bearer "+shopperToken {
			t.Errorf("sent %+v, want both with the key %q", sent, key)
		}
		if want := `{"quantity":1,"sale_id":"` + saleID + `","sku":"SHOE-42","unit_price":{"amount":8900,"currency":"EUR"}}`; sent[0].body != want {
			t.Errorf("sent %s, want %s", sent[0].body, want)
		}
		if again := b.get("/sales/" + saleID).field("key"); again == key {
			t.Error("another page has the same key")
		}
		b.get("/reservations/"+reservationID).want(200, "being decided")
		b.get("/reservations/"+reservationID+"/state").want(200, `"state":"requested"`)
		b.get("/reservations/"+reservationID+"/state").want(200, `{"now":"2026-06-01T12:01:00Z","state":"held"}`)
	}
	for _, bad := range [][]string{
		{"key", ""}, {"key", "a b"}, {"key", strings.Repeat("x", 129)}, {"key", "k", "quantity", "one"}, {"key", "k", "quantity", "1", "amount", "x"},
	} {
		open(t, nil).as(shopperToken).post("/sales/"+saleID+"/reserve", bad...).want(400, "The form cannot be read")
	}
}

func TestPay(t *testing.T) {
	t.Parallel()
	const pay = "POST /api/v1/orders/" + reservationID + "/payments"
	const page = "/reservations/" + reservationID + "/pay"
	form := []string{"key", "once", "order", reservationID, "method", "tok_ok"}
	try := func(t *testing.T, now string, r reply) (*browser, shown) {
		t.Helper()
		b := open(t, catalogue(answers{pay: {r}, "GET /api/v1/reservations/" + reservationID: {{200, now}}})).as(shopperToken)
		return b, b.post(page, form...)
	}
	b, s := try(t, "reservation_held", reply{201, "payment_created"})
	s.leads("/orders/" + reservationID)
	if sent := b.api.to(pay); len(sent) != 1 || sent[0].key != "once" || sent[0].body != `{"method":"tok_ok"}` {
		t.Errorf("sent %+v", sent)
	}
	_, s = try(t, "reservation_held", reply{202, "payment_requested"})
	s.leads("/payments/01980000-0000-7000-8000-0000000000d3")
	_, s = try(t, "reservation_declined", reply{402, "problem_payment-declined"})
	s.want(402, "Payment declined", "another means of payment").without("/pay\"")
	_, s = try(t, "reservation_paid", reply{409, "problem_illegal-move"})
	s.want(409, "It has changed meanwhile", "it is yours")
	// The order follows the hold a moment later: the same key, for the same payment.
	_, s = try(t, "reservation_held", reply{404, "problem_not-found"})
	if s.want(404, "Nearly ready", "charged once").field("key") != "once" {
		t.Error("another try has another key")
	}
	_, s = try(t, "reservation_held", reply{503, "problem_uncertain"})
	if s.want(503, "Try again to find out").field("key") != "once" {
		t.Error("another try has another key")
	}
	open(t, nil).as(shopperToken).post(page, "key", "k", "order", "../x", "method", "tok_ok").want(400, "cannot be read")

	expired := catalogue(answers{
		pay: {{410, "problem_expired"}}, "GET /api/v1/reservations/" + reservationID: {{200, "reservation_expired"}}, "GET /api/v1/sales/" + soldOutID: {{200, "sale_sold_out"}},
	})
	open(t, expired).as(shopperToken).post(page, form...).want(410, "The hold has expired", "Reserve again")
}

func TestCancel(t *testing.T) {
	t.Parallel()
	const cancel, page = "DELETE /api/v1/reservations/" + reservationID, "/reservations/" + reservationID
	for r, to := range map[reply]string{{200, "reservation_cancelled"}: "?said=cancelled", {202, "reservation_held"}: "?said=accepted"} {
		open(t, answers{cancel: {r}}).as(shopperToken).post(page + "/cancel").leads(page + to)
	}
	now := answers{cancel: {{409, "problem_illegal-move"}}, "GET /api/v1" + page: {{200, "reservation_paid"}}}
	open(t, catalogue(now)).as(shopperToken).post(page+"/cancel").want(409, "It has changed meanwhile", "it is yours")
}

func TestLiveStock(t *testing.T) {
	t.Parallel()
	b := open(t, catalogue(nil))
	s := b.get("/sales/" + saleID + "/stock").want(200)
	b.get("/sales/" + saleID + "/stock")
	var got struct {
		Phase, Label, Word string
		Until              time.Time
		Items              []liveItem
	}
	if err := json.Unmarshal([]byte(s.body), &got); err != nil {
		t.Fatal(err)
	}
	want := liveItem{SKU: "SHOE-42", Known: true, Total: 4, Available: 3, Held: 1, Buyable: true}
	if got.Phase != "open" || got.Word != "Ends in" || got.Until.Hour() != 13 || len(got.Items) != 2 || got.Items[0] != want {
		t.Errorf("%s", s.body)
	}
	if n := len(b.api.to("GET /api/v1/sales/" + saleID)); n != 1 {
		t.Errorf("two watchers at the same moment asked the API %d times", n)
	}
	open(t, answers{"GET /api/v1/sales/" + saleID: {{404, "problem_not-found"}}}).get("/sales/"+saleID+"/stock").want(404, `"error"`)
}

func TestAccounts(t *testing.T) {
	t.Parallel()
	b := open(t, answers{
		"POST /api/v1/auth/register": {{422, "problem_weak-password"}, {422, "problem_invalid-email"}, {409, "problem_email-taken"}, {201, "user"}},
		"POST /api/v1/auth/login":    {{401, "problem_bad-credentials"}, {503, "problem_login-busy"}, {200, "tokens"}},
	})
	b.get("/register")
	form := []string{"email", "ann@example.com", "password", "correct horse", "next", "/sales/" + saleID}
	b.post("/register", form...).want(422, "Use 10 to 128 characters", `value="ann@example.com"`).without("correct horse")
	b.post("/register", form...).want(422, "name@example.com")
	b.post("/register", form...).want(409, "Log in instead")
	b.post("/register", form...).leads("/login?said=welcome&next=" + url.QueryEscape("/sales/"+saleID))
	b.post("/login", form...).want(401, "Wrong e-mail address or password", `value="/sales/`+saleID).without("correct horse")
	b.post("/login", form...).want(503, "Wait a second").without("correct horse")
	secret := b.cookie(csrfCookie)
	b.post("/login", form...).leads("/sales/" + saleID)
	if b.cookie(accessCookie) != shopperToken || b.cookie(refreshCookie) != "refresh-one" || b.cookie(csrfCookie) == secret {
		t.Errorf("cookies %v; at a login the forms get a new secret", b.http.Jar.Cookies(b.site))
	}
	if sent := b.api.to("POST /api/v1/auth/login"); sent[2].body != `{"email":"ann@example.com","password":"correct horse"}` || sent[2].auth != "" {
		t.Errorf("sent %+v", sent[2])
	}
	b.post("/logout").leads("/?said=bye")
	if b.cookie(accessCookie)+b.cookie(refreshCookie) != "" {
		t.Error("still logged in")
	}
}

func TestCookies(t *testing.T) {
	t.Parallel()
	b := open(t, answers{"POST /api/v1/auth/login": {{200, "tokens"}}})
	for _, scheme := range []string{"http", "https"} {
		prefix := map[string]string{"http": "", "https": "__Host-"}[scheme]
		s := b.do("POST", "/login", url.Values{"csrf": {"secret"}}, "Cookie", prefix+csrfCookie+"=secret", "X-Forwarded-Proto", scheme)
		set := (&http.Response{Header: s.header}).Cookies()
		if len(set) != 3 {
			t.Fatalf("%s sets %v", scheme, set)
		}
		for _, c := range set {
			if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Secure != (scheme == "https") || c.Path != "/" || c.Domain != "" ||
				strings.HasPrefix(c.Name, "__Host-") != (scheme == "https") {
				t.Errorf("%s: %s", scheme, c.Raw)
			}
		}
	}
}

func TestForgedForms(t *testing.T) {
	t.Parallel()
	b := open(t, nil).as(operatorToken) // no answers: every request to the API is a failure
	for _, path := range []string{
		"/login", "/register", "/logout", "/sales/" + saleID + "/reserve", "/reservations/" + reservationID + "/pay", "/reservations/" + reservationID + "/cancel",
		"/operator/sales", "/operator/sales/" + saleID + "/open", "/operator/sales/" + saleID + "/items/SHOE-42", "/operator/products", "/operator/refund",
	} {
		form := url.Values{"key": {"k"}, "quantity": {"1"}, "order": {reservationID}}
		b.do("POST", path, form).want(403, "This form is too old")
		form.Set("csrf", "guess")
		b.do("POST", path, form).want(403, "This form is too old")
		form.Set("csrf", "secret")
		b.do("POST", path, form, "Sec-Fetch-Site", "cross-site").want(403, "This form is too old")
		b.do("POST", path, form, "Origin", "http://evil.example").want(403, "This form is too old")
	}
	if b.cookie(accessCookie) != operatorToken {
		t.Error("a forged form has logged somebody out")
	}
}

func TestLargeForm(t *testing.T) {
	t.Parallel()
	open(t, nil).as(shopperToken).post("/operator/products", "name", strings.Repeat("x", maxForm)).want(413, "Send less text")
}

// TestRefresh: an access token that has expired is refreshed once; when that fails, one logs in.
func TestRefresh(t *testing.T) {
	t.Parallel()
	expired := reply{401, "problem_token-expired"}
	b := open(t, answers{
		"GET /api/v1/orders":        {expired, {200, "orders"}},
		"POST /api/v1/auth/refresh": {{200, "tokens_refreshed"}},
	}).as(shopperToken)
	b.get("/orders").want(200, "SHOE-42")
	if b.cookie(accessCookie) != "e30.eyJyb2xlIjoic2hvcHBlciJ9.two" || b.cookie(refreshCookie) != "refresh-two" {
		t.Errorf("cookies %v", b.http.Jar.Cookies(b.site))
	}
	sent := b.api.to("GET /api/v1/orders")
	if len(sent) != 2 || sent[1].auth != "Bearer e30.eyJyb2xlIjoic2hvcHBlciJ9.two" {
		t.Errorf("sent %+v", sent)
	}
	// A tab that still has the old cookie: the refresh token is not sent a second time, which would end the login.
	b.as("").get("/orders").want(200)
	if got := b.api.to("POST /api/v1/auth/refresh"); len(got) != 1 || got[0].body != `{"refresh_token":"refresh-one"}` {
		t.Errorf("refreshed %+v", got)
	}

	for name, a := range map[string]answers{
		"the refresh token is used up":  {"GET /api/v1/orders": {expired}, "POST /api/v1/auth/refresh": {{401, "problem_refresh-reused"}}},
		"the new token is refused, too": {"GET /api/v1/orders": {expired}, "POST /api/v1/auth/refresh": {{200, "tokens_refreshed"}}},
	} {
		b := open(t, a).as(shopperToken)
		b.get("/orders?after=x").leads("/login?next=%2Forders%3Fafter%3Dx")
		if len(b.api.to("POST /api/v1/auth/refresh")) != 1 || b.cookie(accessCookie)+b.cookie(refreshCookie) != "" {
			t.Errorf("%s: cookies %v, asked %+v", name, b.http.Jar.Cookies(b.site), b.api.asked)
		}
	}

	// One refresh a visit, also when it began without an access token.
	b = open(t, answers{"GET /api/v1/orders": {expired}, "POST /api/v1/auth/refresh": {{200, "tokens_refreshed"}}})
	b.do("GET", "/orders", nil, "Cookie", refreshCookie+"=refresh-one").leads("/login?next=%2Forders")
	if n := len(b.api.to("POST /api/v1/auth/refresh")); n != 1 {
		t.Errorf("refreshed %d times in one visit", n)
	}

	b = open(t, answers{"POST /api/v1/reservations": {expired}, "POST /api/v1/auth/refresh": {{401, "problem_refresh-reused"}}}).as(shopperToken)
	b.post("/sales/"+saleID+"/reserve", reserveForm("k")...).leads("/login?next=" + url.QueryEscape("/sales/"+saleID))

	// The API is too busy to refresh: nobody is logged out for that.
	b = open(t, answers{"GET /api/v1/orders": {expired}, "POST /api/v1/auth/refresh": {{503, "problem_overloaded"}}}).as(shopperToken)
	b.get("/orders").want(503, "Wait some seconds")
	if b.cookie(refreshCookie) != "refresh-one" {
		t.Error("logged out by a 503")
	}
}

// TestRefreshTogether: pages that find the same token expired at the same time refresh it once.
func TestRefreshTogether(t *testing.T) {
	t.Parallel()
	b := open(t, answers{"GET /api/v1/orders": {{200, "orders"}}, "POST /api/v1/auth/refresh": {{200, "tokens_refreshed"}}})
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if s := b.do("GET", "/orders", nil, "Cookie", refreshCookie+"=refresh-one"); s.status != 200 {
				t.Errorf("%d %s", s.status, s.body)
			}
		})
	}
	all.Wait()
	if got := len(b.api.to("POST /api/v1/auth/refresh")); got != 1 {
		t.Errorf("refreshed %d times", got)
	}
}

func TestDown(t *testing.T) {
	t.Parallel()
	b := open(t, nil).as(operatorToken)
	b.stop()
	const sentence = "The shop does not answer"
	for _, path := range []string{
		"/", "/sales/" + saleID, "/products", "/products/" + shoeID, "/orders", "/orders/" + reservationID, "/reservations/" + reservationID,
		"/payments/" + paymentID, "/operator", "/operator/sales/" + saleID, "/operator/audit?run=1",
	} {
		if s := b.get(path).want(503, sentence, "Wait a few seconds"); s.header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", path)
		}
	}
	b.get("/operator/sales/new").want(200) // without suggestions
	b.get("/sales/"+saleID+"/stock").want(503, `"error"`)
	if s := b.post("/sales/"+saleID+"/reserve", reserveForm("once")...).want(503, sentence, "Try again<"); s.field("key") != "once" {
		t.Error("another try has another key")
	}
	s := b.post("/reservations/"+reservationID+"/pay", "key", "once", "order", reservationID, "method", "tok_ok", "back", "/reservations/"+reservationID).
		want(503, sentence, `action="/reservations/`+reservationID+`/pay"`, "Go back")
	if s.field("key") != "once" || s.field("method") != "tok_ok" {
		t.Error("another try is another request")
	}
	b.post("/login", "email", "a@example.com", "password", "correct horse battery").want(503, sentence).without("correct horse")
	if b.cookie(accessCookie) != operatorToken {
		t.Error("logged out")
	}
}

// TestNoProblem: what a proxy in front of the API answers by itself is no answer of the API.
func TestNoProblem(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]http.HandlerFunc{
		"502 page": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "<h1>Bad Gateway</h1>", http.StatusBadGateway)
		},
		"200 page": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<h1>Hello</h1>") },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://evil.example/", http.StatusFound)
		},
		"401, no reason": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
	} {
		api := httptest.NewServer(h)
		t.Cleanup(api.Close)
		c, err := New(Config{API: api.URL})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		c.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		if w.Code != 503 || !strings.Contains(w.Body.String(), "The shop does not answer") {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

func TestOperatorForms(t *testing.T) {
	t.Parallel()
	product := []string{"sku", "SHOE-42", "name", "Shoe", "description", "Blue", "category", "shoes", "price", "99.00", "currency", "eur"}
	b := open(t, answers{"POST /api/v1/admin/products": {{409, "problem_sku-taken"}, {422, "problem_invalid"}, {403, "problem_forbidden"}, {201, "product_created"}}}).as(operatorToken)
	b.post("/operator/products", product...).want(409, "Choose another SKU", `value="99.00"`)
	b.post("/operator/products", product...).want(422, "sku")
	b.post("/operator/products", product...).want(403, "Operators only")
	b.post("/operator/products", product...).leads("/products/" + shoeID + "?said=product")
	if got, want := b.api.asked[3].body, `{"category":"shoes","description":"Blue","name":"Shoe","price":{"amount":9900,"currency":"EUR"},"sku":"SHOE-42"}`; got != want {
		t.Errorf("sent %s, want %s", got, want)
	}
	product[9] = "9.999"
	b.post("/operator/products", product...).want(422, "no more digits", `value="9.999"`)

	status := "POST /api/v1/admin/sales/" + saleID
	stock := status + "/items/SHOE-42/stock"
	b = open(t, answers{
		status + "/open": {{200, "sale_opened"}}, status + "/pause": {{202, "sale_paused"}}, status + "/end": {{200, "sale_ended"}},
		stock: {{200, "sale_open"}, {202, "sale_open"}, {409, "problem_ended"}},
	}).as(operatorToken)
	const page = "/operator/sales/" + saleID
	b.post(page + "/open").leads(page + "?said=done")
	b.post(page + "/pause").leads(page + "?said=accepted")
	b.post(page + "/end").leads(page + "?said=done")
	b.post(page+"/explode").want(404, "no such page")
	b.post(page+"/items/SHOE-42", "key", "once", "quantity", "7").leads(page + "?said=done")
	b.post(page+"/items/SHOE-42", "key", "once", "quantity", "7").leads(page + "?said=accepted")
	b.post(page+"/items/SHOE-42", "key", "once", "quantity", "7", "back", page).want(409, "It has changed meanwhile", `href="`+page+`">Go back`)
	b.post(page+"/items/SHOE-42", "key", "once", "quantity", "many").want(400, "cannot be read")
	if sent := b.api.to(stock); sent[0].key != "once" || sent[1].key != "once" || sent[0].body != `{"quantity":7}` {
		t.Errorf("sent %+v", sent)
	}

	refund := "POST /api/v1/admin/orders/" + reservationID + "/refund"
	b = open(t, answers{refund: {{200, "payment_refunded"}, {202, "payment_refunded"}, {404, "problem_not-found"}, {409, "problem_illegal-move"}}}).as(operatorToken)
	b.post("/operator/refund", "order", " "+strings.ToUpper(reservationID)+" ").want(200, "Refunded", "89.00 EUR")
	b.post("/operator/refund", "order", reservationID).want(200, "Accepted", "Send the form again")
	b.post("/operator/refund", "order", reservationID).want(404, "No payment to refund")
	b.post("/operator/refund", "order", reservationID).want(409, "Only an order that is confirmed")
	b.post("/operator/refund", "order", "../x").want(422, "copy it")
}

func TestCreateSale(t *testing.T) {
	t.Parallel()
	const create = "POST /api/v1/admin/sales"
	form := func(change ...string) []string {
		v := []string{
			"key", "once", "name", "Black Friday", "opens_at", "2026-06-01T12:01", "ends_at", "2026-06-01T13:01:30", "limit", "2", "hold", "300", "currency", "EUR",
			"sku", "SHOE-42", "price", "89", "stock", "4", "sku", " ", "price", "", "stock", "", "sku", "HAT", "price", "4.5", "stock", "100",
		}
		for i := 0; i+1 < len(change); i += 2 {
			for j := 0; j+1 < len(v); j += 2 {
				if v[j] == change[i] {
					v[j+1] = change[i+1]
				}
			}
		}
		return v
	}
	b := open(t, answers{create: {{422, "problem_unknown-sku"}, {503, "problem_overloaded"}, {201, "sale_created"}}, "GET /api/v1/products": {{200, "products"}}}).as(operatorToken)
	b.post("/operator/sales", form()...).want(422, "Create the product first", `value="Black Friday"`, `value="HAT"`, `value="once"`)
	b.post("/operator/sales", form()...).want(503, "Try again<")
	for range 2 { // a double click
		b.post("/operator/sales", form()...).leads("/operator/sales/" + saleID + "?said=done")
	}
	sent := b.api.to(create)
	want := `{"name":"Black Friday","opens_at":"2026-06-01T12:01:00Z","ends_at":"2026-06-01T13:01:30Z","per_user_limit":2,"hold_seconds":300,"items":[` +
		`{"sku":"SHOE-42","unit_price":{"amount":8900,"currency":"EUR"},"stock":4},{"sku":"HAT","unit_price":{"amount":450,"currency":"EUR"},"stock":100}]}`
	if len(sent) != 3 || sent[2].body != want {
		t.Errorf("sent %+v, want three, the last %s", sent, want)
	}

	b = open(t, answers{"GET /api/v1/products": {{200, "products"}}}).as(operatorToken)
	rows := strings.Count(b.post("/operator/sales", append(form(), "more", "1")...).want(200, `value="HAT"`).body, `name="sku"`)
	if rows != 3+moreRows {
		t.Errorf("%d rows", rows)
	}
	for field, sentence := range map[string]string{
		"opens_at": "when the sale opens", "ends_at": "when the sale ends", "limit": "limit per shopper", "hold": "time to pay", "price": "The price of SHOE-42", "stock": "The units of SHOE-42",
	} {
		b.post("/operator/sales", form(field, "x")...).want(422, sentence, `value="Black Friday"`)
	}
	b.post("/operator/sales", form("sku", "", "price", "", "stock", "")...).want(422, "at least one item")
	many := form()
	for range 60 {
		many = append(many, "sku", "")
	}
	if rows := strings.Count(b.post("/operator/sales", append(many, "more", "1")...).want(200).body, `name="sku"`); rows != maxRows {
		t.Errorf("%d rows, want at most %d", rows, maxRows)
	}
}

func TestSearchQuery(t *testing.T) {
	t.Parallel()
	b := open(t, answers{"GET /api/v1/products/search": {{200, "products_page"}}})
	s := b.get("/products?q=blue+shoe&category=%3Ci%3Eshoes&min=1.5&max=100").want(200, "More products")
	if got, want := b.api.asked[0].query, "category=%3Ci%3Eshoes&limit=20&max_price=10000&min_price=150&q=blue+shoe"; got != want {
		t.Errorf("asked %s, want %s", got, want)
	}
	s.want(200, `href="/products?category=%3Ci%3Eshoes&amp;max=100&amp;min=1.5&amp;page=`+shoeID+`&amp;q=blue&#43;shoe"`)
}

func TestStatic(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	page := b.get("/login").body
	for _, name := range []string{"console.css", "console.js", "icon.svg"} {
		at := regexp.MustCompile(`"(/static/` + name + `\?v=[0-9a-f]+)"`).FindStringSubmatch(page)
		if at == nil {
			t.Fatalf("the page does not use %s", name)
		}
		s := b.get(at[1]).want(200)
		if !strings.Contains(s.header.Get("Cache-Control"), "immutable") || s.header.Get("Set-Cookie") != "" {
			t.Errorf("%s: %v", name, s.header)
		}
		b.do("GET", at[1], nil, "If-None-Match", s.header.Get("ETag")).want(304)
		if s := b.get("/static/" + name + "?v=old").want(200); s.header.Get("Cache-Control") != "no-cache" {
			t.Errorf("an old address of %s: %v", name, s.header)
		}
	}
}

func TestRequestIDTravels(t *testing.T) {
	t.Parallel()
	var id, trace string
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, trace = r.Header.Get("X-Request-Id"), r.Header.Get("Traceparent")
		_, _ = w.Write(golden(t, "sales"))
	}))
	defer api.Close()
	c, err := New(Config{API: api.URL + "/"})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("X-Request-Id", "mine")
	r.Header.Set("Traceparent", "00-1-2-00")
	c.ServeHTTP(httptest.NewRecorder(), r)
	if id != "mine" || trace != "00-1-2-00" {
		t.Errorf("request %q, trace %q", id, trace)
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "127.0.0.1:8080", "ftp://host", "http://", "http://host\x00"} {
		if _, err := New(Config{API: bad}); err == nil {
			t.Errorf("%q is taken for an API", bad)
		}
	}
}

func TestTemplates(t *testing.T) {
	t.Parallel()
	pages, err := parsePages(files)
	if err != nil {
		t.Fatal(err)
	}
	for name, page := range pages {
		if page.Lookup("main") == nil {
			t.Errorf("the page %s has no main part", name)
		}
	}
	if len(pages) != 18 {
		t.Errorf("%d pages", len(pages))
	}
	whole := fstest.MapFS{"templates/layout.html": {Data: []byte(`{{define "layout"}}{{end}}`)}, "templates/parts.html": {Data: []byte(`{{define "x"}}{{end}}`)}}
	if _, err := parsePages(whole); err != nil {
		t.Error(err)
	}
	whole["templates/broken.html"] = &fstest.MapFile{Data: []byte(`{{define "main"}}{{if}}{{end}}`)}
	if _, err := parsePages(whole); err == nil {
		t.Error("a broken template is parsed")
	}
	if _, err := parsePages(fstest.MapFS{}); err == nil {
		t.Error("no templates are parsed")
	}
	if _, err := loadAssets(fstest.MapFS{}); err == nil {
		t.Error("no assets are loaded")
	}
}
