//go:build faults

package faults

import (
	"compress/gzip"
	"context"
	"flashsale/bench/journey"
	"flashsale/nginx"
	"flashsale/testenv"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	rabbit "github.com/rabbitmq/amqp091-go"
)

// The secrets of the systems behind nginx, and their bounds on one shopper.
const (
	tokenSecret   = "token-secret-of-the-abused-system-0123456789"
	internalToken = "internal-token-of-the-abused-system-0123456789"
	webhookSecret = "webhook-secret-of-the-abused-system-0123456789"
	maxUnpaid     = 4
	shopperRate   = 50 // a second; the default
)

// front is a system of two processes behind nginx, with everything that they write about themselves.
type front struct {
	*system
	mode      string
	base      string // of nginx
	addr      string // of nginx
	procs     []*process
	admin     []string     // base URLs of /metrics and profiles
	logs      testenv.Text // of the processes
	accessLog string       // nginx's, a file
	traces    testenv.Text // what was sent to the OTLP receiver
	events    testenv.Text // every message of the broker, headers and body
	hooks     hooks        // the shop's customer system, which gets the notifications
}

// hooks keeps the webhook's requests.
type hooks struct {
	mu  sync.Mutex
	got []hook
}

type hook struct {
	signature, key string
	body           []byte
}

// ServeHTTP implements http.Handler.
func (h *hooks) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.got = append(h.got, hook{r.Header.Get("X-Flashsale-Signature"), r.Header.Get("Idempotency-Key"), body})
}

func (h *hooks) all() []hook {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]hook(nil), h.got...)
}

// newFront starts two processes of all services on real servers, behind nginx with the project's own
// configuration and its own limits.
func newFront(t *testing.T, mode string) *front {
	t.Helper()
	broker := testenv.RabbitMQ(t)
	f := &front{system: newSystem(t, broker), mode: mode, accessLog: filepath.Join(t.TempDir(), "access.log")}
	f.stderr = &f.logs
	t.Cleanup(func() {
		if t.Failed() {
			said := f.logs.String()
			t.Logf("the processes' last words:\n%s", said[max(0, len(said)-4000):])
		}
	})
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var body io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			if z, err := gzip.NewReader(r.Body); err == nil {
				body = z
			}
		}
		_, _ = io.Copy(&f.traces, body)
	}))
	t.Cleanup(receiver.Close)
	customer := httptest.NewServer(&f.hooks)
	t.Cleanup(customer.Close)
	f.tap(broker)
	format := map[string]string{"sync": "json", "async": "text"}[mode]
	f.env = append(f.env, "TOKEN_SECRETS="+tokenSecret, "FLASHSALE_INTERNAL_TOKEN="+internalToken, fmt.Sprint("FLASHSALE_MAX_UNPAID=", maxUnpaid),
		fmt.Sprint("FLASHSALE_SHOPPER_RATE=", shopperRate), "FLASHSALE_PASSWORD_SLOTS=1", "FLASHSALE_LOG_LEVEL=debug", "FLASHSALE_LOG_FORMAT="+format,
		"FLASHSALE_OTLP_ENDPOINT="+receiver.URL, "FLASHSALE_TRACE_RATIO=1", "WEBHOOK_URL="+customer.URL, "WEBHOOK_SECRET="+webhookSecret, "FLASHSALE_PAYMENT_LOST_REPLY_RATE=0",
		"GOMEMLIMIT=256MiB") // the compose files have bounds, too: the garbage of hashes goes before there is more
	site := nginx.Site{Instances: map[string][]string{}, Files: map[string]string{"log.conf": "access_log " + f.accessLog + " json;\n"}}
	for range 2 {
		admin := net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t)))
		p := f.process(mode, "", "--admin-listen="+admin)
		f.procs, f.admin = append(f.procs, p.start()), append(f.admin, "http://"+admin)
		for _, service := range nginx.Services() {
			site.Instances[service] = append(site.Instances[service], strings.TrimPrefix(p.url, "http://"))
		}
	}
	f.addr = testenv.Nginx(t, mode, site)
	f.base = "http://" + f.addr
	return f
}

