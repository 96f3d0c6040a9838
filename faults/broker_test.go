//go:build faults

package faults

import (
	"flashsale/bench/journey"
	"flashsale/testenv"
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"
)

// TestBrokerKilled: in the middle of a sale the broker is killed and comes back, then refuses to take
// messages in because its memory is short, then hangs. Nobody waits for ever, nothing is lost.
func TestBrokerKilled(t *testing.T) {
	t.Parallel()
	b := testenv.Broker(t)
	s := newSystem(t, b.URL())
	p := s.process("async", "").start()
	ann, spare := s.sale(p.url, 200, 3*time.Second) // the crowd may hold every unit of its own
	const stock = 60
	shoppers := demand(stock)
	run, c, sale, done := s.crowd(p.url, stock, shoppers)
	s.at(run, shoppers/6)
	b.Kill()
	must(t, b.Start(t.Context()))
	s.at(run, shoppers/3)
	must(t, b.Ctl(t.Context(), "set_vm_memory_high_watermark", "0.000001"))
	blocked := ann.shed(spare)
	if blocked.took > 12*time.Second {
		t.Errorf("answered 503 after %s", blocked.took)
	}
	must(t, b.Ctl(t.Context(), "set_vm_memory_high_watermark", "0.6"))
	s.settled(run, c, sale, done)

	// The publisher dies between the commit and the publish: the broker hangs, the hold expires in the
	// ledger, what follows from that waits in the outbox, and whoever would have sent it is killed.
	fresh, err := journey.OpenSale(t.Context(), journey.Crowd{
		Base: p.url, Operator: operator, Password: password, Stock: 5, Units: 1, Hold: 1500 * time.Millisecond, Client: s.client,
	})
	must(t, err)
	r := ann.do("POST", "/api/v1/reservations", wants(fresh), "Idempotency-Key", "late", "Prefer", "wait=5")
	if r.status != http.StatusCreated {
		t.Fatalf("reserve: %d %v", r.status, r.body)
	}
	rid := fmt.Sprint(r.body["id"])
	must(t, b.Pause())
	s.until("the hold has expired", 20*time.Second, func() bool { return ann.do("GET", "/api/v1/reservations/"+rid, nil).body["state"] == "expired" })
	p.end(syscall.SIGKILL)
	must(t, b.Resume())
	p.args = append(p.args, "--sweep-after=1h") // the outbox, and nothing else
	p.start()
	s.until("the order is cancelled", 20*time.Second, func() bool { return ann.do("GET", "/api/v1/orders/"+rid, nil).body["state"] == "cancelled" })
	s.audit(0)
}

// shed repeats a request until it is answered 503, and checks that answer.
func (p person) shed(sale journey.Sale) said {
	p.s.t.Helper()
	var got said
	n := 0
	p.s.until("a request is shed", 40*time.Second, func() bool {
		n++
		got = p.do("POST", "/api/v1/reservations", wants(sale), "Idempotency-Key", fmt.Sprint("shed-", n))
		return got.status == http.StatusServiceUnavailable
	})
	if got.header.Get("Retry-After") == "" || got.body["type"] == nil {
		p.s.t.Errorf("shed with %v %v", got.header, got.body)
	}
	return got
}

// TestBrokerLosesDisk: accepted requests, and every other message under way, are only in the broker
// and at the gate when the broker loses its disk. Every one that was answered 202 is decided once, and
// what should have followed from each decision does.
func TestBrokerLosesDisk(t *testing.T) {
	t.Parallel()
	b := testenv.Broker(t)
	s := newSystem(t, b.URL())
	front := s.process("async", "reservation,order,payment,catalog,account,notification")
	stock := s.process("async", "inventory")
	front.asking(stock)
	stock.asking(front)
	stock.launch() // each asks the other before it is ready
	front.start()
	stock.end(syscall.SIGTERM)
	stock.start()
	ann, sale := s.sale(front.url, 100, 5*time.Minute)

	// What is decided while nobody makes orders is said in the broker only.
	must(t, stock.cmd.Process.Signal(syscall.SIGSTOP))
	early, _ := ann.ask8(sale, "early", 16)
	front.end(syscall.SIGKILL)
	must(t, stock.cmd.Process.Signal(syscall.SIGCONT))
	s.until("all is decided and said", 30*time.Second, func() bool {
		return s.count("SELECT count(*) FROM reservation") == 1+len(early) && s.count("SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM announcement)") == 0
	})
	b.Kill()
	must(t, b.Wipe())
	must(t, b.Start(t.Context()))
	front.start()
	s.until("every reservation has an order", 30*time.Second, func() bool { // the list repairs nothing: reading one order does
		orders, ok := ann.do("GET", "/api/v1/orders?limit=100", nil).body["orders"].([]any)
		return ok && len(orders) == 1+len(early)
	})
	if r := ann.do("POST", "/api/v1/reservations", wants(sale), "Idempotency-Key", "terms-are-known-again", "Prefer", "wait=10"); r.status != http.StatusCreated {
		t.Errorf("reserve: %d %v", r.status, r.body)
	}

	stock.end(syscall.SIGKILL)
	accepted, _ := ann.ask8(sale, "late", 64)
	if len(accepted) < 48 {
		t.Errorf("accepted %d of 64 while nobody consumes", len(accepted))
	}
	boss := s.login(front.url, operator)
	more := boss.do("POST", "/api/v1/admin/sales/"+sale.ID+"/items/"+sale.SKU+"/stock", map[string]any{"quantity": 7}, "Idempotency-Key", "more")
	if more.status != http.StatusAccepted {
		t.Errorf("stock is added: %d %v", more.status, more.body)
	}
	b.Kill()
	must(t, b.Wipe())
	must(t, b.Start(t.Context()))
	stock.start()
	ann.held(accepted)
	s.until("the added stock is there", 45*time.Second, func() bool {
		items, ok := ann.do("GET", "/api/v1/sales/"+sale.ID, nil).body["items"].([]any)
		return ok && items[0].(map[string]any)["available"] == float64(100+7-2-len(early)-len(accepted))
	})

	// And with orders and payments under way.
	const units = 30
	shoppers := demand(units)
	run, c, fresh, done := s.crowd(front.url, units, shoppers)
	s.at(run, shoppers/4)
	b.Kill()
	must(t, b.Wipe())
	must(t, b.Start(t.Context()))
	s.settled(run, c, fresh, done)
	s.audit(0)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestQueueFull: with the consumers stopped a sale keeps answering until the queue is full, and then
// says 503 with Retry-After. When they return, it drains, and every 202 is decided.
func TestQueueFull(t *testing.T) {
	t.Parallel()
	url := testenv.RabbitMQ(t)
	testenv.RabbitAPI(t, http.MethodPut, "/api/policies/"+vhost(url)+"/small", `{"pattern":"^flashsale\\.inventory$","definition":{"max-length":4},"apply-to":"queues"}`)
	s := newSystem(t, url)
	front := s.process("async", "reservation,order,payment,catalog,account,notification")
	stock := s.process("async", "inventory").asking(front)
	front.asking(stock)
	stock.launch()
	front.start()
	ann, sale := s.sale(front.url, 100, time.Minute)
	stock.end(syscall.SIGTERM)
	accepted, shed := ann.ask8(sale, "full", 96) // a message carries up to eight of them
	if len(accepted) < 4 || shed == 0 {
		t.Fatalf("accepted %d, shed %d", len(accepted), shed)
	}
	stock.start()
	ann.held(accepted)
	s.audit(0)
}
