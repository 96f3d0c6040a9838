//go:build telemetry

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flashsale/nginx"
	"flashsale/testenv"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// street is a system of one real process per role, and what they log.
type street struct {
	base  string
	mu    sync.Mutex
	lines map[string][]map[string]any // by role
}

func (s *street) log(role string, r io.Reader) {
	for scan := bufio.NewScanner(r); scan.Scan(); {
		var line map[string]any
		if json.Unmarshal(scan.Bytes(), &line) == nil {
			s.mu.Lock()
			s.lines[role] = append(s.lines[role], line)
			s.mu.Unlock()
		}
	}
}

// find returns the first line of a role with this message and these values.
func (s *street) find(role, msg string, with map[string]any) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range s.lines[role] {
		ok := line["msg"] == msg
		for k, v := range with {
			ok = ok && line[k] == v
		}
		if ok {
			return line
		}
	}
	return nil
}

// openStreet starts a process per role, with extra flags.
func openStreet(t *testing.T, mode Mode, extra ...string) *street {
	t.Helper()
	cfg := serverConfig(t, mode)
	list := func(m map[string]string) string { return (&mapValue{&m}).String() }
	st := &street{lines: map[string][]map[string]any{}}
	roles := slices.DeleteFunc(allRoles(), func(r string) bool { return r == "console" })
	listen, internal := map[string]string{}, map[string]string{}
	for _, role := range roles {
		listen[role] = net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t)))
		internal[role] = net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t)))
	}
	public := map[string][]string{"console": {"127.0.0.1:9"}} // does not run here
	var starting sync.WaitGroup
	for _, role := range roles {
		peers := map[string]string{}
		for other, addr := range internal {
			if other != role {
				peers[other] = "http://" + addr
			}
		}
		p := &program{t: t, url: "http://" + listen[role], args: append([]string{
			"serve", "--mode", string(mode), "--roles", role, "--listen", listen[role], "--internal-listen", internal[role], "--peers", list(peers),
			"--database-urls", list(cfg.DatabaseURLs), "--redis-urls", strings.Join(cfg.RedisURLs, ","), "--amqp-url", cfg.AMQPURL,
			"--internal-token", cfg.InternalToken, "--token-secrets", strings.Join(cfg.TokenSecrets, ","), "--database-conns=4",
			"--log-format=json", "--log-level=debug", "--drain-notice=0s", "--payment-latency=2ms", "--payment-patience=400ms", "--probe-after=600ms",
		}, extra...)}
		public[role] = []string{listen[role]}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p.stderr = w
		go st.log(role, r)
		starting.Go(p.start)
		t.Cleanup(func() { // the test's context has ended it
			_ = p.cmd.Wait()
			_ = w.Close()
		})
	}
	starting.Wait()
	st.base = "http://" + testenv.Nginx(t, string(mode), nginx.Site{Instances: public})
	return st
}

