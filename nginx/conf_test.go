package nginx_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flashsale/console"
	"flashsale/httpapi"
	"flashsale/nginx"
	"flashsale/testenv"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gopkg.in/yaml.v3"
)

// instance is one instance of a service: it counts what reaches it, by request id.
type instance struct {
	*httptest.Server
	mu   sync.Mutex
	seen map[string]int
	last *http.Request
	raw  int // bytes of the last request's header
}

func newInstance(t *testing.T, answer http.HandlerFunc) *instance {
	t.Helper()
	in := &instance{seen: map[string]int{}}
	in.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var raw bytes.Buffer
		_ = r.Header.Write(&raw)
		in.mu.Lock()
		in.seen[r.Header.Get("X-Request-Id")]++
		in.last, in.raw = r, raw.Len()+len(r.Method)+len(r.RequestURI)+len("  HTTP/1.1\r\nHost: \r\n\r\n")+len(r.Host)
		in.mu.Unlock()
		w.Header().Set("X-Request-Id", r.Header.Get("X-Request-Id"))
		answer(w, r)
	}))
	t.Cleanup(in.Close)
	return in
}

func (in *instance) addr() string { return in.Listener.Addr().String() }

// arrivals returns how many requests came.
func (in *instance) arrivals() (all int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, n := range in.seen {
		all += n
	}
	return all
}

// times returns how often the request of an id came.
func (in *instance) times(id string) int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.seen[id]
}

func (in *instance) request() (*http.Request, int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.last, in.raw
}

func ok(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.WriteHeader(http.StatusOK)
}

// refuse answers as a service does.
func refuse(w http.ResponseWriter, r *http.Request, status int, name string) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "9")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(httpapi.Problem{
		Type: "/problems/" + name, Title: "No", Status: status, Detail: "The service says so.", RequestID: r.Header.Get("X-Request-Id"),
	})
}

// dies reads the request and closes the connection without an answer, as a killed process does.
func dies(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	c, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = c.Close()
	}
}

// site has the same instances for every service.
func site(instances ...*instance) nginx.Site {
	s := nginx.Site{Instances: map[string][]string{}}
	for _, name := range nginx.Services() {
		for _, in := range instances {
			s.Instances[name] = append(s.Instances[name], in.addr())
		}
	}
	return s
}

// caller sends requests to nginx from an address of this machine.
type caller struct {
	t    *testing.T
	base string
	http *http.Client
}

func from(t *testing.T, local, front string) caller {
	t.Helper()
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
	tr := &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true} // any of nginx's workers, not always the same
	t.Cleanup(tr.CloseIdleConnections)
	return caller{t, "http://" + front, &http.Client{Transport: tr, Timeout: 20 * time.Second}}
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (c caller) do(method, path, body string, headers ...string) answer {
	c.t.Helper()
	a, err := c.try(method, path, body, headers...)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

func (c caller) try(method, path, body string, headers ...string) (answer, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, c.base+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return c.send(req)
}

func (c caller) send(req *http.Request) (answer, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b)}, err
}

// problem checks that an answer of nginx's own is a problem as the services write it.
func (c caller) problem(a answer, status int, name string) {
	c.t.Helper()
	var p struct {
		Type, Title, Detail string
		Status              int
		RequestID           string `json:"request_id"`
	}
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || a.header.Get("Content-Type") != "application/problem+json" {
		c.t.Errorf("%q (%s) is no problem: %v", a.body, a.header.Get("Content-Type"), err)
		return
	}
	if a.status != status || p.Status != status || p.Type != "/problems/"+name || p.Detail == "" || p.RequestID == "" || p.RequestID != a.header.Get("X-Request-Id") {
		c.t.Errorf("status %d, %s, request id %q; want %d and %s", a.status, a.body, a.header.Get("X-Request-Id"), status, name)
	}
	if retry := a.header.Get("Retry-After"); (status == 429 || status == 503) != (retry != "") {
		c.t.Errorf("%d with Retry-After %q", status, retry)
	}
}

