package main

import (
	"bytes"
	"encoding/json"
	"flashsale/bench/journey"
	"math"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	t.Parallel()
	inf := math.Inf(1)
	for name, c := range map[string]struct {
		q           float64
		before, now map[float64]float64
		want        float64
		none        bool
	}{
		"no histogram":           {q: 0.5, none: true},
		"nothing since":          {q: 0.5, before: map[float64]float64{1: 5, inf: 5}, now: map[float64]float64{1: 5, inf: 5}, none: true},
		"half of the bucket":     {q: 0.5, now: map[float64]float64{1: 0, 3: 10, inf: 10}, want: 2},
		"only what came since":   {q: 0.5, before: map[float64]float64{1: 100, 2: 100, inf: 100}, now: map[float64]float64{1: 100, 2: 110, inf: 110}, want: 1.5},
		"beyond the last bucket": {q: 0.99, now: map[float64]float64{1: 1, 2: 1, inf: 100}, want: 2},
		"the first bucket":       {q: 0.25, now: map[float64]float64{4: 8, inf: 8}, want: 1},
	} {
		if got, ok := quantile(c.q, c.before, c.now); ok == c.none || got != c.want {
			t.Errorf("%s: %v %v, want %v", name, got, ok, c.want)
		}
	}
}

// TestFit: a terminal shows the first lines, each in one row, and says what is missing.
func TestFit(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text       string
		wide, high int
		want       string
	}{
		"it fits":           {"ab\ncd\n", 2, 2, "ab\ncd\n"},
		"too wide":          {"abc\n██▒▒··\n", 4, 2, "abc\n██▒…\n"},
		"too high":          {"a\nb\nc\nd\n", 80, 3, "a\nb\n… 2 more lines in a higher terminal, or with --once\n"},
		"a size of nothing": {"ab\ncd\n", 0, 0, "ab\ncd\n"},
	} {
		if got := fit(c.text, c.wide, c.high); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	// What is wrong, and the stock, are seen on the smallest of terminals, whatever else there is.
	g := glance{
		Oversold: 2, Shards: []shardGlance{{Shard: "3"}}, Queues: []queueGlance{{Service: "order", Dead: 4}}, Breakers: []string{"payment"}, Blind: []string{"stock"},
		Items: []itemGlance{{SKU: "BOOT", Left: 5}}, Latency: map[string]latency{},
	}
	for i := range 30 {
		g.Queues = append(g.Queues, queueGlance{Service: strings.Repeat("x", i)})
	}
	text := fit(g.String(), 40, 24)
	for _, want := range []string{"OVERSOLD: 2", "AWAY: shard 3", "DEAD LETTERS: 4 of order", "BREAKER OPEN: calls to payment", "BLIND: cannot look at stock", "BOOT", "more lines"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not shown:\n%s", want, text)
		}
	}
	if n := strings.Count(text, "\n"); n != 24 {
		t.Errorf("%d lines of 24", n)
	}
}

// process is the text that a process serves, one after the other.
func processOf(t *testing.T, texts ...string) (at string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("# TYPE flashsale_info gauge\nflashsale_info{service=\"all\",wiring=\"async\"} 1\n" + texts[0]))
		if len(texts) > 1 {
			texts = texts[1:]
		}
	}))
	t.Cleanup(s.Close)
	return s.URL + "/metrics"
}