// edges lists a trace as "service span > service span", each once, sorted.
func edges(spans []testenv.JaegerSpan) []string {
	by := map[string]testenv.JaegerSpan{}
	for _, s := range spans {
		by[s.ID] = s
	}
	var out []string
	for _, s := range spans {
		cause := "caller"
		if p, ok := by[s.Parent]; ok {
			cause = p.Service + " " + p.Name
		} else if s.Parent == "" {
			cause = "nothing"
		}
		out = append(out, cause+" > "+s.Service+" "+s.Name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// purchase is the trace of one order, from the shopper's two requests to the message that confirms it.
func purchase() []string {
	return []string{
		"caller > reservation POST /api/v1/reservations",
		"reservation POST /api/v1/reservations > reservation Gate.Take",
		"reservation POST /api/v1/reservations > reservation send reservation.requested",
		"reservation send reservation.requested > inventory handle reservation.requested",
		"inventory handle reservation.requested > inventory Ledger.Commit",
		"inventory handle reservation.requested > inventory send reservation.held",
		"inventory send reservation.held > order handle reservation.held",
		"order handle reservation.held > order Orders.Apply",

		"caller > payment POST /api/v1/orders/:id/payments",
		"payment POST /api/v1/orders/:id/payments > payment ask order.order",
		"payment ask order.order > order answer order.order",
		"payment POST /api/v1/orders/:id/payments > payment Payments.Begin",
		"payment POST /api/v1/orders/:id/payments > payment send payment.requested",
		"payment send payment.requested > inventory handle payment.requested",
		"inventory handle payment.requested > inventory Ledger.Move",
		"inventory handle payment.requested > inventory send reservation.paying",
		"inventory send reservation.paying > payment handle reservation.paying",
		"payment handle reservation.paying > payment Payments.Advance",
		"payment handle reservation.paying > payment Provider.Charge",
		"payment handle reservation.paying > payment send payment.captured",
		"payment send payment.captured > inventory handle payment.captured",
		"inventory handle payment.captured > inventory Ledger.Move",
		"inventory handle payment.captured > inventory send reservation.paid",
		"inventory send reservation.paid > order handle reservation.paid",
		"order handle reservation.paid > order Orders.Apply",
		"order handle reservation.paid > order send order.confirmed",
		"order send order.confirmed > notification handle order.confirmed",
		"notification handle order.confirmed > notification ask account.contacts",
		"notification ask account.contacts > account answer account.contacts",
		"notification handle order.confirmed > notification Notifications.Add",
	}
}

// reads are in the trace when nobody had asked a moment before.
func reads() []string {
	return []string{
		"reservation POST /api/v1/reservations > reservation ask inventory.sale",
		"reservation ask inventory.sale > inventory answer inventory.sale",
		"order answer order.order > order ask inventory.reservation", // the order's event has not come yet
		"order ask inventory.reservation > inventory answer inventory.reservation",
	}
}

// TestJaegerShowsOneOrder: every role a process of its own, both wirings, a real Jaeger: the whole trace
// of one order, each part below its cause; transactions of many linked with their members; the trace of
// a request found by nginx's id; the log lines of the request with the same ids; and of what was not
// chosen, the part that failed.
func TestJaegerShowsOneOrder(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Sync, Async} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			j := testenv.Jaeger(t)
			st := openStreet(t, mode, "--otlp-endpoint", j.OTLP, "--trace-ratio=1")
			client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}
			t.Cleanup(client.CloseIdleConnections)
			s := &stall{t: t, mode: mode}
			s.operator = person{t: t, client: client, base: st.base}.login(testOperator, testPassword)
			w := s.sell(20, 0, time.Minute)
			s.open(w)
			ann := s.nobody().register("ann")

			const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
			const parent = "00-" + trace + "-00f067aa0ba902b7-00"
			got := ann.do("POST", "/api/v1/reservations", w.reserve(1), "Idempotency-Key", "k", "Traceparent", parent, "X-Request-Id", "reserve-1")
			if want := map[Mode]int{Sync: 201, Async: 202}[mode]; got.status != want {
				t.Fatalf("reserve: %d %v, want %d", got.status, got.body, want)
			}
			order := got.text("order_id")
			ann.eventually(got.header.Get("Location"), "state", "held")
			paid := ann.do("POST", "/api/v1/orders/"+order+"/payments", map[string]any{"method": "tok_ok"}, "Idempotency-Key", "p", "Traceparent", parent, "X-Request-Id", "pay-1")
			ann.eventually(paid.header.Get("Location"), "state", "captured")
			ann.eventually("/api/v1/orders/"+order, "state", "confirmed")

			var spans []testenv.JaegerSpan
			want := purchase()
			eventually(t, func() string {
				spans = j.Trace(trace)
				seen := edges(spans)
				missing := slices.DeleteFunc(slices.Clone(want), func(e string) bool { return slices.Contains(seen, e) })
				if len(missing) == 0 {
					return ""
				}
				return fmt.Sprintf("the trace lacks\n%s\nit has\n%s", strings.Join(missing, "\n"), strings.Join(seen, "\n"))
			})
			for _, e := range edges(spans) {
				if !slices.Contains(append(want, reads()...), e) {
					t.Errorf("the trace has %s", e)
				}
			}
			kinds := map[Mode]string{Sync: "server", Async: "consumer"}
			for _, v := range spans {
				switch {
				case v.Name == "handle reservation.requested" && (v.Tags["span.kind"] != kinds[mode] || v.Tags["flashsale.subject"] != order):
					t.Errorf("%s: %v", v.Name, v.Tags)
				case v.Name == "Provider.Charge" && v.Tags["peer.service"] != "provider":
					t.Errorf("%s: %v", v.Name, v.Tags)
				case v.Name == "POST /api/v1/reservations" && (v.Tags["request.id"] != "reserve-1" || fmt.Sprint(v.Tags["http.response.status_code"]) != fmt.Sprint(got.status)):
					t.Errorf("%s: %v", v.Name, v.Tags)
				case v.Name == "Ledger.Commit" || v.Name == "Ledger.Move" || v.Name == "Orders.Apply":
					linkedGroup(t, j, v)
				}
			}
			for role, with := range map[string]map[string]any{
				"reservation": {"request": "reserve-1", "route": "/api/v1/reservations", "trace": trace},
				"payment":     {"request": "pay-1", "route": "/api/v1/orders/:id/payments", "trace": trace},
			} {
				if st.find(role, "request", with) == nil {
					t.Errorf("%s has logged no request with %v", role, with)
				}
			}

			// nginx's own request id is the trace's, and an order's spans are found by its id.
			got = ann.do("POST", "/api/v1/reservations", w.reserve(1), "Idempotency-Key", "k2")
			request := got.header.Get("X-Request-Id")
			if len(request) != 32 {
				t.Errorf("nginx answers with the request id %q", request)
			}
			eventually(t, func() string {
				seen := edges(j.Trace(request))
				if slices.Contains(seen, "nothing > reservation POST /api/v1/reservations") && slices.Contains(seen, "order handle reservation.held > order Orders.Apply") {
					return ""
				}
				return fmt.Sprintf("the trace of the request id has %v", seen)
			})
			eventually(t, func() string {
				found := j.Search("inventory", map[string]string{"flashsale.subject": got.text("order_id")})
				if len(found) > 0 && found[0].Trace == request {
					return ""
				}
				return fmt.Sprintf("by the order's id %d spans are found", len(found))
			})
		})
	}
}