// TestSyntax is nginx -t for both wirings, for a site of our own and for the compose files' one.
func TestSyntax(t *testing.T) {
	t.Parallel()
	bin, err := testenv.NginxBin()
	if err != nil {
		t.Fatal("no nginx: run `make test`, or install nginx 1.22 or newer")
	}
	dir := testenv.NginxFolder(t, nginx.Site{Listen: "127.0.0.1:18080", Instances: everywhere("127.0.0.1:1", "127.0.0.1:2")})
	for _, wiring := range []string{"sync", "async"} {
		out, err := exec.CommandContext(t.Context(), bin, "-t", "-p", dir+"/", "-e", "stderr", "-c", filepath.Join(dir, wiring+".conf")).CombinedOutput()
		if err != nil {
			t.Errorf("nginx -t %s.conf: %v\n%s", wiring, err, out)
		}
	}
	if err := nginx.Write(t.TempDir(), nginx.Site{Instances: map[string][]string{"account": {"127.0.0.1:1"}}}); err == nil {
		t.Error("a site without a catalog is written")
	}
}

func everywhere(addrs ...string) map[string][]string {
	m := map[string][]string{}
	for _, s := range nginx.Services() {
		m[s] = addrs
	}
	return m
}

// TestStrategy: while one instance sits on ten requests, sync.conf still gives it every second one,
// and async.conf none.
func TestStrategy(t *testing.T) {
	t.Parallel()
	for wiring, want := range map[string]int{"sync": 20, "async": 0} {
		t.Run(wiring, func(t *testing.T) {
			t.Parallel()
			holding := func(until chan struct{}) *instance {
				return newInstance(t, func(w http.ResponseWriter, r *http.Request) {
					if r.Header.Get("X-Hold") != "" {
						<-until
					}
					ok(w, r)
				})
			}
			soon, late := make(chan struct{}), make(chan struct{})
			slow, fast := holding(late), holding(soon)
			c := from(t, "127.0.0.1", testenv.Nginx(t, wiring, site(slow, fast)))
			var held sync.WaitGroup
			answered := make(chan struct{}, 20)
			for range 20 {
				held.Go(func() {
					_, _ = c.try("GET", "/api/v1/sales", "", "X-Hold", "yes")
					answered <- struct{}{}
				})
			}
			defer held.Wait()
			defer close(late)
			for deadline := time.Now().Add(10 * time.Second); slow.arrivals() < 10 || fast.arrivals() < 10; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("of 20 requests at once %d and %d arrived", slow.arrivals(), fast.arrivals())
				}
			}
			close(soon)
			for range 10 {
				<-answered
			}
			before := slow.arrivals()
			for range 40 {
				if a := c.do("GET", "/api/v1/sales", ""); a.status != 200 {
					t.Fatalf("status %d", a.status)
				}
			}
			if got := slow.arrivals() - before; got != want {
				t.Errorf("the busy instance got %d of 40; want %d", got, want)
			}
		})
	}
}

// TestRetries: an instance that dies in mid-request costs a GET nothing, a POST is never sent twice,
// and soon nobody is sent there.
func TestRetries(t *testing.T) {
	t.Parallel()
	for _, wiring := range []string{"sync", "async"} {
		t.Run(wiring, func(t *testing.T) {
			t.Parallel()
			bad, good := newInstance(t, dies), newInstance(t, ok)
			c := from(t, "127.0.0.1", testenv.Nginx(t, wiring, site(bad, good)))
			failed := 0
			for i := range 20 {
				a := c.do("POST", "/api/v1/reservations", "{}", "X-Request-Id", fmt.Sprint("post-", i))
				if a.status != 200 {
					c.problem(a, 503, "uncertain")
					failed++
				}
			}
			for i := range 20 {
				id := fmt.Sprint("post-", i)
				if n := bad.times(id) + good.times(id); n != 1 {
					t.Errorf("%s was sent %d times", id, n)
				}
			}
			// Three failures within five seconds, and the instance is left alone for as long.
			if failed != 3 || bad.arrivals() != 3 {
				t.Errorf("%d POSTs failed, and %d requests reached the dead instance; want 3", failed, bad.arrivals())
			}
			for i := range 10 {
				if a := c.do("GET", "/api/v1/products", "", "X-Request-Id", fmt.Sprint("get-", i)); a.status != 200 {
					t.Errorf("a GET was answered %d while one instance is well", a.status)
				}
			}
			again := 0
			for i := range 10 {
				again += bad.times(fmt.Sprint("get-", i))
			}
			if again != 3 { // the catalogue's instances are counted by themselves
				t.Errorf("%d GETs were tried at the dead instance first; want 3", again)
			}
		})
	}
}