// TestTopOfTwo: counters of two processes are added up, gauges of both are the same thing, and a process that does not answer
// is named.
func TestTopOfTwo(t *testing.T) {
	t.Parallel()
	counters := func(n string) string {
		return `# TYPE flashsale_reservations_total counter
flashsale_reservations_total{outcome="held"} ` + n + `0
flashsale_reservations_total{outcome="sold_out"} ` + n + `
# TYPE flashsale_http_requests_total counter
flashsale_http_requests_total{code="201"} ` + n + `0
flashsale_http_requests_total{code="503"} ` + n + "\n"
	}
	const gauges = `# TYPE flashsale_stock_units gauge
flashsale_stock_units{sale="s",sku="BOOT",state="left"} 5
flashsale_stock_units{sale="s",sku="BOOT",state="held"} 5
flashsale_stock_units{sale="s",sku="BOOT",state="sold"} 10
# TYPE flashsale_gate_shard_up gauge
flashsale_gate_shard_up{shard="0"} 1
flashsale_gate_shard_up{shard="1"} 0
# TYPE flashsale_outbox_events gauge
flashsale_outbox_events{service="order"} 3
# TYPE flashsale_outbox_oldest_seconds gauge
flashsale_outbox_oldest_seconds{service="order"} 1.5
# TYPE flashsale_peer_breaker_open gauge
flashsale_peer_breaker_open{to="payment"} 1
# TYPE flashsale_look_up gauge
flashsale_look_up{look="queues"} 0
# TYPE flashsale_oversold_units gauge
flashsale_oversold_units 2
# TYPE flashsale_gate_recoveries_total counter
flashsale_gate_recoveries_total{reason="empty"} 4
flashsale_gate_recoveries_total{reason="new"} 4
# TYPE flashsale_revenue_minor_units_total counter
flashsale_revenue_minor_units_total{currency="EUR"} 9900
`
	client := &http.Client{}
	from := []string{processOf(t, counters("1")+gauges, counters("3")+gauges), processOf(t, counters("2"), counters("4")), "http://127.0.0.1:1/metrics"}
	before := look(t.Context(), client, from)
	now := look(t.Context(), client, from)
	now.at = before.at.Add(2 * time.Second)
	g := compareReadings(before, now)
	if g.Answers["held"] != 20 || g.Answers["sold_out"] != 2 || g.Requests != 22 || g.Errors != 2 {
		t.Errorf("rates %v, requests %v, errors %v", g.Answers, g.Requests, g.Errors)
	}
	text := g.String()
	for _, want := range []string{
		"DOES NOT ANSWER", "async all", "BREAKER OPEN: calls to payment fail", "BLIND: cannot look at queues", "OVERSOLD: 2 units",
		"BOOT                          5        5       10  ███████████████▒▒▒▒▒▒▒▒·······\n", "held 20.0/s, sold_out 2.0/s",
		"order                 0        0        0        3     1.5s", "1                  AWAY", "buckets recovered: empty 4\n", "EUR 99.00",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not shown:\n%s", want, text)
		}
	}
}

// TestTop watches a real sale: what is shown is what the shoppers bought.
func TestTop(t *testing.T) {
	t.Parallel()
	cfg := quick(Async)
	cfg.Data, cfg.AdminListen = filepath.Join(t.TempDir(), "data"), "127.0.0.1:0"
	h := &house{}
	a := h.run(t, cfg)
	h.base = a.url()
	c := crowd(h, 5, 10)
	t.Cleanup(c.Client.CloseIdleConnections)
	sale, err := journey.OpenSale(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	sellOut(t, c, sale, journey.New(c, sale).Do(t.Context()).SoldUnits)
	admin := "http://" + a.admin.Addr().String()
	run := func(args ...string) (string, error) {
		cmd := root()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetArgs(append([]string{"top"}, args...))
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	var g glance
	for deadline := time.Now().Add(20 * time.Second); ; {
		text, err := run("--from", admin, "--once", "--json", "--every", "100ms")
		if err != nil {
			t.Fatal(err)
		}
		g = glance{}
		if err := json.Unmarshal([]byte(text), &g); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if len(g.Items) == 1 && g.Items[0].Sold == 5 && g.Items[0].SKU == sale.SKU || time.Now().After(deadline) {
			break
		}
	}
	if len(g.Items) != 1 || g.Items[0] != (itemGlance{sale.ID, sale.SKU, 0, 0, 5}) || g.Orders["confirmed"] != 5 || g.Revenue["EUR"] != 5*9900 ||
		len(g.Shards) != cfg.Shards || !g.Shards[0].Up || len(g.Queues) < 4 || g.Oversold != 0 || len(g.Blind) != 0 || g.Processes[0].Wiring != "async" {
		t.Errorf("%+v", g)
	}
	if text, err := run("--from", admin, "--once", "--every", "100ms"); err != nil || !strings.Contains(text, strings.Repeat("█", barWidth)) {
		t.Errorf("%v\n%s", err, text)
	}
	for name, args := range map[string][]string{
		"set http://host:port":     {"--from", "127.0.0.1:8081"},
		"set 100ms or more":        {"--every", "1ms"},
		"start them with --admin-": {"--once", "--from", "http://127.0.0.1:1"},
		"not of a flashsale": {"--once", "--from", func() string {
			s := httptest.NewServer(http.NotFoundHandler())
			s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("up 1\n")) })
			t.Cleanup(s.Close)
			return s.URL
		}()},
	} {
		if _, err := run(args...); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v: %v, want %q", args, err, name)
		}
	}
	// The public listener has no metrics, and the operators' one does not tell how the process was started.
	for address, want := range map[string]int{a.url() + "/metrics": 404, admin + "/metrics": 200, admin + "/debug/pprof/goroutine?debug=1": 200, admin + "/debug/pprof/cmdline": 404} {
		resp, err := c.Client.Get(address)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s answers %d, want %d", address, resp.StatusCode, want)
		}
	}
}
