package main

import (
	"context"
	"errors"
	"flashsale/bench/journey"
	"flashsale/testenv"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const runMain = "FLASHSALE_TEST_RUN_MAIN"

// TestMain lets the test binary be the program, so that a test can kill a whole process.
func TestMain(m *testing.M) {
	if os.Getenv(runMain) != "" {
		main()
		return
	}
	quiet()
	os.Exit(m.Run())
}

// program is the flashsale command in a process of its own.
type program struct {
	t    *testing.T
	args []string
	cmd  *exec.Cmd
	url  string

	stderr io.Writer // instead of the test's output
}

func (p *program) command(args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.CommandContext(p.t.Context(), self, args...)
	cmd.Env = append(os.Environ(), runMain+"=1", "OPERATOR_PASSWORD="+testPassword)
	cmd.Stderr = p.t.Output()
	if p.stderr != nil {
		cmd.Stderr = p.stderr
	}
	return cmd
}

// start starts the program and waits until it is ready.
func (p *program) start() {
	p.t.Helper()
	p.cmd = p.command(p.args...)
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/readyz", nil)
		if err != nil {
			p.t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-ctx.Done():
			p.t.Fatal("the program is never ready")
		case <-tick.C:
		}
	}
}

// end sends a signal and waits for the process to be gone.
func (p *program) end(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
	err := p.cmd.Wait()
	var exit *exec.ExitError
	switch {
	case sig == syscall.SIGKILL && errors.As(err, &exit):
	case err != nil:
		p.t.Errorf("after %s: %v", sig, err)
	}
}

// TestKillNine kills the embedded process in the middle of a sale, several times, and once asks it
// to stop: every acknowledged reservation is there, everything is sold, and the books balance.
func TestKillNine(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Sync, Async} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			const stock, shoppers = 120, 240
			data := filepath.Join(t.TempDir(), "data")
			listen := net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t)))
			p := &program{t: t, url: "http://" + listen, args: []string{
				"serve", "--mode", string(mode), "--data", data, "--listen", listen, "--password-memory=64", "--log-level=error",
				"--payment-latency=5ms", "--payment-patience=300ms", "--probe-after=400ms", "--pending-for=1s", "--payment-lost-reply-rate=0.05",
			}}
			p.start()
			client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
			t.Cleanup(client.CloseIdleConnections)
			c := journey.Crowd{
				Base: p.url, Operator: testOperator, Password: testPassword, Shoppers: shoppers, Stock: stock, Units: 1, Hold: 2 * time.Second,
				AbandonRate: 0.1, Concurrency: 24, Seed: 11, Decide: 90 * time.Second, GiveUpOnHeld: 90 * time.Second,
				Reconnect: 30 * time.Second, Client: client,
			}
			sale, err := journey.OpenSale(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			run := journey.New(c, sale)
			done := make(chan journey.Result, 1)
			go func() { done <- run.Do(t.Context()) }()
			for i, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGKILL, syscall.SIGTERM, syscall.SIGKILL} {
				waitDone(t, run, (i+1)*shoppers/6)
				if sig == syscall.SIGTERM {
					client.CloseIdleConnections()
				}
				p.end(sig)
				p.start()
			}
			res := <-done
			sellOut(t, c, sale, res.SoldUnits)
			who := person{t: t, client: client, base: p.url}
			(&stall{t: t, operator: who}).stockIs(wares{sale: sale.ID}, stock, 0)
			lost, err := run.Verify(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprintf("lost %d undecided %d unexpected %d", lost, res.Undecided, res.Unexpected)
			if got != "lost 0 undecided 0 unexpected 0" {
				t.Errorf("%s\n%v", got, res.Errors)
			}
			item := who.do("GET", "/api/v1/sales/"+sale.ID, nil).body["items"].([]any)[0].(map[string]any)
			if item["sold"] != float64(stock) || item["held"] != 0.0 {
				t.Errorf("stock %v, want all %d sold", item, stock)
			}
			client.CloseIdleConnections()
			p.end(syscall.SIGTERM)
			report, err := p.command("audit", "--mode", string(mode), "--data", data, "--json").Output()
			if err != nil || strings.Count(string(report), `"ok": true`) < 18 {
				t.Errorf("audit: %v\n%s", err, report)
			}
		})
	}
}