// TestNobodyListens: what could not be sent goes to the other instance, a POST too; and when all are
// gone the answer comes soon and says what to do.
func TestNobodyListens(t *testing.T) {
	t.Parallel()
	good := newInstance(t, ok)
	s := site(good)
	gone := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	for name := range s.Instances {
		s.Instances[name] = append([]string{gone}, s.Instances[name]...)
	}
	s.Instances["payment"] = []string{gone, gone}
	c := from(t, "127.0.0.1", testenv.Nginx(t, "sync", s))
	for i := range 10 {
		if a := c.do("POST", "/api/v1/carts", "{}", "X-Request-Id", fmt.Sprint("id-", i)); a.status != 200 {
			t.Errorf("status %d", a.status)
		}
		if n := good.times(fmt.Sprint("id-", i)); n != 1 {
			t.Errorf("a POST arrived %d times", n)
		}
	}
	began := time.Now()
	c.problem(c.do("POST", "/api/v1/orders/1/payments", "{}"), 503, "uncertain")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestEvents: an event reaches the shopper before the next one is written, even when only the
// connection's end says how long the answer is.
func TestEvents(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	in := newInstance(t, func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
		for i := range 3 {
			_, _ = fmt.Fprintf(c, "data: %d\n\n", i)
			<-next
		}
	})
	front := testenv.Nginx(t, "async", site(in))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+front+"/api/v1/reservations/1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewReader(resp.Body)
	for i := range 3 {
		line, err := lines.ReadString('\n')
		if err != nil || line != fmt.Sprintf("data: %d\n", i) {
			t.Fatalf("event %d is %q: %v", i, line, err)
		}
		_, _ = lines.ReadString('\n')
		next <- struct{}{}
	}
}

// TestRates: a client may do a burst at once and then what its rate says; this machine has no limits.
func TestRates(t *testing.T) {
	t.Parallel()
	in := newInstance(t, ok)
	s := site(in)
	s.Files = map[string]string{"rates.conf": `
limit_req_zone $client zone=requests:1m rate=1r/m;
limit_req_zone $client zone=logins:1m rate=1r/m;
limit_conn_zone $client zone=streams:1m;
limit_conn_zone $client zone=underway:1m;
map $uri $client_policy { default '"client";q=1;w=60'; }
`}
	front := testenv.Nginx(t, "sync", s)
	here, strangers := from(t, "127.0.0.1", front), 1
	for path, burst := range map[string]int{"/api/v1/sales": 200, "/api/v1/auth/login": 40, "/api/v1/reservations": 200} {
		strangers++
		stranger, passed := from(t, fmt.Sprintf("127.0.0.%d", strangers), front), 0
		for range burst + 10 {
			a := stranger.do("POST", path, "{}")
			if a.status == 200 {
				passed++
				continue
			}
			stranger.problem(a, 429, "rate-limited")
			if a.header.Get("RateLimit") != `"client";r=0;t=1` || a.header.Get("RateLimit-Policy") != `"client";q=1;w=60` {
				t.Errorf("refused with %v", a.header)
			}
		}
		if passed < burst || passed > burst+2 {
			t.Errorf("%s: %d of %d requests passed; want the burst of %d and the first", path, passed, burst+10, burst)
		}
		for range burst + 10 {
			if a := here.do("POST", path, "{}"); a.status != 200 {
				t.Fatalf("%s: this machine's own request was answered %d", path, a.status)
			}
		}
	}
}

