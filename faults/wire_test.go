//go:build faults

package faults

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// tooFast: a shopper has a quota in each process, is told what is left of it, and is refused beyond it;
// nobody else notices.
func tooFast(t *testing.T, f *front) {
	zoe, yan := f.shopper("zoe"), f.shopper("yan")
	quota := 4 * shopperRate
	policy := fmt.Sprintf(`"shopper";q=%d;w=4`, quota)
	r := zoe.want(t, 200, "", "GET", "/api/v1/orders", nil)
	if r.header.Get("RateLimit-Policy") != policy || r.header.Get("RateLimit") != fmt.Sprintf(`"shopper";r=%d;t=1`, quota-1) {
		t.Errorf("the first answer says %q and %q", r.header.Get("RateLimit-Policy"), r.header.Get("RateLimit"))
	}
	var passed, refused atomic.Int64
	began := time.Now()
	all8(6*quota, func(int) {
		switch r := zoe.do("GET", "/api/v1/orders?limit=1", nil); {
		case r.status == 200:
			passed.Add(1)
		case r.status != 429 || r.body["type"] != "/problems/rate-limited" || r.header.Get("Retry-After") != "1" || !strings.HasPrefix(r.header.Get("RateLimit"), `"shopper";r=0;t=`):
			t.Errorf("too many requests are answered %d %v %v", r.status, r.header, r.body)
		default:
			refused.Add(1)
		}
	})
	took := time.Since(began)
	// Two processes, and what comes back meanwhile.
	if most := int64(2*quota) + int64(2*shopperRate*(took.Seconds()+1)); refused.Load() == 0 || passed.Load() < int64(quota) || passed.Load() > most {
		t.Errorf("in %s %d requests passed and %d were refused; want %d to %d to pass", took, passed.Load(), refused.Load(), quota, most)
	}
	if r := yan.want(t, 200, "", "GET", "/api/v1/orders", nil); !strings.HasPrefix(r.header.Get("RateLimit"), fmt.Sprintf(`"shopper";r=%d;`, quota-1)) {
		t.Errorf("somebody else has %q left", r.header.Get("RateLimit"))
	}
	f.until("the shopper may ask again", 5*time.Second, func() bool { return zoe.do("GET", "/api/v1/orders", nil).status == 200 })
}

// floods: an address has a rate, whatever it says about itself; others, and the shop, go on.
func floods(t *testing.T, f *front) {
	stranger := f.nobody().from(t, "127.0.0.2")
	for path, burst := range map[string]int{"/api/v1/sales?limit=1": 200, "/api/v1/auth/refresh": 40} {
		method := "GET"
		if strings.Contains(path, "auth") {
			method = "POST"
		}
		var passed, refused atomic.Int64
		began := time.Now()
		all8(4*burst, func(i int) {
			claim := fmt.Sprintf("10.0.%d.%d", rand.IntN(256), rand.IntN(256))
			if i%2 == 0 {
				claim = "127.0.0.1"
			}
			r := stranger.do(method, path, map[string]any{"refresh_token": "x"}, "X-Forwarded-For", claim, "X-Real-IP", claim, "Forwarded", "for="+claim)
			if r.status != 429 {
				passed.Add(1)
				return
			}
			refused.Add(1)
			if r.body["type"] != "/problems/rate-limited" || r.header.Get("Retry-After") != "1" || r.header.Get("RateLimit") != `"client";r=0;t=1` ||
				!strings.HasPrefix(r.header.Get("RateLimit-Policy"), fmt.Sprintf(`"client";q=%d;w=`, burst)) {
				t.Errorf("%s: a flood is answered %v %v", path, r.header, r.body)
			}
		})
		rate := map[int]float64{200: 100, 40: 10}[burst]
		if most := int64(burst + 2 + int(rate*time.Since(began).Seconds())); refused.Load() == 0 || passed.Load() > most {
			t.Errorf("%s: %d of a flood passed, %d were refused; at most %d may pass", path, passed.Load(), refused.Load(), most)
		}
	}
	f.nobody().want(t, 200, "", "GET", "/api/v1/sales", nil)
	f.nobody().from(t, "127.0.0.3").want(t, 200, "", "GET", "/api/v1/sales", nil)
	if log := f.access(); strings.Contains(log, `"client":"10.0.`) || !strings.Contains(log, `"client":"127.0.0.2"`) {
		t.Error("nginx's log believes what a client says of its address")
	}
}

// raw sends bytes and returns everything that comes back until the other end closes.
func (f *front) raw(t *testing.T, text string) string {
	t.Helper()
	c, err := net.DialTimeout("tcp", f.addr, 5*time.Second)
	must(t, err)
	defer func() { _ = c.Close() }()
	must(t, c.SetDeadline(time.Now().Add(15*time.Second)))
	_, _ = io.WriteString(c, text) // nginx may close before all is sent
	b, _ := io.ReadAll(c)          // and reset what it has not read
	return string(b)
}

