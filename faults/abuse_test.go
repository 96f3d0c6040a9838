//go:build faults

package faults

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flashsale/bench/journey"
	"fmt"
	"hash"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestAbuse: what somebody may try who means harm, against running systems in both wirings, through nginx.
func TestAbuse(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"sync", "async"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			f := newFront(t, mode)
			for _, c := range []struct {
				name string
				try  func(*testing.T, *front)
			}{ // one after the other: some measure times
				{"what is another's", strangers},
				{"fields that are not theirs to set", massAssignment},
				{"tokens", forgedTokens},
				{"refresh tokens", refreshReuse},
				{"webhooks", webhooks},
				{"hoarding", hoarding},
				{"no renewal for free", renewal},
				{"a shopper faster than one may be", tooFast},
				{"an address faster than one may be", floods},
				{"requests that are no HTTP", malformedHTTP},
				{"slow clients", slowClients},
				{"ports", ports},
				{"who has an account", enumeration},
				{"a storm of logins", loginStorm},
				{"lines in the logs", logInjection},
				{"secrets", leaks},
			} {
				t.Run(c.name, func(t *testing.T) {
					whole := f.t
					f.t = t
					defer func() { f.t = whole }()
					c.try(t, f)
				})
			}
			f.command("dlq", "purge", "--all", "--yes")
			f.audit(0)
		})
	}
}

// strangers: nobody reads, pays for, cancels or changes what is another's, nor learns that it is there.
func strangers(t *testing.T, f *front) {
	sale := f.open(t, 20, time.Minute)
	ann, bob := f.shopper("ann"), f.shopper("bob")
	cart := fmt.Sprint(ann.want(t, 201, "", "POST", "/api/v1/carts", map[string]any{}).body["id"])
	ann.want(t, 200, "", "POST", "/api/v1/carts/"+cart+"/items", wants(sale))
	mine := ann.reserve(t, sale, "the-key")
	ann.eventually(t, "/api/v1/orders/"+mine, "state", "open")

	attempts := func() {
		t.Helper()
		for _, who := range []person{bob, f.login(f.base, operator)} { // an operator has no shopper's rights
			who.want(t, 404, "not-found", "GET", "/api/v1/reservations/"+mine, nil)
			who.want(t, 404, "not-found", "GET", "/api/v1/reservations/"+mine+"/events", nil)
			who.want(t, 404, "not-found", "DELETE", "/api/v1/reservations/"+mine, nil)
			who.want(t, 404, "not-found", "GET", "/api/v1/orders/"+mine, nil)
			who.want(t, 404, "not-found", "POST", "/api/v1/orders/"+mine+"/payments", map[string]any{"method": "tok_ok"}, "Idempotency-Key", "steal")
			who.want(t, 404, "not-found", "GET", "/api/v1/carts/"+cart, nil)
			who.want(t, 404, "not-found", "POST", "/api/v1/carts/"+cart+"/items", wants(sale))
		}
		f.nobody().want(t, 401, "unauthorized", "GET", "/api/v1/reservations/"+mine, nil)
		f.nobody().want(t, 401, "unauthorized", "DELETE", "/api/v1/reservations/"+mine, nil)
		f.nobody().want(t, 401, "unauthorized", "POST", "/api/v1/orders/"+mine+"/payments", map[string]any{"method": "tok_ok"}, "Idempotency-Key", "steal")
	}
	attempts()
	ann.eventually(t, "/api/v1/reservations/"+mine, "state", "held")

	// Another's key is a key of one's own, and another's cart stays as it is.
	theirs := wants(sale)
	theirs["cart_id"] = cart
	r := bob.want(t, 201, "", "POST", "/api/v1/reservations", theirs, "Idempotency-Key", "the-key", "Prefer", "wait=10")
	if r.body["id"] == mine || r.header.Get("Idempotency-Replayed") != "" {
		t.Errorf("bob replays ann's request: %v %v", r.header, r.body)
	}
	bobs := fmt.Sprint(r.body["id"])
	bob.paid(t, bobs, "pay")
	if c := ann.want(t, 200, "", "GET", "/api/v1/carts/"+cart, nil); c.body["checked_out"] != false {
		t.Errorf("bob has checked ann's cart out: %v", c.body)
	}
	payment := ann.paid(t, mine, "pay") // bob's key, too
	bob.want(t, 404, "not-found", "GET", payment, nil)
	attempts()
	if orders := bob.want(t, 200, "", "GET", "/api/v1/orders", nil).body["orders"].([]any); len(orders) != 1 || orders[0].(map[string]any)["id"] != bobs {
		t.Errorf("bob's orders: %v", orders)
	}
	ann.eventually(t, "/api/v1/reservations/"+mine, "state", "paid")

	for method, paths := range map[string][]string{
		"GET":  {"/api/v1/admin/audit", "/api/v1/admin/dlq"},
		"POST": {"/api/v1/admin/orders/" + bobs + "/refund", "/api/v1/admin/sales", "/api/v1/admin/sales/" + sale.ID + "/pause", "/api/v1/admin/products", "/api/v1/admin/dlq/replay", "/api/v1/admin/dlq/purge"},
	} {
		for _, path := range paths {
			bob.want(t, 403, "forbidden", method, path, map[string]any{})
			f.nobody().want(t, 401, "unauthorized", method, path, map[string]any{})
		}
	}
	bob.eventually(t, "/api/v1/orders/"+bobs, "state", "confirmed")
}

