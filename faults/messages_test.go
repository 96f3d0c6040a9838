//go:build faults

package faults

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// messageFaults are what happens to what the services tell each other, the provider and the shop's own systems.
func messageFaults(wiring string) []fault {
	all := []fault{
		{
			name: "the provider charges and does not answer", hangs: true, crowd: byCard,
			strike: func(s *site) {
				s.restart("payment", "--payment-lost-reply-rate=1")
				s.unknown()
				s.hang()
				s.restart("payment", "--payment-lost-reply-rate=0.05")
			},
		},
		{name: "webhooks come twice and late", hangs: true, prepare: deafCustomer, strike: func(s *site) {
			s.customer.deaf.Store(true)
			s.hang()
			s.customer.deaf.Store(false)
		}},
		{name: "inventory crashes in a loop", hangs: true, prepare: built, strike: crashing("inventory", "ledger.move:before:2")},
		{name: "order crashes in a loop", hangs: true, prepare: built, strike: crashing("order", "events.handle:after:3")},
	}
	if wiring == "sync" {
		return append(all, fault{name: "calls come twice and in another order", hangs: true, prepare: repeaters, strike: func(s *site) {
			s.twice.on.Store(true)
			s.hang()
			s.twice.on.Store(false)
			s.twice.late.Wait()
			if n := s.twice.sent.Load(); n < 10 {
				s.t.Errorf("only %d calls came twice", n)
			}
		}})
	}
	return append(all,
		fault{name: "messages come twice and in another order", hangs: true, strike: func(s *site) {
			again, stop := repeat(s.t, s.rabbit.URL(), 12)
			s.hang()
			if stop(); again.published.Load() < 10 {
				s.t.Errorf("only %d copies were published", again.published.Load())
			}
		}},
		fault{name: "a queue is full", hangs: true, strike: func(s *site) {
			must(s.t, s.rabbit.Ctl(s.t.Context(), "set_policy", "small", `^flashsale\.inventory$`, `{"max-length":4}`, "--apply-to", "queues"))
			s.refuses(func() { s.services["inventory"].end(syscall.SIGTERM) })
			s.hang()
			s.services["inventory"].start()
			must(s.t, s.rabbit.Ctl(s.t.Context(), "clear_policy", "small"))
		}},
		fault{name: "a disk alarm of RabbitMQ", hangs: true, strike: func(s *site) {
			s.refuses(func() { must(s.t, s.rabbit.Ctl(s.t.Context(), "set_disk_free_limit", "1000000000000000")) })
			s.hang()
			must(s.t, s.rabbit.Ctl(s.t.Context(), "set_disk_free_limit", "50000000"))
		}})
}

// byCard has everybody pay with a card: what comes of it is what the provider is set to.
func byCard(l *load) {
	for n := range l.plans {
		l.plans[n].method = "tok_card"
	}
}

// unknown has somebody pay, and waits until the payment is unknown: the provider has not answered.
func (s *site) unknown() {
	s.t.Helper()
	sale := s.opened(1, time.Minute)
	who := s.somebody()
	var order any
	s.until("a unit is held", back, func() bool {
		order = who.do("POST", "/api/v1/reservations", wants(sale), "Idempotency-Key", "unknown", "Prefer", "wait=5").body["id"]
		return order != nil
	})
	at := ""
	s.until("a payment is unknown", back, func() bool {
		if at == "" {
			at = who.do("POST", fmt.Sprintf("/api/v1/orders/%v/payments", order), map[string]any{"method": "tok_card"}, "Idempotency-Key", "unknown").header.Get("Location")
			return false
		}
		return who.do("GET", at, nil).body["state"] == "unknown"
	})
}

// refuses has somebody ask for units, one after the other, from when something is broken until a request is shed.
func (s *site) refuses(breaks func()) {
	s.t.Helper()
	sale := s.opened(400, holdFor)
	who := s.somebody()
	s.until("the sale is known", back, func() bool {
		return who.do("POST", "/api/v1/reservations", wants(sale), "Idempotency-Key", "known", "Prefer", "wait=5").status == http.StatusCreated
	})
	breaks()
	if r := who.shed(sale); r.body["type"] != "/problems/overloaded" && r.body["type"] != "/problems/uncertain" {
		s.t.Errorf("shed with %v", r.body)
	}
}

// built has the program built that can be told to die, before anything waits for it.
func built(s *site) func() {
	_, err := sabotaged()
	must(s.t, err)
	return func() {}
}

// crashing has a service die at a call again and again, for as long as a fault lasts, twice at least.
func crashing(role, at string) func(*site) {
	return func(s *site) {
		regular := s.services[role]
		regular.end(syscall.SIGKILL)
		s.t.Cleanup(func() { // should this fail, the next cell begins all the same
			if regular.cmd == nil {
				regular.start()
			}
		})
		deaths := 0
		for until := time.Now().Add(s.pause); deaths < 2 || time.Now().Before(until); {
			victim, said := s.armed(regular, at)
			victim.launch()
			died := make(chan struct{})
			go func() { _ = victim.cmd.Wait(); close(died) }()
			wait := max(time.Until(until), 0)
			if deaths < 2 {
				wait = 30 * time.Second
			}
			select {
			case <-died:
			case <-time.After(wait):
				_ = victim.cmd.Process.Kill()
				<-died
			}
			if strings.Contains(said.String(), "failpoint "+at+"\n") {
				deaths++
			} else if deaths < 2 {
				s.t.Fatalf("%s did not come to %s", role, at)
			}
		}
		s.t.Logf("%s died %d times", role, deaths)
		regular.start()
	}
}