// malformedHTTP: what is no HTTP, or may be read in two ways, or is too large, is refused with a problem,
// gets one answer, and reaches no service.
func malformedHTTP(t *testing.T, f *front) {
	post := "POST /api/v1/reservations HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
	smuggled := "GET /openapi.json HTTP/1.1\r\nHost: shop\r\n\r\n"
	get := "GET /api/v1/sales HTTP/1.1\r\nHost: shop\r\n"
	for name, text := range map[string]string{
		"chunked with a length":          post + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"a length with chunked":          post + "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n" + smuggled,
		"two lengths":                    post + "Content-Length: 2\r\nContent-Length: 60\r\n\r\n{}" + smuggled,
		"two lengths in one":             post + "Content-Length: 2, 60\r\n\r\n{}" + smuggled,
		"a length below zero":            post + "Content-Length: -1\r\n\r\n" + smuggled,
		"a length beyond measure":        post + "Content-Length: 99999999999999999999999\r\n\r\n{}",
		"an encoding that is none":       post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + smuggled,
		"two encodings":                  post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + smuggled,
		"a chunk beyond measure":         post + "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n{}",
		"a chunk that is none":           post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
		"chunked in HTTP/1.0":            "POST /api/v1/reservations HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"a space before the colon":       post + "Content-Length : 2\r\n\r\n{}",
		"no host":                        "GET /api/v1/sales HTTP/1.1\r\n\r\n",
		"two hosts":                      get + "Host: evil\r\n\r\n",
		"a host that is none":            "GET /api/v1/sales HTTP/1.1\r\nHost: a b\r\n\r\n",
		"a zero byte in the path":        "GET /api/v1/sales\x00/x HTTP/1.1\r\nHost: shop\r\n\r\n",
		"a zero byte in a header":        get + "X: a\x00b\r\n\r\n",
		"no protocol that there is":      "GET /api/v1/sales HTTP/7.0\r\nHost: shop\r\n\r\n",
		"no HTTP":                        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
		"a header of 7 KiB":              get + "Cookie: " + strings.Repeat("x", 7<<10) + "\r\n\r\n",
		"a header of 500 lines":          get + strings.Repeat("X-Line: "+strings.Repeat("x", 60)+"\r\n", 500) + "\r\n",
		"a path of 10 KiB":               "GET /api/v1/" + strings.Repeat("x", 10<<10) + " HTTP/1.1\r\nHost: shop\r\n\r\n",
		"a body of 17 KiB":               post + "Content-Length: 17408\r\nConnection: close\r\n\r\n" + strings.Repeat("x", 17<<10),
		"a body of 17 KiB in chunks":     post + "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n4400\r\n" + strings.Repeat("x", 0x4400) + "\r\n0\r\n\r\n",
		"a body of a GiB, so they say":   post + "Content-Length: 1073741824\r\nExpect: 100-continue\r\n\r\n",
		"a method that there is nowhere": "BREW /api/v1/sales HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n",
		"TRACE":                          "TRACE /api/v1/sales HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n",
		"CONNECT":                        "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n",
		"another site":                   "GET http://127.0.0.1:9/metrics HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n",
	} {
		answer := f.raw(t, text)
		resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), nil)
		if err != nil {
			t.Errorf("%s: %.60q is no answer: %v", name, answer, err)
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode < 400 || resp.StatusCode >= 500 || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d, %s: %.300q", name, resp.StatusCode, resp.Header.Get("Content-Type"), answer)
		}
		if n := strings.Count(answer, "HTTP/1.1 "); n != 1 || strings.Contains(answer, `"openapi"`) {
			t.Errorf("%s: %d answers: %.600q", name, n, answer)
		}
	}
	// What is HTTP, and no body that the API takes.
	max := f.shopper("max")
	deep := strings.Repeat("[", 8000)
	for name, c := range map[string]struct{ body, kind, header, value string }{
		"deep":                 {`{"sale_id":` + deep, "malformed", "", ""},
		"compressed":           {"\x1f\x8b\x08\x00", "unsupported-media-type", "Content-Encoding", "gzip"},
		"a form":               {"sale_id=1", "unsupported-media-type", "Content-Type", "application/x-www-form-urlencoded"},
		"another text":         {`{}`, "unsupported-media-type", "Content-Type", "application/json; charset=utf-16"},
		"no UTF-8":             {"{\"sku\":\"\xff\xfe\"}", "malformed", "", ""},
		"empty":                {"", "malformed", "", ""},
		"a key with a space":   {`{}`, "idempotency-key", "Idempotency-Key", "a b"},
		"a key of 200 bytes":   {`{}`, "idempotency-key", "Idempotency-Key", strings.Repeat("k", 200)},
		"a key with an umlaut": {`{}`, "idempotency-key", "Idempotency-Key", "schlüssel"},
	} {
		headers := map[string]string{"Content-Type": "application/json", "Idempotency-Key": "k"}
		if c.header != "" {
			headers[c.header] = c.value
		}
		text := "POST /api/v1/reservations HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nAuthorization: Bearer " + max.token + "\r\nContent-Length: " + strconv.Itoa(len(c.body)) + "\r\n"
		for k, v := range headers {
			text += k + ": " + v + "\r\n"
		}
		if answer := f.raw(t, text+"\r\n"+c.body); !strings.Contains(answer, `"type":"/problems/`+c.kind+`"`) {
			t.Errorf("%s: %.400q; want %s", name, answer, c.kind)
		}
	}
	f.nobody().want(t, 200, "", "GET", "/readyz", nil)
}