// massAssignment: no body sets price, user, state, expiry or role, and nothing is done of a request that tries.
func massAssignment(t *testing.T, f *front) {
	sale := f.open(t, 20, time.Minute)
	mel := f.shopper("mel")
	cart := fmt.Sprint(mel.want(t, 201, "", "POST", "/api/v1/carts", map[string]any{}).body["id"])
	before := f.count("SELECT count(*) FROM reservation")
	extras := map[string]any{
		"price": 1, "total": map[string]any{"amount": 1, "currency": "EUR"}, "user": "x", "user_id": "0192f0a0-0000-7000-8000-000000000001", "state": "paid",
		"expires_at": "2099-01-01T00:00:00Z", "hold_seconds": 999999, "id": "0192f0a0-0000-7000-8000-000000000001", "Quantity": 2, "payment": "x", "role": "operator",
	}
	for _, name := range slices.Sorted(maps.Keys(extras)) {
		body := wants(sale)
		body[name] = extras[name]
		mel.want(t, 400, "malformed", "POST", "/api/v1/reservations", body, "Idempotency-Key", "m-"+name)
		mel.want(t, 400, "malformed", "POST", "/api/v1/carts/"+cart+"/items", body)
		if name != "user" {
			f.nobody().want(t, 400, "malformed", "POST", "/api/v1/auth/register", map[string]any{"email": "boss@example.com", "password": password, name: extras[name]})
		}
	}
	mel.want(t, 400, "malformed", "POST", "/api/v1/reservations", json.RawMessage(`{"sale_id":"`+sale.ID+`","sku":"`+sale.SKU+`","quantity":1,"quantity":5}`), "Idempotency-Key", "twice")
	cheap := wants(sale)
	cheap["unit_price"] = map[string]any{"amount": 1, "currency": "EUR"}
	mel.want(t, 422, "price-changed", "POST", "/api/v1/reservations", cheap, "Idempotency-Key", "cheap")
	for name, quantity := range map[string]any{"zero": 0, "minus": -3, "huge": 1 << 40, "half": 1.5, "text": "1"} {
		body := wants(sale)
		body["quantity"] = quantity
		if r := mel.do("POST", "/api/v1/reservations", body, "Idempotency-Key", "q-"+name); r.status != 422 && r.status != 400 {
			t.Errorf("a quantity of %v: %d %v", quantity, r.status, r.body)
		}
	}
	if n := f.count("SELECT count(*) FROM reservation"); n != before {
		t.Errorf("%d reservations were made by requests that were refused", n-before)
	}
	mine := mel.reserve(t, sale, "fair")
	mel.eventually(t, "/api/v1/orders/"+mine, "state", "open")
	for _, name := range []string{"amount", "currency", "state", "order_id", "user_id"} {
		mel.want(t, 400, "malformed", "POST", "/api/v1/orders/"+mine+"/payments", map[string]any{"method": "tok_ok", name: "1"}, "Idempotency-Key", "p-"+name)
	}
	mel.paid(t, mine, "pay")
	if o := mel.want(t, 200, "", "GET", "/api/v1/orders/"+mine, nil); fmt.Sprint(o.body["total"]) != "map[amount:9900 currency:EUR]" {
		t.Errorf("the order's total is %v", o.body["total"])
	}
}