// TestCrowd: so many may ask for a unit at a time; one more is told when to come again, without a service being asked. Who
// looks or cancels is none of them.
func TestCrowd(t *testing.T) {
	t.Parallel()
	const most = 512
	here, done := make(chan struct{}, most), make(chan struct{})
	in := newInstance(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			here <- struct{}{}
			<-done
		}
		ok(w, r)
	})
	release := sync.OnceFunc(func() { close(done) })
	t.Cleanup(release) // or the instance never closes
	c := from(t, "127.0.0.1", testenv.Nginx(t, "async", site(in)))
	var asked sync.WaitGroup
	ask := func(n int) {
		for range n {
			asked.Go(func() {
				if a, err := c.try("POST", "/api/v1/reservations", "{}"); err != nil || a.status != http.StatusOK {
					t.Errorf("who was let in was answered %d, %v", a.status, err)
				}
			})
		}
		for range n {
			select {
			case <-here:
			case <-time.After(15 * time.Second):
				t.Fatal("not all of those who may ask got to the service")
			}
		}
	}
	ask(most)
	for range 50 {
		a := c.do("POST", "/api/v1/reservations", "{}")
		c.problem(a, http.StatusServiceUnavailable, "overloaded")
		if secs, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || secs < 2 || secs > 6 {
			t.Errorf("told to come again after %q", a.header.Get("Retry-After"))
		}
	}
	for _, method := range []string{"GET", "DELETE"} {
		if a := c.do(method, "/api/v1/reservations/1", ""); a.status != http.StatusOK {
			t.Errorf("%s was answered %d", method, a.status)
		}
	}
	release()
	asked.Wait()
	ask(1)
	asked.Wait()
}

// TestHangUp: who has asked for a unit and hangs up keeps his place in the crowd until the service is done with him.
func TestHangUp(t *testing.T) {
	t.Parallel()
	for way, body := range map[string]string{"at once": "Content-Length: 2\r\n\r\n{}", "in chunks": "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			here, left, done := make(chan struct{}, 3), make(chan struct{}, 3), make(chan struct{})
			in := newInstance(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // or nobody looks whether he is there
				here <- struct{}{}
				select {
				case <-done:
				case <-r.Context().Done():
					left <- struct{}{}
				}
				ok(w, r)
			})
			release := sync.OnceFunc(func() { close(done) })
			t.Cleanup(release) // or the instance never closes
			s := site(in)
			s.Files = map[string]string{"crowd.conf": "limit_conn crowd 2;"}
			front := testenv.Nginx(t, "sync", s)
			for range 2 {
				conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", front)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.WriteString(conn, "POST /api/v1/reservations HTTP/1.1\r\nHost: shop\r\n"+body); err != nil {
					t.Fatal(err)
				}
				select {
				case <-here:
				case <-time.After(15 * time.Second):
					t.Fatal("a request does not get to the service")
				}
				if err := conn.Close(); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case <-left:
				t.Error("the service was left alone with it")
			case <-time.After(300 * time.Millisecond): // nginx looks at once
			}
			c := from(t, "127.0.0.1", front)
			c.problem(c.do("POST", "/api/v1/reservations", "{}"), http.StatusServiceUnavailable, "overloaded")
			release()
		})
	}
}

