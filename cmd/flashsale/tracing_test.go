package main

import (
	"bufio"
	"encoding/json"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/testenv"
	"flashsale/transport"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// pad is a log that is read at the end.
type pad struct{ testenv.Text }

// lines returns what was logged with a message.
func (p *pad) lines(t *testing.T, msg string) (found []map[string]any) {
	t.Helper()
	for scan := bufio.NewScanner(strings.NewReader(p.String())); scan.Scan(); {
		var line map[string]any
		if err := json.Unmarshal(scan.Bytes(), &line); err != nil {
			t.Fatalf("%v: %s", err, scan.Bytes())
		}
		if line["msg"] == msg {
			found = append(found, line)
		}
	}
	return found
}

// TestLogLinesNameTheRequest: with and without tracing, what is logged of a request has its id and its
// trace's, and what is logged of a step its trace's; nginx's request id is the trace's, and one of ours
// is, without its hyphens.
func TestLogLinesNameTheRequest(t *testing.T) {
	t.Parallel()
	const nginx, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c"
	for name, endpoint := range map[string]string{"without tracing": "", "with tracing": "http://127.0.0.1:1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := quick(Sync)
			cfg.Data = filepath.Join(t.TempDir(), "data")
			cfg.LogLevel, cfg.LogFormat, cfg.OTLPEndpoint = "debug", "json", endpoint
			out := &pad{}
			a, err := start(t.Context(), cfg, logger(cfg, out))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { stopApp(t, a) })
			client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}}
			t.Cleanup(client.CloseIdleConnections)
			p := person{t: t, client: client, base: a.url()}
			p.do("GET", "/api/v1/products", nil, "X-Request-Id", nginx)
			p.do("GET", "/api/v1/products", nil, "X-Request-Id", "mine", "Traceparent", "00-"+caller+"-b7ad6b7169203331-01")
			made := p.do("GET", "/api/v1/products", nil).header.Get("X-Request-Id")
			want := map[string]string{nginx: nginx, "mine": caller, made: string(slices.DeleteFunc([]byte(made), func(b byte) bool { return b == '-' }))}
			for _, line := range out.lines(t, "request") {
				request, _ := line["request"].(string)
				if want[request] == "" || line["trace"] != want[request] {
					t.Errorf("the line %v, want one of %v", line, want)
				}
				delete(want, request)
			}
			if len(want) > 0 {
				t.Errorf("no line of the requests %v", want)
			}
			// A step that fails: an order cannot be made of this.
			e := transport.New(inventory.EventHeld, transport.Inventory, id.New(time.Now()), time.Now(), "00-"+caller+"-b7ad6b7169203331-00", []int{})
			if _, err := a.wires.events.Send(t.Context(), transport.Order, e); err == nil {
				t.Error("a malformed event is handled")
			}
			if got := out.lines(t, "step failed"); len(got) != 1 || got[0]["trace"] != caller {
				t.Errorf("the failed step is logged as %v", got)
			}
		})
	}
}

// TestEveryRouteHasAService: the spans of a request are those of the service that answers it.
func TestEveryRouteHasAService(t *testing.T) {
	t.Parallel()
	all, one := defaults(), defaults()
	one.Roles = []string{"order"}
	for path, want := range map[string]transport.Service{
		"/api/v1/auth/login": transport.Account, "/api/v1/products/search": transport.Catalog, "/api/v1/sales/1": transport.Catalog,
		"/api/v1/admin/sales/1/open": transport.Catalog, "/api/v1/carts/1/items": transport.Order, "/api/v1/orders": transport.Order, "/api/v1/orders/1": transport.Order,
		"/api/v1/orders/1/payments": transport.Payment, "/api/v1/admin/orders/1/refund": transport.Payment, "/api/v1/payments/1": transport.Payment,
		"/api/v1/reservations": transport.Reservation, "/api/v1/admin/dlq": transport.Reservation, "/api/v1/nothing": transport.Reservation,
	} {
		if got := all.serviceOf(path); got != want {
			t.Errorf("%s is of %s, want %s", path, got, want)
		}
		if got := one.serviceOf(path); got != transport.Order {
			t.Errorf("in a process of one role %s is of %s", path, got)
		}
	}
}