// forged makes a token of a true one's header and claims, after change has had them, signed with a secret.
func forged(t *testing.T, real string, change func(head, claims map[string]any), secret string, mac func() hash.Hash) string {
	t.Helper()
	parts := strings.Split(real, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no token", real)
	}
	var out []string
	var fields [2]map[string]any
	for i := range fields {
		b, err := base64.RawURLEncoding.DecodeString(parts[i])
		must(t, err)
		must(t, json.Unmarshal(b, &fields[i]))
	}
	change(fields[0], fields[1])
	for _, v := range fields {
		b, err := json.Marshal(v)
		must(t, err)
		out = append(out, base64.RawURLEncoding.EncodeToString(b))
	}
	text := strings.Join(out, ".")
	if mac == nil {
		return text + "."
	}
	m := hmac.New(mac, []byte(secret))
	_, _ = m.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// forgedTokens: a token is one that the account service signed, with its algorithm, for this API, and
// only while it is valid.
func forgedTokens(t *testing.T, f *front) {
	tom := f.shopper("tom")
	real := tom.token
	unsigned, signature := real[:strings.LastIndex(real, ".")+1], real[strings.LastIndex(real, ".")+1:]
	set := func(key string, value any) func(map[string]any, map[string]any) {
		return func(_, claims map[string]any) { claims[key] = value }
	}
	drop := func(key string) func(map[string]any, map[string]any) {
		return func(_, claims map[string]any) { delete(claims, key) }
	}
	alg := func(name string) func(map[string]any, map[string]any) {
		return func(head, claims map[string]any) { head["alg"], claims["role"] = name, "operator" }
	}
	try := func(token string) said {
		p := tom
		p.token = token
		return p.do("GET", "/api/v1/orders", nil)
	}
	// What is signed here is as good as what the service signs: the refusals below are for what is changed.
	if r := try(forged(t, real, set("jti", "another"), tokenSecret, sha256.New)); r.status != http.StatusOK {
		t.Fatalf("a token that is signed well is answered %d %v", r.status, r.body)
	}
	past := time.Now().Add(-time.Minute).Unix()
	for name, token := range map[string]string{
		"alg none":                 forged(t, real, alg("none"), "", nil),
		"alg None":                 forged(t, real, alg("None"), "", nil),
		"alg none, signed":         forged(t, real, alg("none"), tokenSecret, sha256.New),
		"no signature":             unsigned,
		"a short signature":        real[:len(real)-6],
		"alg HS512":                forged(t, real, alg("HS512"), tokenSecret, sha512.New),
		"alg HS384, HS256 in fact": forged(t, real, alg("HS384"), tokenSecret, sha256.New),
		"alg RS256, HS256 in fact": forged(t, real, alg("RS256"), tokenSecret, sha256.New),
		"no alg":                   forged(t, real, func(head, _ map[string]any) { delete(head, "alg") }, tokenSecret, sha256.New),
		"another secret":           forged(t, real, set("role", "operator"), "another-secret-0123456789-0123456789-0123456789", sha256.New),
		"an empty secret":          forged(t, real, set("role", "operator"), "", sha256.New),
		"the kid as secret":        forged(t, real, func(head, _ map[string]any) { head["kid"] = "../../dev/null" }, "", sha256.New),
		"a key of its own":         forged(t, real, func(head, _ map[string]any) { head["jwk"] = map[string]any{"kty": "oct", "k": "c2VjcmV0"} }, "secret", sha256.New),
		"another's name":           forged(t, real, set("sub", "0192f0a0-0000-7000-8000-000000000001"), "wrong", sha256.New),
		"changed, signature kept":  forged(t, real, set("role", "operator"), "", nil) + signature,
		"another audience":         forged(t, real, set("aud", []string{"another-api"}), tokenSecret, sha256.New),
		"no audience":              forged(t, real, drop("aud"), tokenSecret, sha256.New),
		"another issuer":           forged(t, real, set("iss", "another"), tokenSecret, sha256.New),
		"no end":                   forged(t, real, drop("exp"), tokenSecret, sha256.New),
		"not yet valid":            forged(t, real, set("nbf", time.Now().Add(time.Hour).Unix()), tokenSecret, sha256.New),
		"a role that is none":      forged(t, real, set("role", "admin"), tokenSecret, sha256.New),
		"nobody's":                 forged(t, real, set("sub", "root"), tokenSecret, sha256.New),
		"two tokens":               real + "." + real,
		"no token":                 "x",
		"a long one":               real + strings.Repeat("A", 4000),
	} {
		p := tom
		p.token = token
		if r := p.do("GET", "/api/v1/orders", nil); r.status != 401 || r.body["type"] != "/problems/unauthorized" || r.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: %d %v", name, r.status, r.body)
		}
		p.want(t, 401, "unauthorized", "GET", "/api/v1/admin/dlq", nil)
	}
	if r := try(forged(t, real, func(_, claims map[string]any) { claims["exp"], claims["iat"], claims["nbf"] = past, past-60, past-60 }, tokenSecret, sha256.New)); r.status != 401 || r.body["type"] != "/problems/token-expired" {
		t.Errorf("an expired token: %d %v", r.status, r.body)
	}
	// A token is taken from its header only.
	f.nobody().want(t, 401, "unauthorized", "GET", "/api/v1/orders?access_token="+real, nil)
	f.nobody().want(t, 401, "unauthorized", "GET", "/api/v1/orders", nil, "Cookie", "access_token="+real+"; Authorization="+real)
	f.nobody().want(t, 401, "unauthorized", "GET", "/api/v1/orders", nil, "Authorization", "Basic "+real)
}