// TestAgain: what a service says no to for the next second, too, nginx says no to to others with the same lot, with the id of the request
// that it answers; it repeats nothing else, whatever that says of itself, and asks again soon.
func TestAgain(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	came := map[string]int{} // by method and lot
	over := map[string]bool{}
	in := newInstance(t, func(w http.ResponseWriter, r *http.Request) {
		lot := r.Header.Get("X-Crowd-Lot")
		mu.Lock()
		came[r.Method+lot]++
		over[r.RemoteAddr] = true
		mu.Unlock()
		switch {
		case r.Method != http.MethodPost || lot < "40":
			w.Header().Set("X-Accel-Expires", "1")
			ok(w, r)
		case lot < "80": // no crowd
			w.Header().Set("Cache-Control", "max-age=60")
			w.Header().Set("X-Accel-Expires", "60")
			refuse(w, r, http.StatusServiceUnavailable, "uncertain")
		default:
			n, err := strconv.ParseUint(lot, 16, 8)
			if err != nil {
				t.Error(err)
			}
			w.Header().Set("X-Accel-Expires", "1")
			w.Header().Set("Cache-Control", "no-store")
			w.WriteHeader(551 + int(n/4)%30)
		}
	})
	asked := func(from, to string) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for at, times := range came {
			if lot, post := strings.CutPrefix(at, http.MethodPost); post && lot >= from && lot < to {
				n += times
			}
		}
		return n
	}
	c := from(t, "127.0.0.1", testenv.Nginx(t, "sync", site(in)))
	const shoppers = 1600
	let, uncertain, no, began := 0, 0, 0, time.Now()
	told := map[string]int{}
	for n := range shoppers {
		a := c.do("POST", "/api/v1/reservations", "{}", "X-Request-Id", fmt.Sprintf("mine-%d", n), "X-Crowd-Lot", "f0")
		switch {
		case a.status == http.StatusOK:
			let++
			continue
		case strings.Contains(a.body, "uncertain"):
			uncertain++
			c.problem(a, http.StatusServiceUnavailable, "uncertain")
			continue
		}
		no++
		c.problem(a, http.StatusServiceUnavailable, "overloaded")
		if id := a.header.Values("X-Request-Id"); len(id) != 1 || id[0] != fmt.Sprintf("mine-%d", n) {
			t.Errorf("shopper %d is answered with the request id %q", n, id)
		}
		told[strings.Join(a.header.Values("Retry-After"), " and ")]++
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "X-Accel-Expires": ""} {
			if v := a.header.Get(name); v != want {
				t.Errorf("%s is %q, want %q", name, v, want)
			}
		}
	}
	for wait := 1; wait <= 30; wait++ {
		if told[strconv.Itoa(wait)] == 0 {
			t.Errorf("nobody is told to come again after %d s", wait)
		}
	}
	if len(told) != 30 {
		t.Errorf("told to come again after %v", told)
	}
	lots := 0
	mu.Lock()
	for at := range came {
		lots++
		if len(at) != len("POST00") {
			t.Errorf("a lot is %q", at)
		}
	}
	mu.Unlock()
	if lots != 64 {
		t.Errorf("%d lots, want 64", lots)
	}
	if len(over) > 2*runtime.NumCPU() { // one comes at a time, to any of nginx's workers
		t.Errorf("the service was asked over %d connections", len(over))
	}
	if asked("00", "40") != let || asked("40", "80") != uncertain {
		t.Errorf("%d were let in and %d told nothing certain, the service has seen %d and %d", let, uncertain, asked("00", "40"), asked("40", "80"))
	}
	// A lot is asked about once or twice in two seconds.
	if there, most := asked("80", "zz"), 32*(2+int(time.Since(began)/time.Second)); there > most {
		t.Errorf("%d were told no, %d of them by the service, want no more than %d", no, there, most)
	}
	for range 20 {
		if a := c.do("GET", "/api/v1/reservations", ""); a.status != http.StatusOK {
			t.Fatalf("who looks is answered %d", a.status)
		}
	}
	before, patience := asked("80", "zz"), time.Now().Add(10*time.Second)
	for asked("80", "zz") < before+32 {
		if c.do("POST", "/api/v1/reservations", "{}"); time.Now().After(patience) {
			t.Fatal("nginx goes on saying no")
		}
	}
}

// TestPass: where nginx looks at the service's status, everything passes that the service says to one alone, and where the body
// comes in chunks all of it; a chunk that is none is nginx's own to refuse.
func TestPass(t *testing.T) {
	t.Parallel()
	in := newInstance(t, func(w http.ResponseWriter, r *http.Request) {
		status, err := strconv.Atoi(r.Header.Get("X-Want"))
		chunked := r.Header.Get("X-Way") == "in chunks"
		if lot := r.Header.Get("X-Crowd-Lot"); err != nil || r.URL.Path != "/api/v1/reservations" || chunked != (lot == "") {
			t.Errorf("%s %s, with lot %q: %v", r.Header.Get("X-Way"), r.URL.Path, lot, err)
		}
		if status != 500 {
			w.Header().Set("X-Accel-Expires", "60") // even so
		}
		refuse(w, r, status, "of-the-service")
	})
	front := testenv.Nginx(t, "sync", site(in))
	c := from(t, "127.0.0.1", front)
	for _, status := range []int{400, 401, 402, 403, 404, 405, 409, 410, 415, 422, 429, 500, 503} {
		for range 100 { // of 64 lots
			name := "of-the-service"
			if status == 500 {
				name = "internal"
			}
			c.problem(c.do("POST", "/api/v1/reservations", "{}", "X-Want", strconv.Itoa(status)), status, name)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.base+"/api/v1/reservations", struct{ io.Reader }{strings.NewReader("{}")})
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Want", strconv.Itoa(status))
		req.Header.Set("X-Way", "in chunks")
		req.Header.Set("X-Crowd-Lot", "f0") // whatever he says
		a, err := c.send(req)
		if err != nil {
			t.Fatal(err)
		}
		c.problem(a, status, "of-the-service")
	}
	before := in.arrivals()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", front)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "POST /api/v1/reservations HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	c.problem(answer{resp.StatusCode, resp.Header, string(b)}, 400, "malformed")
	c.problem(c.do("GET", "/@chunked", ""), 404, "not-found")
	if in.arrivals() != before {
		t.Error("what is no request reached the service")
	}
}

