package main

import (
	"context"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// browser fills in forms as a person would: it keeps cookies, follows links, and sends what a form has.
type browser struct {
	t      *testing.T
	client *http.Client
	base   string
	at     string
	page   string
}

func openBrowser(t *testing.T, base string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, base: base, client: &http.Client{Jar: jar, Timeout: 20 * time.Second, Transport: &http.Transport{}}}
	t.Cleanup(b.client.CloseIdleConnections)
	return b
}

func (b *browser) send(method, path string, form url.Values) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := b.client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 500 {
		b.t.Fatalf("%s %s: %d, %v", method, path, resp.StatusCode, err)
	}
	for _, header := range []string{"Content-Security-Policy", "Cache-Control", "X-Content-Type-Options"} {
		if n := len(resp.Header.Values(header)); n != 1 {
			b.t.Errorf("%s %s: the header %s is there %d times", method, path, header, n)
		}
	}
	b.at, b.page = resp.Request.URL.Path, string(body)
}

func (b *browser) open(path string) { b.t.Helper(); b.send(http.MethodGet, path, nil) }

// submit sends the page's form to this action, with the values that it has and these.
func (b *browser) submit(action string, values map[string]string) {
	b.t.Helper()
	form := regexp.MustCompile(`(?s)<form[^>]*action="` + regexp.QuoteMeta(action) + `".*?</form>`).FindString(b.page)
	if form == "" {
		b.t.Fatalf("%s has no form to %s:\n%s", b.at, action, b.page)
	}
	data := url.Values{}
	for _, field := range regexp.MustCompile(`<input[^>]*>`).FindAllString(form, -1) {
		name := regexp.MustCompile(`name="([^"]*)"`).FindStringSubmatch(field)
		value := regexp.MustCompile(`value="([^"]*)"`).FindStringSubmatch(field)
		if name != nil && value != nil {
			data.Set(name[1], value[1])
		}
	}
	for k, v := range values {
		data.Set(k, v)
	}
	b.send(http.MethodPost, action, data)
}

// until opens the page again until it says so: in the asynchronous wiring a decision comes later.
func (b *browser) until(says string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	for !strings.Contains(strings.ToLower(b.page), says) {
		if ctx.Err() != nil {
			b.t.Fatalf("%s never says %q:\n%s", b.at, says, b.page)
		}
		b.open(b.at)
	}
}

// TestConsole: a shopper buys and an operator audits, page by page, in both wirings.
func TestConsole(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Sync, Async} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			k := newContract(t) // of the operator's API calls; the pages are not of the document
			s := openStall(t, mode, k)
			w := s.sell(3, 2, time.Minute)
			s.open(w)
			ann := openBrowser(t, s.operator.base)
			ann.open("/register")
			ann.submit("/register", map[string]string{"email": "ann@example.com", "password": "correct horse battery"})
			ann.submit("/login", map[string]string{"email": "ann@example.com", "password": "correct horse battery"})
			ann.open("/sales/" + w.sale)
			ann.submit("/sales/"+w.sale+"/reserve", map[string]string{"quantity": "2"})
			if !strings.HasPrefix(ann.at, "/reservations/") {
				t.Fatalf("after reserving at %s:\n%s", ann.at, ann.page)
			}
			reservation := ann.at
			ann.until(reservation + "/pay")
			ann.submit(reservation+"/pay", map[string]string{"method": "tok_ok"})
			ann.at = strings.Replace(reservation, "reservations", "orders", 1)
			ann.open(ann.at)
			ann.until("confirmed")

			op := openBrowser(t, s.operator.base)
			op.open("/operator")
			op.open("/login")
			op.submit("/login", map[string]string{"email": testOperator, "password": testPassword})
			op.open("/operator/sales/" + w.sale)
			op.until("sold")
			op.open("/operator/audit?run=1")
			if !strings.Contains(op.page, "Σ granted = total") {
				t.Errorf("the audit's page:\n%s", op.page)
			}
			ann.open("/operator/audit?run=1")
			if strings.Contains(ann.page, "Σ granted = total") {
				t.Error("a shopper sees the audit")
			}
		})
	}
}