// refreshReuse: a refresh token is good for one use; a second use, which only a thief or the robbed can
// make, ends every token of that login, and of no other.
func refreshReuse(t *testing.T, f *front) {
	f.shopper("rea")
	login := func() string {
		t.Helper()
		return fmt.Sprint(f.nobody().want(t, 200, "", "POST", "/api/v1/auth/login", map[string]string{"email": "rea@example.com", "password": password}).body["refresh_token"])
	}
	refresh := func(token string) said {
		return f.nobody().do("POST", "/api/v1/auth/refresh", map[string]string{"refresh_token": token})
	}
	stolen, other := login(), login()
	second := refresh(stolen)
	if second.status != 200 {
		t.Fatalf("refresh: %d %v", second.status, second.body)
	}
	third := refresh(fmt.Sprint(second.body["refresh_token"]))
	if r := refresh(stolen); r.status != 401 || r.body["type"] != "/problems/refresh-reused" {
		t.Errorf("a refresh token is used twice: %d %v", r.status, r.body)
	}
	if r := refresh(fmt.Sprint(third.body["refresh_token"])); r.status != 401 {
		t.Errorf("the thief's latest token lives on: %d %v", r.status, r.body)
	}
	if r := refresh(other); r.status != 200 {
		t.Errorf("another login has died, too: %d %v", r.status, r.body)
	}
	// Used by many at once, at both processes: one has it, and is robbed of what it got.
	raced := login()
	var mu sync.Mutex
	var all sync.WaitGroup
	var got []string
	for range 8 {
		all.Go(func() {
			r := refresh(raced)
			mu.Lock()
			defer mu.Unlock()
			if r.status == 200 {
				got = append(got, fmt.Sprint(r.body["refresh_token"]))
			} else if r.status != 401 {
				t.Errorf("refresh: %d %v", r.status, r.body)
			}
		})
	}
	all.Wait()
	if len(got) != 1 {
		t.Fatalf("%d of 8 got new tokens for one refresh token", len(got))
	}
	if r := refresh(got[0]); r.status != 401 {
		t.Errorf("after a race for a refresh token its winner goes on: %d %v", r.status, r.body)
	}
	access := fmt.Sprint(second.body["access_token"])
	for _, token := range []string{"", "x", access, stolen + "=", strings.ToUpper(stolen), strings.Repeat("A", 43)} {
		if r := refresh(token); r.status != 401 {
			t.Errorf("%.20q is taken for a refresh token: %d %v", token, r.status, r.body)
		}
	}
	p := f.nobody()
	p.token = other
	p.want(t, 401, "unauthorized", "GET", "/api/v1/orders", nil)
}