// TestLog: the lines of all workers come whole where they go down one pipe, as in a container, and its reader does not keep up.
func TestLog(t *testing.T) {
	t.Parallel()
	const requests = 2000
	pipe := filepath.Join(t.TempDir(), "log")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenFile(pipe, os.O_RDWR, 0) // a writer, too: it does not end before nginx has begun
	if err != nil {
		t.Fatal(err)
	}
	raw, err := r.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var small error
	if err := raw.Control(func(fd uintptr) {
		_, small = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 4096) // it is full at once: no reader is fast enough
	}); err != nil || small != nil {
		t.Fatal(err, small)
	}
	if err := r.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	conf, err := os.ReadFile("site/log.conf")
	if err != nil || strings.Count(string(conf), "/dev/stdout") != 1 {
		t.Fatalf("%s, %v", conf, err)
	}
	s := site(newInstance(t, ok))
	s.Files = map[string]string{"log.conf": strings.Replace(string(conf), "/dev/stdout", pipe, 1)}
	c := from(t, "127.0.0.1", testenv.Nginx(t, "sync", s))
	var all sync.WaitGroup
	defer all.Wait()
	defer func() { _ = r.Close() }() // whoever still writes fails
	for range 16 {
		all.Go(func() {
			for n := range requests / 16 {
				if a, err := c.try("GET", "/api/v1/sales/"+strings.Repeat("x", n*4000/requests*16), ""); err != nil || a.status != http.StatusOK {
					t.Errorf("status %d, %v", a.status, err)
				}
			}
		})
	}
	lines := bufio.NewScanner(r)
	for n := range requests {
		var line struct{ Request, Path string }
		if !lines.Scan() {
			t.Fatal(lines.Err())
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line.Request == "" {
			t.Fatalf("line %d is none: %v: %q", n, err, lines.Text())
		}
	}
}

// TestGreedy: one address has so many places of those who ask for a unit, and so many streams; others do not wait for it.
func TestGreedy(t *testing.T) {
	t.Parallel()
	for path, c := range map[string]struct {
		method, problem string
		most, status    int
	}{
		"/api/v1/reservations":          {"POST", "overloaded", 64, http.StatusServiceUnavailable},
		"/api/v1/reservations/1/events": {"GET", "rate-limited", 100, http.StatusTooManyRequests},
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			here, done := make(chan struct{}, c.most+1), make(chan struct{})
			in := newInstance(t, func(w http.ResponseWriter, r *http.Request) {
				here <- struct{}{}
				<-done
				ok(w, r)
			})
			release := sync.OnceFunc(func() { close(done) })
			t.Cleanup(release) // or the instance never closes
			front := testenv.Nginx(t, "sync", site(in))
			stranger, other := from(t, "127.0.0.2", front), from(t, "127.0.0.3", front)
			var asked sync.WaitGroup
			ask := func(who caller) {
				asked.Go(func() {
					if a, err := who.try(c.method, path, "{}"); err != nil || a.status != http.StatusOK {
						t.Errorf("who was let in was answered %d, %v", a.status, err)
					}
				})
				select {
				case <-here:
				case <-time.After(15 * time.Second):
					t.Fatal("who may ask did not get to the service")
				}
			}
			for range c.most {
				ask(stranger)
			}
			stranger.problem(stranger.do(c.method, path, "{}"), c.status, c.problem)
			ask(other)
			release()
			asked.Wait()
		})
	}
}

