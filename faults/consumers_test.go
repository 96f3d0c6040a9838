//go:build faults

package faults

import (
	"context"
	"encoding/json"
	"flashsale/testenv"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	rabbit "github.com/rabbitmq/amqp091-go"
)

// TestConsumersKilled: beside the process that serves the shoppers, each service has a consumer of its
// own. Each is killed with messages in its hands, and comes back.
func TestConsumersKilled(t *testing.T) {
	t.Parallel()
	amqpURL := testenv.RabbitMQ(t)
	s := newSystem(t, amqpURL)
	front := s.process("async", "").start()
	consumers := map[string]*process{}
	for _, role := range []string{"inventory", "order", "payment", "notification"} {
		consumers[role] = s.process("async", role).asking(front).start()
	}
	const stock = 30
	shoppers := demand(stock)
	run, c, sale, done := s.crowd(front.url, stock, shoppers)
	for i, role := range []string{"inventory", "order", "payment", "notification"} {
		s.at(run, shoppers*(i+1)/8)
		p := consumers[role]
		p.end(syscall.SIGKILL)
		p.start()
	}
	s.settled(run, c, sale, done)
	s.audit(0)
}

// TestTwiceAndPoison: a copy of every message of a sale is published again, twice and in another order,
// while the sale goes on, and between them what no service can handle. Each effect happens once; the
// poison is in the dead letters, is still there after a replay, and is gone after a purge.
func TestTwiceAndPoison(t *testing.T) {
	t.Parallel()
	amqpURL := testenv.RabbitMQ(t)
	s := newSystem(t, amqpURL)
	p := s.process("async", "").start()
	conn, err := rabbit.Dial(amqpURL)
	must(t, err)
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	must(t, err)

	const stock, poison = 30, 7
	shoppers := demand(stock)
	again, stop := repeat(t, amqpURL, 40)
	run, c, sale, done := s.crowd(p.url, stock, shoppers)
	for n := range poison {
		s.at(run, shoppers*n/10)
		body := []string{"", "not json", `{"specversion":"1.0","schemaversion":99}`}[n%3]
		service := []string{"inventory", "order", "payment", "notification"}[n%4]
		must(t, ch.PublishWithContext(t.Context(), "flashsale.events", service+".poison", true, false, rabbit.Publishing{Body: []byte(body), DeliveryMode: rabbit.Persistent}))
	}
	s.settled(run, c, sale, done)
	stop()
	if n := again.published.Load(); n < 3*stock {
		t.Errorf("only %d copies were published", n)
	}
	t.Logf("%d copies", again.published.Load())
	s.audit(poison)
	s.command("dlq", "replay", "--all")
	s.audit(poison) // it converges: what cannot be handled dies again, and nothing else has changed
	var letters struct {
		Letters []struct{ Reason, Service, Error string }
	}
	must(t, json.Unmarshal([]byte(s.command("dlq", "list", "--json")), &letters))
	for _, l := range letters.Letters {
		if l.Reason == "" || l.Service == "" || l.Error == "" {
			t.Errorf("a letter without its story: %+v", l)
		}
	}
	s.command("dlq", "purge", "--all", "--yes")
	s.audit(0)
}

// echo publishes what it gets again, in handfuls, shuffled, and each message twice. It does so once per
// message, or it would never end.
type echo struct {
	t         *testing.T
	hand      int // so many are shuffled together
	seen      map[string]bool
	published atomic.Int64
}