// customer is the shop's own system, which is told of everything. While it is deaf, it takes what comes and hangs up.
type customer struct {
	deaf atomic.Bool

	mu     sync.Mutex
	bodies map[string]string // by key
	told   map[string]bool   // and answered
	again  int
	wrong  []string
}

// ServeHTTP implements http.Handler.
func (c *customer) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	key := r.Header.Get("Idempotency-Key")
	c.mu.Lock()
	first, known := c.bodies[key]
	switch {
	case err != nil || key == "":
		c.wrong = append(c.wrong, fmt.Sprintf("a webhook without a key or a body: %q, %v", key, err))
	case known && first != string(body):
		c.wrong = append(c.wrong, fmt.Sprintf("key %s comes again with another body: %s, and then %s", key, first, body))
	case known:
		c.again++
	default:
		c.bodies[key] = string(body)
	}
	deaf := c.deaf.Load()
	c.told[key] = c.told[key] || !deaf
	c.mu.Unlock()
	if deaf {
		panic(http.ErrAbortHandler)
	}
}

// deafCustomer has the notifications sent to a customer, and holds in the end what he was told: everything, a repetition
// with the key and the words of the first.
func deafCustomer(s *site) func() {
	s.customer = &customer{bodies: map[string]string{}, told: map[string]bool{}}
	srv := httptest.NewServer(s.customer)
	s.restart("notification", "--webhook-url="+srv.URL)
	began := time.Now().UTC()
	return func() {
		defer srv.Close()
		pending := func() int64 {
			return s.number(s.postgres.URL("notifications"), `SELECT count(*) FROM message WHERE state = 'pending' AND created_at >= $1::timestamptz`, began.Format(time.RFC3339Nano))
		}
		s.until("everything is told", 2*s.pause+60*time.Second, func() bool { return pending() == 0 })
		c := s.customer
		c.mu.Lock()
		defer c.mu.Unlock()
		for key, answered := range maps.All(c.told) {
			if !answered {
				s.t.Errorf("%s was never told when the customer heard", key)
			}
		}
		sent := s.number(s.postgres.URL("notifications"), `SELECT count(*) FROM message WHERE state = 'sent' AND created_at >= $1::timestamptz`, began.Format(time.RFC3339Nano))
		if int64(len(c.told)) < sent || c.again == 0 || len(c.wrong) > 0 {
			s.t.Errorf("%d messages were sent, the customer was told %d, %d times again: %v", sent, len(c.told), c.again, c.wrong)
		}
		s.t.Logf("%d messages, %d times again", len(c.told), c.again)
		s.restart("notification", "--webhook-url=")
	}
}

// repeater is in front of services' internal ports. While it is on, each event that is sent to them comes once more, at
// another time.
type repeater struct {
	on   atomic.Bool
	sent atomic.Int64
	late sync.WaitGroup
}

// before puts it before an address.
func (r *repeater) before(addr string, client *http.Client) *httptest.Server {
	to := &url.URL{Scheme: "http", Host: addr}
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(to) }, ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
		panic(http.ErrAbortHandler) // as when the service itself hangs up
	}}
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		q.Body = io.NopCloser(bytes.NewReader(body))
		if r.on.Load() && strings.HasPrefix(q.URL.Path, "/internal/v1/events/") {
			again, err := http.NewRequestWithContext(context.WithoutCancel(q.Context()), q.Method, to.JoinPath(q.URL.Path).String(), bytes.NewReader(body))
			if err == nil {
				again.Header = q.Header.Clone()
				r.late.Go(func() {
					time.Sleep(time.Duration(rand.IntN(600)) * time.Millisecond) // the network's detour: before or after the first
					if resp, err := client.Do(again); err == nil {
						_ = resp.Body.Close()
						r.sent.Add(1)
					}
				})
			}
		}
		proxy.ServeHTTP(w, q)
	}))
}

// repeaters has every service call the others through repeaters.
func repeaters(s *site) func() {
	s.twice = &repeater{}
	var servers []*httptest.Server
	own := map[string]string{}
	for _, role := range roles() {
		own[role] = s.services[role].internal
		srv := s.twice.before(own[role], s.client)
		servers = append(servers, srv)
		s.services[role].internal = strings.TrimPrefix(srv.URL, "http://")
	}
	through := map[string]string{}
	for _, role := range roles() {
		through[role] = s.peers(role)
	}
	for _, role := range roles() {
		s.services[role].internal = own[role]
	}
	for _, role := range roles() {
		s.restart(role, through[role])
	}
	return func() {
		for _, role := range roles() {
			s.restart(role, s.peers(role))
		}
		for _, srv := range servers {
			srv.Close()
		}
	}
}