// webhooks: nobody can tell the system that something was paid for; and what it tells the shop's own
// systems they can tell from a forgery, and from a repetition.
func webhooks(t *testing.T, f *front) {
	sale := f.open(t, 20, time.Minute)
	wim := f.shopper("wim")
	mine := wim.reserve(t, sale, "one")
	event := map[string]any{"id": mine, "type": "payment.captured", "order_id": mine, "state": "captured"}
	for _, path := range []string{
		"/api/v1/webhooks/payments", "/api/v1/payments/webhook", "/webhooks/stripe", "/internal/v1/events/inventory", "/internal/v1/ask/inventory", "/internal/v1/events/order",
	} {
		if r := wim.do("POST", path, event); r.status != 404 && r.status != 405 {
			t.Errorf("%s: %d %v", path, r.status, r.body)
		}
		direct := wim
		direct.base = f.procs[0].url
		if r := direct.do("POST", path, event, "Authorization", "Bearer "+internalToken); r.status != 404 && r.status != 405 {
			t.Errorf("%s at the service's public port: %d %v", path, r.status, r.body)
		}
		if !strings.HasPrefix(path, "/internal/") {
			continue
		}
		inside := f.nobody()
		inside.base = "http://" + f.procs[0].internal
		for _, token := range []string{"", "Bearer", "Bearer x", "Bearer " + wim.token, "Bearer " + internalToken + "x", "Bearer " + internalToken[:20]} {
			if r := inside.do("POST", path, event, "Authorization", token); r.status != 401 && r.status != 403 {
				t.Errorf("%s at the internal port with %.20q: %d %v", path, token, r.status, r.body)
			}
		}
	}
	wim.eventually(t, "/api/v1/reservations/"+mine, "state", "held")
	wim.paid(t, mine, "pay")

	var ours []hook
	f.until("the customer system is told", 30*time.Second, func() bool {
		ours = slices.DeleteFunc(f.hooks.all(), func(h hook) bool { return !strings.Contains(string(h.body), "wim@example.com") })
		return len(ours) > 0
	})
	good := func(h hook, now time.Time) bool { // as webhookchannel.New says
		at, mac, ok := strings.Cut(strings.TrimPrefix(h.signature, "t="), ",v1=")
		sent, err := strconv.ParseInt(at, 10, 64)
		if !ok || err != nil || now.Sub(time.Unix(sent, 0)).Abs() > 5*time.Minute {
			return false
		}
		m := hmac.New(sha256.New, []byte(webhookSecret))
		_, _ = m.Write([]byte(at + "." + string(h.body)))
		want := m.Sum(nil)
		got, err := hex.DecodeString(mac)
		return err == nil && hmac.Equal(got, want)
	}
	for _, h := range ours {
		if !good(h, time.Now()) || h.key == "" || !strings.Contains(string(h.body), h.key) {
			t.Errorf("a webhook that cannot be checked: %q, %q, %s", h.signature, h.key, h.body)
		}
		if good(h, time.Now().Add(time.Hour)) {
			t.Error("a webhook is as good an hour later")
		}
		h.body = []byte(strings.Replace(string(h.body), "wim@", "eve@", 1))
		if good(h, time.Now()) {
			t.Error("a webhook is as good with another body")
		}
	}
}

// all8 calls f for 0 to n-1, eight at a time.
func all8(n int, f func(i int)) {
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := worker; i < n; i += 8 {
				f(i)
			}
		})
	}
	all.Wait()
}