// waitDone waits until so many shoppers of the crowd are done.
func waitDone(t *testing.T, run *journey.Run, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for run.Progress().Done < n {
		select {
		case <-ctx.Done():
			t.Fatalf("never %d done: %+v", n, run.Progress())
		case <-tick.C:
		}
	}
}

// TestModeChanges: what was accepted in the asynchronous wiring is decided when the process comes back
// in the synchronous one.
func TestModeChanges(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	listen := net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t)))
	p := &program{t: t, url: "http://" + listen}
	serve := []string{"serve", "--data", data, "--listen", listen, "--password-memory=64", "--max-unpaid=0", "--shopper-rate=0", "--log-level=error", "--mode"}
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	t.Cleanup(client.CloseIdleConnections)
	p.args = append(serve, "async")
	p.start()
	s := &stall{t: t, mode: Async}
	s.operator = person{t: t, client: client, base: p.url}.login(testOperator, testPassword)
	w := s.sell(400, 0, time.Minute)
	s.open(w)
	ann := s.nobody().register("ann")
	accepted := make(chan string, 400)
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for n := range 50 { // until the process is gone
				req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/api/v1/reservations",
					strings.NewReader(fmt.Sprintf(`{"sale_id":%q,"sku":%q,"quantity":1}`, w.sale, w.sku)))
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Authorization", "Bearer "+ann.token)
				req.Header.Set("Idempotency-Key", fmt.Sprintf("%d-%d", worker, n))
				resp, err := client.Do(req)
				if err != nil {
					return
				}
				if resp.StatusCode == http.StatusAccepted {
					accepted <- resp.Header.Get("Location")
				}
				_ = resp.Body.Close()
			}
		})
	}
	for len(accepted) < 40 {
		if t.Context().Err() != nil {
			t.Fatal("nothing is accepted")
		}
	}
	p.end(syscall.SIGKILL)
	all.Wait()
	close(accepted)
	p.args = append(serve, "sync")
	p.start()
	for location := range accepted {
		ann.eventually(location, "state", "held")
	}
	for !strings.Contains(fmt.Sprint(s.operator.do("GET", "/api/v1/admin/audit", nil).body), "clean:true") { // what followed from that, too
		if t.Context().Err() != nil {
			t.Fatal("the books never balance")
		}
	}
	client.CloseIdleConnections()
	p.end(syscall.SIGTERM)
	if report, err := p.command("audit", "--data", data).Output(); err != nil || !strings.Contains(string(report), " 9. queues drained") {
		t.Errorf("audit: %v\n%s", err, report)
	}
}