// slowClients: whoever sends a header or a body slowly is let go, keeps nobody waiting meanwhile, and one
// address has no more requests under way than its share, however slow they are.
func slowClients(t *testing.T, f *front) {
	const many = 200
	half := "POST /api/v1/auth/login HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
	var all sync.WaitGroup
	var open, late atomic.Int64
	stop := make(chan struct{})
	for i := range many {
		c, err := net.DialTimeout("tcp", f.addr, 5*time.Second)
		must(t, err)
		open.Add(1)
		all.Go(func() {
			defer func() { _ = c.Close(); open.Add(-1) }()
			began := time.Now()
			_ = c.SetReadDeadline(began.Add(14 * time.Second))
			if i%2 == 0 {
				_, _ = io.WriteString(c, half+"\r\n{\"email\":") // and no more
			} else {
				_, _ = io.WriteString(c, half)
				go func() { // a byte of the header now and then
					tick := time.NewTicker(500 * time.Millisecond)
					defer tick.Stop()
					for {
						select {
						case <-tick.C:
						case <-stop:
							return
						}
						if _, err := io.WriteString(c, "X"); err != nil {
							return
						}
					}
				}()
			}
			_, _ = io.Copy(io.Discard, c)
			if time.Since(began) > 13*time.Second {
				late.Add(1)
			}
		})
	}
	worst := time.Duration(0)
	for open.Load() > many/2 {
		r := f.nobody().want(t, 200, "", "GET", "/api/v1/sales?limit=1", nil)
		worst = max(worst, r.took)
		time.Sleep(100 * time.Millisecond) // somebody looks now and then: more would be a load of its own
	}
	all.Wait()
	close(stop)
	if late.Load() > 0 {
		t.Errorf("%d of %d slow clients were still there after 13 s", late.Load(), many)
	}
	if worst > 2*time.Second {
		t.Errorf("with %d slow clients another waited %s", many, worst)
	}

	// Bodies that do not come, all from one address: they are its requests under way.
	dial := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.4")}}
	var held []net.Conn
	defer func() {
		for _, c := range held {
			_ = c.Close()
		}
	}()
	for range 300 {
		c, err := dial.DialContext(t.Context(), "tcp", f.addr)
		must(t, err)
		held = append(held, c)
		_, _ = io.WriteString(c, strings.Replace(half, "/api/v1/auth/login", "/api/v1/carts", 1)+"\r\n{")
		time.Sleep(6 * time.Millisecond) // slower than the rate of requests
	}
	greedy, other := f.nobody().from(t, "127.0.0.4"), f.nobody().from(t, "127.0.0.5")
	greedy.want(t, 429, "rate-limited", "GET", "/api/v1/sales?limit=1", nil)
	other.want(t, 200, "", "GET", "/api/v1/sales?limit=1", nil)
}