// linkedGroup: the span of a member is linked to its group, a trace of its own that is linked back.
func linkedGroup(t *testing.T, j *testenv.JaegerServer, member testenv.JaegerSpan) {
	t.Helper()
	if len(member.Links) != 1 {
		t.Errorf("%s %s has the links %v, want its group", member.Service, member.Name, member.Links)
		return
	}
	trace, id, _ := strings.Cut(member.Links[0], "/")
	eventually(t, func() string {
		for _, g := range j.Trace(trace) {
			if g.ID == id && g.Name == member.Name+" group" && g.Parent == "" && trace != member.Trace && slices.Contains(g.Links, member.Trace+"/"+member.Parent) {
				return ""
			}
		}
		return fmt.Sprintf("%s %s: its group is %+v", member.Service, member.Name, j.Trace(trace))
	})
}

// TestJaegerKeepsWhatFailed: with a share of zero, nothing of an order that goes well, and of a payment
// that the provider does not answer, the part of each process that failed or was slow.
func TestJaegerKeepsWhatFailed(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Sync, Async} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			j := testenv.Jaeger(t)
			st := openStreet(t, mode, "--otlp-endpoint", j.OTLP, "--trace-ratio=0", "--trace-slow=10m")
			client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}
			t.Cleanup(client.CloseIdleConnections)
			s := &stall{t: t, mode: mode}
			s.operator = person{t: t, client: client, base: st.base}.login(testOperator, testPassword)
			w := s.sell(20, 0, time.Minute)
			s.open(w)
			ann := s.nobody().register("ann")
			traces := map[string]string{"tok_ok": "0af7651916cd43dd8448eb211c80319c", "tok_timeout": "1af7651916cd43dd8448eb211c80319c"}
			for _, method := range []string{"tok_ok", "tok_timeout"} {
				parent := "00-" + traces[method] + "-00f067aa0ba902b7-01" // the caller's wish is not ours
				got := ann.do("POST", "/api/v1/reservations", w.reserve(1), "Idempotency-Key", method, "Traceparent", parent)
				ann.eventually("/api/v1/orders/"+got.text("order_id"), "state", "open")
				ann.do("POST", "/api/v1/orders/"+got.text("order_id")+"/payments", map[string]any{"method": method}, "Idempotency-Key", method, "Traceparent", parent)
			}
			eventually(t, func() string {
				for _, v := range j.Trace(traces["tok_timeout"]) {
					if v.Name == "Provider.Charge" && v.Tags["error"] == true {
						return ""
					}
				}
				return fmt.Sprintf("the failed charge is not there: %v", edges(j.Trace(traces["tok_timeout"])))
			})
			var tail bool
			for _, v := range j.Trace(traces["tok_timeout"]) {
				if v.Service != "payment" {
					t.Errorf("%s %s is kept, and nothing failed there", v.Service, v.Name)
				}
				tail = tail || v.Tags["flashsale.tail"] == true
			}
			if !tail {
				t.Error("what is kept does not say that it is a part")
			}
			if spans := j.Trace(traces["tok_ok"]); len(spans) > 0 {
				t.Errorf("of an order that went well %v is kept", edges(spans))
			}
		})
	}
}

// eventually asks until there is nothing wrong any more.
func eventually(t *testing.T, wrong func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		why := wrong()
		if why == "" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(why)
		case <-tick.C:
		}
	}
}