// TestBounds: bodies and headers are bounded as the services bound them.
func TestBounds(t *testing.T) {
	t.Parallel()
	in := newInstance(t, ok)
	c := from(t, "127.0.0.1", testenv.Nginx(t, "sync", site(in)))
	for path, most := range map[string]int{"/api/v1/reservations": 16 << 10, "/api/v1/admin/sales": 256 << 10, "/sales/1/reserve": 64 << 10} {
		if a := c.do("POST", path, strings.Repeat("x", most)); a.status != 200 {
			t.Errorf("%s: %d bytes are answered %d", path, most, a.status)
		}
		before := in.arrivals()
		c.problem(c.do("POST", path, strings.Repeat("x", most+1)), 413, "body-too-large")
		if in.arrivals() != before {
			t.Errorf("%s: a body that is too large reached the service", path)
		}
	}
	if a := c.do("GET", "/api/v1/sales", "", "Cookie", strings.Repeat("x", 5<<10), "Authorization", strings.Repeat("x", 500)); a.status != 200 {
		t.Errorf("a header of 5.5 KiB is answered %d", a.status)
	}
	// The largest that gets through is no more than a service reads.
	largest := 0
	for size := 5 << 10; size < 9<<10; size += 64 {
		a := c.do("GET", "/api/v1/sales", "", "Cookie", strings.Repeat("x", size/2), "Authorization", strings.Repeat("x", size/2))
		if a.status != 200 {
			c.problem(a, 400, "malformed")
			break
		}
		_, largest = in.request()
	}
	if largest < 5<<10 || largest > 8<<10 {
		t.Errorf("a header of %d bytes reached the service; it reads 8192", largest)
	}
}