// repeat has an echo on a broker, until it is stopped.
func repeat(t *testing.T, url string, hand int) (e *echo, stop func()) {
	t.Helper()
	conn, err := rabbit.Dial(url)
	must(t, err)
	ch, err := conn.Channel()
	must(t, err)
	tap, err := ch.QueueDeclare("", false, true, true, false, nil)
	must(t, err)
	must(t, ch.QueueBind(tap.Name, "#", "flashsale.events", false, nil))
	copies, err := ch.Consume(tap.Name, "", true, true, false, false, nil)
	must(t, err)
	out, err := conn.Channel()
	must(t, err)
	e = &echo{t: t, hand: hand, seen: map[string]bool{}}
	var copying sync.WaitGroup
	copying.Go(func() { e.repeat(t.Context(), out, copies) })
	stop = sync.OnceFunc(func() {
		_ = ch.Close() // the copies end
		copying.Wait()
		_ = conn.Close()
	})
	t.Cleanup(stop)
	return e, stop
}

func (e *echo) repeat(ctx context.Context, ch *rabbit.Channel, copies <-chan rabbit.Delivery) {
	rng := rand.New(rand.NewPCG(7, 7))
	var hand []rabbit.Delivery
	for d := range copies {
		key := d.RoutingKey + string(d.Body)
		if e.seen[key] || strings.HasSuffix(d.RoutingKey, ".poison") {
			continue
		}
		e.seen[key] = true
		hand = append(hand, d, d)
		if len(hand) < e.hand {
			continue
		}
		rng.Shuffle(len(hand), func(i, j int) { hand[i], hand[j] = hand[j], hand[i] })
		for _, h := range hand[:e.hand*3/4] { // some stay for later: they come long after their time
			err := ch.PublishWithContext(ctx, "flashsale.events", h.RoutingKey, true, false, rabbit.Publishing{
				Body: h.Body, ContentType: h.ContentType, Type: h.Type, DeliveryMode: rabbit.Persistent, Headers: h.Headers,
			})
			if err != nil {
				e.t.Error(err)
				return
			}
			e.published.Add(1)
		}
		hand = append(hand[:0], hand[e.hand*3/4:]...)
	}
}

// TestModesMixed: the mode is switched in the middle of a sale, with instances of both modes at work on
// the same servers and behind the same address: first asynchronous ones, then both, then synchronous
// ones alone, which decide what still waits.
func TestModesMixed(t *testing.T) {
	t.Parallel()
	s := newSystem(t, testenv.RabbitMQ(t))
	old, newer := s.process("async", "").start(), s.process("sync", "")
	balancer := &balancer{}
	balancer.to(old.url)
	srv := httptest.NewServer(balancer)
	t.Cleanup(srv.Close)
	const stock = 40
	shoppers := demand(stock)
	run, c, sale, done := s.crowd(srv.URL, stock, shoppers)
	s.at(run, shoppers/5)
	newer.start()
	balancer.to(old.url, newer.url)
	s.at(run, shoppers/2)
	if balancer.asked[0].Load() == 0 || balancer.asked[1].Load() == 0 {
		t.Error("one of the modes was never asked")
	}
	old.end(syscall.SIGKILL) // it had messages in its hands
	balancer.to(newer.url)
	s.at(run, shoppers*3/4)
	old.start()
	balancer.to(old.url, newer.url)
	s.settled(run, c, sale, done)
	old.end(syscall.SIGTERM)
	s.audit(0)
}

// balancer sends requests to the instances in turn.
type balancer struct {
	mu    sync.Mutex
	there []*httputil.ReverseProxy
	next  int
	asked [2]atomic.Int64
}

func (b *balancer) to(urls ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.there = nil
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil {
			panic(fmt.Sprint("an address of this test: ", err))
		}
		b.there = append(b.there, &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }, ErrorHandler: gone})
	}
}

// gone answers as a connection does whose other end dies: the shopper repeats the request.
func gone(w http.ResponseWriter, _ *http.Request, _ error) {
	w.Header().Set("Retry-After", "1")
	http.Error(w, `{"type":"/problems/uncertain","status":503}`, http.StatusServiceUnavailable)
}

// ServeHTTP implements http.Handler.
func (b *balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.next = (b.next + 1) % len(b.there)
	i := b.next
	to := b.there[i]
	b.mu.Unlock()
	b.asked[i].Add(1)
	to.ServeHTTP(w, r)
}