// TestRestart: sales, stock, holds, orders, carts and tokens outlive the process.
func TestRestart(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Sync, Async} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			cfg := quick(mode)
			cfg.Data = filepath.Join(t.TempDir(), "data")
			client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}
			t.Cleanup(client.CloseIdleConnections)
			first := (&house{}).run(t, cfg)
			s := &stall{t: t, mode: mode}
			s.operator = person{t: t, client: client, base: first.url()}.login(testOperator, testPassword)
			w := s.sell(5, 0, time.Minute)
			s.open(w)
			ann := s.nobody().register("ann")
			cart := ann.do("POST", "/api/v1/carts", nil).header.Get("Location")
			ann.do("POST", cart+"/items", w.reserve(1))
			held := s.held(ann, w, 2, "held")
			bought := s.held(ann, w, 1, "bought")
			paid(t, s, ann, bought, "tok_ok", "captured")
			paths := []string{
				cart, "/api/v1/orders/" + bought.text("id"), "/api/v1/reservations/" + held.text("id"), "/api/v1/orders", "/api/v1/sales/" + w.sale,
			}
			ann.eventually(paths[1], "state", "confirmed")
			s.stockIs(w, 5, 2)
			before := map[string]string{}
			for _, path := range paths {
				before[path] = fmt.Sprint(ann.do("GET", path, nil).body)
			}
			client.CloseIdleConnections()
			stopApp(t, first)

			second := (&house{}).run(t, cfg)
			s.operator.base, ann.base = second.url(), second.url()
			for _, path := range paths {
				if after := fmt.Sprint(ann.do("GET", path, nil).body); after != before[path] {
					t.Errorf("%s before:\n%s\nafter:\n%s", path, before[path], after)
				}
			}
			paid(t, s, ann, held, "tok_ok", "captured")
			ann.eventually("/api/v1/orders/"+held.text("id"), "state", "confirmed")
			s.held(ann, w, 2, "rest")
			if got := ann.do("POST", "/api/v1/reservations", w.reserve(1), "Idempotency-Key", "more"); got.kind() != "held-out" {
				t.Errorf("one more than there are: %d %v", got.status, got.body)
			}
		})
	}
}

// TestShed: beyond the bound on requests the answer is 503 with Retry-After, at once, and health is
// still told. A draining process says that it is not ready, and answers what still comes.
func TestShed(t *testing.T) {
	t.Parallel()
	cfg := quick(Sync)
	cfg.Data = filepath.Join(t.TempDir(), "data")
	cfg.MaxRequests, cfg.DrainNotice = 1, 2*time.Second
	cfg.PaymentLatency, cfg.PaymentPatience, cfg.ProbeAfter = 4*time.Second, 5*time.Second, 6*time.Second
	h := &house{}
	a := h.run(t, cfg)
	k := newContract(t)
	t.Cleanup(k.next.(*http.Transport).CloseIdleConnections)
	s := &stall{t: t, mode: Sync}
	s.operator = person{t: t, client: &http.Client{Transport: k}, base: a.url()}.login(testOperator, testPassword)
	w := s.sell(1, 0, time.Minute)
	s.open(w)
	ann := s.nobody().register("ann")
	r := s.held(ann, w, 1, "k")
	paying := make(chan said)
	go func() {
		for { // the only slot may be taken by who looks for a request that is shed
			got := ann.do("POST", "/api/v1/orders/"+r.text("order_id")+"/payments", map[string]any{"method": "tok_ok"}, "Idempotency-Key", "p")
			if got.status != http.StatusServiceUnavailable {
				paying <- got
				return
			}
		}
	}()
	var shed said
	for shed.status != http.StatusServiceUnavailable {
		select {
		case early := <-paying:
			t.Fatalf("paid before anything was shed: %v", early)
		default:
			shed = ann.do("GET", "/api/v1/products", nil)
		}
	}
	if shed.kind() != "overloaded" || shed.header.Get("Retry-After") == "" {
		t.Errorf("shed with %v", shed)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		s.nobody().want(http.StatusOK, "", "GET", path, nil)
	}
	if done := <-paying; done.status != http.StatusCreated {
		t.Errorf("the payment under way: %d %v", done.status, done.body)
	}
	stopped := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), cfg.DrainFor)
		defer cancel()
		stopped <- a.stop(ctx)
	}()
	for s.nobody().do("GET", "/readyz", nil).kind() != "draining" {
		if t.Context().Err() != nil {
			t.Fatal("never draining")
		}
	}
	s.nobody().want(http.StatusOK, "", "GET", "/healthz", nil)
	s.nobody().want(http.StatusOK, "", "GET", "/api/v1/products", nil)
	k.next.(*http.Transport).CloseIdleConnections()
	if err := <-stopped; err != nil {
		t.Errorf("stop: %v", err)
	}
}