// TestIdentity: the request id goes through and comes back, and nobody can claim another address.
func TestIdentity(t *testing.T) {
	t.Parallel()
	in := newInstance(t, ok)
	front := testenv.Nginx(t, "sync", site(in))
	c := from(t, "127.0.0.2", front)
	for _, route := range [][2]string{{"GET", "/api/v1/sales?limit=1"}, {"POST", "/api/v1/reservations"}} {
		a := c.do(route[0], route[1], "", "X-Request-Id", "mine.1", "X-Forwarded-For", "6.6.6.6", "X-Real-IP", "6.6.6.6",
			"Forwarded", "for=6.6.6.6", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "evil", "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		got, _ := in.request()
		if ids := a.header.Values("X-Request-Id"); len(ids) != 1 || ids[0] != "mine.1" || got.Header.Get("X-Request-Id") != "mine.1" {
			t.Errorf("the request id mine.1 is %q at the service, and %q in the answer", got.Header.Get("X-Request-Id"), ids)
		}
		if xff := got.Header.Values("X-Forwarded-For"); len(xff) != 1 || xff[0] != "127.0.0.2" {
			t.Errorf("X-Forwarded-For is %q", xff)
		}
		for name, want := range map[string]string{"X-Real-IP": "", "Forwarded": "", "X-Forwarded-Host": "", "X-Forwarded-Proto": "http", "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"} {
			if v := got.Header.Get(name); v != want {
				t.Errorf("%s is %q at the service; want %q", name, v, want)
			}
		}
		if got.Host != front || got.RequestURI != route[1] || got.Header.Get("Connection") != "" {
			t.Errorf("the service sees %s and %s", got.Host, got.RequestURI)
		}
	}
	for _, given := range []string{"", "not harmless"} {
		a := c.do("GET", "/api/v1/sales", "", "X-Request-Id", given)
		if got, _ := in.request(); a.header.Get("X-Request-Id") == given || got.Header.Get("X-Request-Id") != a.header.Get("X-Request-Id") {
			t.Errorf("%q: the service sees %q, and the caller %q", given, got.Header.Get("X-Request-Id"), a.header.Get("X-Request-Id"))
		}
	}
	for _, odd := range []string{"", "with space", strings.Repeat("x", 65), `q"uote`} {
		a := c.do("GET", "/nothing", "", "X-Request-Id", odd)
		c.problem(a, 404, "not-found")
		if a.header.Get("X-Request-Id") == odd {
			t.Errorf("the request id %q is taken", odd)
		}
	}
	c.problem(c.do("GET", `/no%22thing?"`, ""), 404, "not-found")
}

// TestRoutes: every route of the API and every page reaches its service, and nothing else is reached.
func TestRoutes(t *testing.T) {
	t.Parallel()
	s := nginx.Site{Instances: map[string][]string{}}
	for _, name := range nginx.Services() {
		in := newInstance(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Service", name) })
		s.Instances[name] = []string{in.addr()}
	}
	c := from(t, "127.0.0.1", testenv.Nginx(t, "sync", s))
	want := map[string]string{
		"/api/v1/auth/": "account", "/api/v1/products": "catalog", "/api/v1/sales": "catalog", "/api/v1/carts": "order", "/api/v1/orders": "order",
		"/api/v1/orders/{id}/payments": "payment", "/api/v1/payments/": "payment", "/api/v1/reservations": "reservation",
		"/api/v1/admin/products": "catalog", "/api/v1/admin/sales": "catalog", "/api/v1/admin/orders/": "payment", "/api/v1/admin/audit": "inventory",
		"/api/v1/admin/dlq": "inventory", "/healthz": "", "/readyz": "reservation", "/openapi.json": "catalog", "/problems/": "catalog",
	}
	b, err := os.ReadFile("../httpapi/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct{ Paths map[string]yaml.Node }
	if err := yaml.Unmarshal(b, &doc); err != nil || len(doc.Paths) < 30 {
		t.Fatalf("%d paths: %v", len(doc.Paths), err)
	}
	for path := range doc.Paths {
		service, longest := "?", -1
		for prefix, name := range want {
			if strings.HasPrefix(path, prefix) && len(prefix) > longest {
				service, longest = name, len(prefix)
			}
		}
		path = strings.NewReplacer("{id}", "019aa000-0000-7000-8000-000000000000", "{sku}", "S-1", "{name}", "sold-out", "{service}", "order").Replace(path)
		if a := c.do("GET", path, ""); a.status != 200 || a.header.Get("X-Service") != service {
			t.Errorf("%s is answered %d by %q; want 200 by %q", path, a.status, a.header.Get("X-Service"), service)
		}
	}
	for _, path := range console.Paths() {
		path = strings.ReplaceAll(path, "*", "x/y")
		if a := c.do("GET", path, ""); a.status != 200 || a.header.Get("X-Service") != "console" {
			t.Errorf("the page %s is answered %d by %q", path, a.status, a.header.Get("X-Service"))
		}
	}
	for _, path := range []string{
		"/metrics", "/debug/pprof/", "/debug/vars", "/internal/v1/events/order", "/internal/v1/ask/order", "/api/v1/metrics", "/api/v1/admin", "/api/v2/sales",
		"/api/v1/sales/../../../metrics", "/static/../metrics", "/static/%2e%2e/metrics", "//metrics", "/nginx_status", "/.git/config",
	} {
		a := c.do("GET", path, "")
		c.problem(a, 404, "not-found")
		if a.header.Get("X-Service") != "" {
			t.Errorf("%s reaches %s", path, a.header.Get("X-Service"))
		}
	}
}

// TestProblems: what nginx calls a problem is one that the API's document knows and explains.
func TestProblems(t *testing.T) {
	t.Parallel()
	var conf []byte
	for _, name := range []string{"problems", "overloaded", "uncertain"} {
		b, err := os.ReadFile("shared/" + name + ".conf")
		if err != nil {
			t.Fatal(err)
		}
		conf = append(conf, b...)
	}
	document, err := os.ReadFile("../httpapi/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	types := regexp.MustCompile(`"type":"([^"]+)"`).FindAllStringSubmatch(string(conf), -1)
	if len(types) < 6 {
		t.Fatalf("only %d problems", len(types))
	}
	for _, m := range types {
		if !strings.Contains(string(document), "- "+m[1]+"\n") {
			t.Errorf("nginx answers %s, which the API's document does not know", m[1])
		}
	}
}