// ports: metrics and profiles are on a port of their own and nowhere else, and the API is not there.
func ports(t *testing.T, f *front) {
	get := func(base, path string) int {
		p := f.nobody()
		p.base = base
		return p.do("GET", path, nil).status
	}
	for i, p := range f.procs {
		for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/heap?debug=1"} {
			if got := get(f.admin[i], path); got != 200 {
				t.Errorf("%s on the operators' port: %d", path, got)
			}
			for base, want := range map[string]int{f.base: 404, p.url: 404, "http://" + p.internal: 401} {
				if got := get(base, path); got != want {
					t.Errorf("%s at %s: %d, want %d", path, base, got, want)
				}
			}
		}
		for _, path := range []string{"/api/v1/sales", "/api/v1/orders", "/api/v1/admin/dlq", "/internal/v1/ask/order"} {
			if got := get(f.admin[i], path); got != 404 {
				t.Errorf("%s on the operators' port: %d", path, got)
			}
		}
	}
	for _, path := range []string{"/api/v1/sales/../../../metrics", "/%2e%2e/metrics", "//metrics", "/api/v1/..%2f..%2fmetrics", "/metrics/", "/METRICS", "/debug/pprof/profile?seconds=1", "/nginx_status"} {
		answer := f.raw(t, "GET "+path+" HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(answer, "HTTP/1.1 404 ") && !strings.HasPrefix(answer, "HTTP/1.1 400 ") || !strings.Contains(answer, `"type":"/problems/`) {
			t.Errorf("%s: %.200q", path, answer)
		}
	}
}

// enumeration: a login says the same, and takes about as long, whether the address has an account or not.
func enumeration(t *testing.T, f *front) {
	f.shopper("enid")
	who := map[string]map[string]string{
		"a wrong password": {"email": "enid@example.com", "password": "not the password"},
		"no such account":  {"email": "nobody-at-all@example.com", "password": "not the password"},
		"no address":       {"email": "not an address", "password": "not the password"},
	}
	took := map[string][]time.Duration{}
	said := map[string]string{}
	for range 21 { // in turn, so that a busy machine slows all of them
		for name, body := range who {
			r := f.nobody().want(t, 401, "bad-credentials", "POST", "/api/v1/auth/login", body)
			took[name] = append(took[name], r.took)
			delete(r.body, "request_id")
			r.header.Del("X-Request-Id")
			r.header.Del("Date")
			said[name] = fmt.Sprint(r.status, r.header, r.body)
		}
	}
	median := func(name string) time.Duration {
		slices.Sort(took[name])
		return took[name][len(took[name])/2]
	}
	known := median("a wrong password")
	for name := range who {
		if said[name] != said["a wrong password"] {
			t.Errorf("%s is answered %s; a wrong password %s", name, said[name], said["a wrong password"])
		}
		if m := median(name); m < known*2/3 || m > known*3/2 {
			t.Errorf("%s takes %s; a wrong password %s", name, m, known)
		}
	}
	t.Logf("a wrong password takes %s, no account %s, no address %s", known, median("no such account"), median("no address"))
}

// loginStorm: a thousand logins at once cost bounded memory and are answered, those that there is no time
// for with 503; the sale goes on, and afterwards it is as before.
func loginStorm(t *testing.T, f *front) {
	f.shopper("lou")
	const logins, bound = 1200, 320 << 20 // a few hashes of 19 MiB beside what the process has anyway; all at once would be 22 GiB
	crowd := f.nobody()
	crowd.s = &system{t: f.t, client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxConnsPerHost: logins}}}
	defer crowd.s.client.CloseIdleConnections()
	var all sync.WaitGroup
	answers := map[int]int{}
	var mu sync.Mutex
	for i := range logins {
		all.Go(func() {
			r := crowd.do("POST", "/api/v1/auth/login", map[string]string{"email": fmt.Sprintf("lou%d@example.com", i), "password": "not the password"})
			mu.Lock()
			defer mu.Unlock()
			answers[r.status]++
			if r.status == 503 && (r.header.Get("Retry-After") == "" || r.body["type"] == nil) || r.status != 503 && r.status != 401 {
				t.Errorf("a login in a storm: %d %v %v", r.status, r.header, r.body)
			}
		})
	}
	calm := make(chan struct{})
	go func() { all.Wait(); close(calm) }()
	worst := time.Duration(0)
	for stormy := true; stormy; {
		select {
		case <-calm:
			stormy = false
		case <-time.After(200 * time.Millisecond):
			r := f.nobody().want(t, 200, "", "GET", "/api/v1/sales?limit=1", nil)
			worst = max(worst, r.took)
		}
	}
	if worst > 5*time.Second {
		t.Errorf("while many log in, the sales take %s", worst)
	}
	for _, p := range f.procs {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
		must(t, err)
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			if kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB")); name == "VmHWM" && (err != nil || kib<<10 > bound) {
				t.Errorf("a process grew to %s; the bound is %d MiB (%v)", strings.TrimSpace(value), bound>>20, err)
			} else if name == "VmHWM" {
				t.Logf("grew to %d MiB; answers %v; others waited %s at most", kib>>10, answers, worst)
			}
		}
	}
	if answers[401] == 0 || answers[503] == 0 {
		t.Errorf("answers %v; want some of both: it was no storm, or nobody got through", answers)
	}
	f.nobody().want(t, 200, "", "POST", "/api/v1/auth/login", map[string]string{"email": "lou@example.com", "password": password})
}