// hoarding: a shopper holds as many reservations without paying as one may, exactly, whichever sales and
// processes they come through; who pays or gives back may hold others.
func hoarding(t *testing.T, f *front) {
	sales := []journey.Sale{f.open(t, 50, time.Minute), f.open(t, 50, time.Minute), f.open(t, 50, time.Minute)}
	hal, ida := f.shopper("hal"), f.shopper("ida")
	held := hal.hoard(t, sales, "all at once", 48)
	if len(held) != maxUnpaid {
		t.Fatalf("%d holds of 48 asked for; one may have %d", len(held), maxUnpaid)
	}
	ida.reserve(t, sales[0], "somebody-elses")
	hal.want(t, 409, "too-many-unpaid", "POST", "/api/v1/reservations", wants(sales[0]), "Idempotency-Key", "one-more", "Prefer", "wait=10")
	hal.paid(t, held[0], "pay")
	if n := len(hal.hoard(t, sales, "one is paid", 8)); n != 1 {
		t.Errorf("one is paid for, and %d more are held", n)
	}
	hal.want(t, map[string]int{"sync": 200, "async": 202}[f.mode], "", "DELETE", "/api/v1/reservations/"+held[1], nil)
	hal.eventually(t, "/api/v1/reservations/"+held[1], "state", "cancelled")
	if n := len(hal.hoard(t, sales, "one is cancelled", 8)); n != 1 {
		t.Errorf("one is given back, and %d more are held", n)
	}
	if n := f.count("SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM reservation WHERE state IN ('held', 'paying') GROUP BY user_id) u"); n != maxUnpaid {
		t.Errorf("the ledger has a shopper with %d unpaid holds; one may have %d", n, maxUnpaid)
	}
}

// hoard asks for a unit of the sales in turn, eight requests at a time, and returns what is held. Any
// other answer than the bound's is a mistake.
func (p person) hoard(t *testing.T, sales []journey.Sale, key string, requests int) (held []string) {
	t.Helper()
	var mu sync.Mutex
	all8(requests, func(i int) {
		r := p.do("POST", "/api/v1/reservations", wants(sales[i%len(sales)]), "Idempotency-Key", strings.ReplaceAll(fmt.Sprint(key, i), " ", "-"), "Prefer", "wait=10")
		mu.Lock()
		defer mu.Unlock()
		switch {
		case r.status == http.StatusCreated:
			held = append(held, fmt.Sprint(r.body["id"]))
		case r.status != http.StatusConflict || r.body["type"] != "/problems/too-many-unpaid":
			t.Errorf("reserve: %d %v", r.status, r.body)
		}
	})
	return held
}

// renewal: nothing that costs nothing makes a hold last longer: not the same request again, not a payment
// that fails or never ends, and a hold that is over is not had again by asking with its key.
func renewal(t *testing.T, f *front) {
	sale := f.open(t, 6, 4*time.Second)
	rob := f.shopper("rob")
	mine, stalled := rob.reserve(t, sale, "mine"), rob.reserve(t, sale, "stalled")
	first := rob.want(t, 200, "", "GET", "/api/v1/reservations/"+mine, nil).body["expires_at"]
	for range 3 {
		r := rob.want(t, 201, "", "POST", "/api/v1/reservations", wants(sale), "Idempotency-Key", "mine", "Prefer", "wait=10")
		if r.body["id"] != mine || r.body["expires_at"] != first {
			t.Errorf("the request again: %v; it was %s until %v", r.body, mine, first)
		}
	}
	// The provider never answers: the hold is bound until it is asked and the charge is void, and no longer.
	rob.eventually(t, "/api/v1/orders/"+stalled, "state", "open")
	if r := rob.do("POST", "/api/v1/orders/"+stalled+"/payments", map[string]any{"method": "tok_timeout"}, "Idempotency-Key", "never"); r.status != 202 {
		t.Errorf("a payment whose provider does not answer: %d %v", r.status, r.body)
	}
	rob.eventually(t, "/api/v1/reservations/"+mine, "state", "expired")
	rob.eventually(t, "/api/v1/reservations/"+stalled, "state", "declined")
	rob.want(t, 410, "expired", "POST", "/api/v1/reservations", wants(sale), "Idempotency-Key", "mine", "Prefer", "wait=10")
	if r := rob.do("POST", "/api/v1/orders/"+mine+"/payments", map[string]any{"method": "tok_ok"}, "Idempotency-Key", "late"); r.status < 400 {
		t.Errorf("an expired hold is paid for: %d %v", r.status, r.body)
	}
	rob.want(t, 409, "illegal-move", "DELETE", "/api/v1/reservations/"+stalled, nil)
	f.until("every unit is back", 20*time.Second, func() bool {
		items, ok := rob.do("GET", "/api/v1/sales/"+sale.ID, nil).body["items"].([]any)
		return ok && items[0].(map[string]any)["available"] == float64(6)
	})
}