// tap copies every event of the broker into the testenv.Text.
func (f *front) tap(url string) {
	f.t.Helper()
	conn, err := rabbit.Dial(url)
	must(f.t, err)
	f.t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	must(f.t, err)
	must(f.t, ch.ExchangeDeclare("flashsale.events", "topic", true, false, false, false, nil))
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	must(f.t, err)
	must(f.t, ch.QueueBind(q.Name, "#", "flashsale.events", false, nil))
	copies, err := ch.Consume(q.Name, "", true, true, false, false, nil)
	must(f.t, err)
	go func() {
		for d := range copies {
			_, _ = fmt.Fprintf(&f.events, "%s %v %s\n", d.RoutingKey, d.Headers, d.Body)
		}
	}()
}

// access returns nginx's log.
func (f *front) access() string {
	f.t.Helper()
	b, err := os.ReadFile(f.accessLog)
	must(f.t, err)
	return string(b)
}

func (f *front) nobody() person { return person{s: f.system, base: f.base} }

// shopper signs somebody up.
func (f *front) shopper(name string) person {
	f.t.Helper()
	return f.login(f.base, name+"@example.com")
}

// from returns the same person at another address of this machine: at 127.0.0.2 and beyond nginx has
// limits.
func (p person) from(t *testing.T, address string) person {
	t.Helper()
	dial := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	tr := &http.Transport{MaxIdleConnsPerHost: 32, DialContext: dial.DialContext}
	t.Cleanup(tr.CloseIdleConnections)
	elsewhere := *p.s
	elsewhere.client = &http.Client{Timeout: 20 * time.Second, Transport: tr}
	p.s = &elsewhere
	return p
}

// open opens a sale without a limit of its own.
func (f *front) open(t *testing.T, stock int64, hold time.Duration) journey.Sale {
	t.Helper()
	sale, err := journey.OpenSale(t.Context(), journey.Crowd{
		Base: f.base, Operator: operator, Password: password, Stock: stock, Limit: int(stock), Hold: hold, Client: f.client,
	})
	must(t, err)
	return sale
}

// want sends a request and checks the answer: its status and, when kind is not empty, the problem.
func (p person) want(t *testing.T, status int, kind, method, path string, body any, headers ...string) said {
	t.Helper()
	r := p.do(method, path, body, headers...)
	if got := fmt.Sprint(r.body["type"]); r.status != status || kind != "" && got != "/problems/"+kind {
		t.Errorf("%s %s with %.200v: %d %v; want %d %s", method, path, body, r.status, r.body, status, kind)
	}
	return r
}

// reserve holds a unit, in either wiring, and returns the reservation's id.
func (p person) reserve(t *testing.T, sale journey.Sale, key string) string {
	t.Helper()
	return fmt.Sprint(p.want(t, http.StatusCreated, "", "POST", "/api/v1/reservations", wants(sale), "Idempotency-Key", key, "Prefer", "wait=10").body["id"])
}

// eventually asks until the field has the value.
func (p person) eventually(t *testing.T, path, field string, value any) {
	t.Helper()
	var last said
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		if last = p.do("GET", path, nil); last.body[field] == value {
			tick.Stop()
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			t.Fatalf("%s: %s is never %v: %d %v", path, field, value, last.status, last.body)
		}
	}
}

// paid pays for a reservation and waits until the order is confirmed; it returns the payment's path.
func (p person) paid(t *testing.T, reservation, key string) string {
	t.Helper()
	r := p.do("POST", "/api/v1/orders/"+reservation+"/payments", map[string]any{"method": "tok_ok"}, "Idempotency-Key", key)
	if r.status != http.StatusCreated && r.status != http.StatusAccepted {
		t.Fatalf("pay: %d %v", r.status, r.body)
	}
	p.eventually(t, "/api/v1/orders/"+reservation, "state", "confirmed")
	return r.header.Get("Location")
}
