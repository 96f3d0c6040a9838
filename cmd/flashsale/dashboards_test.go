//go:build telemetry

package main

import (
	"encoding/json"
	"flashsale/bench/journey"
	"flashsale/testenv"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// panel is one panel of a Grafana dashboard, as far as it is about data.
type panel struct {
	Title      string
	Type       string
	Datasource source
	Panels     []panel // of a row
	Targets    []struct {
		Expr, Query string
		Datasource  source
	}
	FieldConfig struct{ Defaults struct{ Unit string } }
}

type source struct{ Type string }

type dashboard struct {
	Title  string
	Panels []panel
}

// dashboards returns every dashboard below a folder, by file.
func dashboards(t *testing.T, dir string) map[string]dashboard {
	t.Helper()
	all := map[string]dashboard{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".json" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var v dashboard
		if err := json.Unmarshal(b, &v); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		all[path] = v
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// filled are the databases of a system that has been through a sale.
type filled struct {
	prometheus testenv.PrometheusServer
	influx     testenv.InfluxDB
	began      time.Time
	names      []string // of all metrics
}

// check returns what is wrong with a panel: no data, a metric that is not there, a unit that is not the data's.
func (f filled) check(p panel) (wrong []string) {
	for _, inner := range p.Panels {
		wrong = append(wrong, f.check(inner)...)
	}
	if p.Type == "row" || p.Type == "text" {
		return wrong
	}
	if len(p.Targets) == 0 {
		wrong = append(wrong, "no query")
	}
	for _, target := range p.Targets {
		kind := target.Datasource.Type
		if kind == "" {
			kind = p.Datasource.Type
		}
		queries, units := []string{}, []string{}
		switch kind {
		case "prometheus":
			queries, units = f.variables(target.Expr), promUnits(target.Expr)
		case "influxdb":
			queries, units = f.variables(target.Query), fluxUnits(target.Query)
		default:
			wrong = append(wrong, fmt.Sprintf("no such data source: %q", kind))
		}
		if len(units) > 0 && !slices.Contains(units, p.FieldConfig.Defaults.Unit) {
			wrong = append(wrong, fmt.Sprintf("the unit is %q, the data has %v", p.FieldConfig.Defaults.Unit, units))
		}
		for _, q := range queries {
			if kind == "influxdb" {
				wrong = append(wrong, f.checkFlux(q)...)
			} else {
				wrong = append(wrong, f.checkProm(q)...)
			}
		}
	}
	return wrong
}

// variables fills Grafana's variables in, once for every wiring when there is one for it.
func (f filled) variables(query string) []string {
	for name, value := range map[string]string{
		"$__rate_interval": "1m", "${__rate_interval}": "1m", "$__interval": "1s", "${__interval}": "1s", "$__range": "10m", "${__range}": "10m",
		"v.timeRangeStart": "-1h", "v.timeRangeStop": "now()", "v.windowPeriod": "1s", "v.defaultBucket": strconv.Quote(f.influx.Bucket),
	} {
		query = strings.ReplaceAll(query, name, value)
	}
	var all []string
	for _, wiring := range []string{"sync", "async"} {
		q := query
		for _, name := range []string{"${wiring}", "${wiring:regex}", "$wiring"} {
			q = strings.ReplaceAll(q, name, wiring)
		}
		// Any other variable stands for all of its values.
		q = regexp.MustCompile(`\$\{?\w+(:\w+)?\}?`).ReplaceAllString(q, ".*")
		if !slices.Contains(all, q) {
			all = append(all, q)
		}
	}
	return all
}

func (f filled) checkProm(expr string) (wrong []string) {
	for _, name := range promNames(expr) {
		if !slices.Contains(f.names, name) {
			wrong = append(wrong, "unknown metric "+name)
		}
	}
	series, err := f.prometheus.QueryRange(expr, f.began)
	if err != nil {
		return append(wrong, fmt.Sprintf("%s: %v", expr, err))
	}
	for _, s := range series {
		if len(s.Values) > 0 {
			return wrong
		}
	}
	return append(wrong, "no data: "+expr)
}

func (f filled) checkFlux(query string) []string {
	rows, err := f.influx.Flux(query)
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", query, err)}
	}
	for _, r := range rows {
		if _, err := strconv.ParseFloat(r["_value"], 64); err == nil {
			return nil
		}
	}
	return []string{"no data: " + query}
}

// promNames returns the metrics that an expression is about.
func promNames(expr string) []string {
	plain := regexp.MustCompile(`"[^"]*"|\{[^}]*\}|\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)|\[[^\]]*\]`).ReplaceAllString(expr, " ")
	var names []string
	for _, n := range regexp.MustCompile(`[a-z_][a-zA-Z0-9_:]*(\s*\()?`).FindAllString(plain, -1) {
		if !strings.HasSuffix(n, "(") && (strings.ContainsAny(n, "_:") || n == "up") && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// The units of Grafana that a kind of data may be shown with.
var (
	unitsSeconds = []string{"s"}
	unitsBytes   = []string{"bytes", "decbytes"}
	unitsShare   = []string{"percentunit"}
	unitsCount   = []string{"short", "none", "locale", "suffix: units", "suffix: cores"}
	unitsRate    = []string{"reqps", "ops", "cps", "rps", "wps", "eps", "/s", "suffix:/s", "suffix: /s"}
	unitsWhen    = []string{"dateTimeAsIso", "dateTimeFromNow", "dateTimeAsLocal"}
)

// promUnits returns the units that an expression may be shown with, or none when nothing can be said of it.
func promUnits(expr string) []string {
	names := promNames(expr)
	if len(names) == 0 {
		return nil
	}
	n := names[0]
	base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(n, "")
	has := func(s string) bool { return strings.Contains(expr, s) }
	switch {
	case strings.Contains(n, ":ratio_") || strings.Contains(n, "_ratio_"):
		return unitsShare
	case has("histogram_quantile"), strings.HasSuffix(n, "_sum") && has("/") && has("_count"):
		return unitsOf(base)
	case strings.Contains(n, ":p99"):
		return unitsOf(strings.Split(n, ":")[1])
	case has("/") && regexp.MustCompile(`\)\s*/\s*`).MatchString(expr) && !has("* 3600"):
		if strings.HasSuffix(n, "minor_units_total") && regexp.MustCompile(`/\s*100\b`).MatchString(expr) {
			return nil // of money, in major units: the currency is a matter of taste
		}
		return unitsShare
	case has("process_cpu_seconds_total"):
		return unitsCount // cores
	case strings.Contains(n, "minor_units"):
		return nil
	case (has("rate(") || has("irate(")) && (strings.HasSuffix(n, "_total") || strings.HasSuffix(n, "_count")):
		return unitsRate
	case strings.HasSuffix(n, "_total"), strings.HasSuffix(n, "_count"), strings.HasSuffix(n, "_bucket"):
		return unitsCount
	case n == "flashsale_audit_last_seconds":
		return append(unitsWhen, unitsSeconds...)
	}
	return unitsOf(n)
}

func unitsOf(name string) []string {
	switch {
	case strings.HasSuffix(name, "_seconds"):
		return unitsSeconds
	case strings.HasSuffix(name, "_bytes"):
		return unitsBytes
	case strings.Contains(name, "minor_units"):
		return nil
	}
	return unitsCount
}

// fluxUnits returns the units that a query of the collector's fields may be shown with.
func fluxUnits(query string) []string {
	m := regexp.MustCompile(`r\._field == "(\w+)"`).FindStringSubmatch(query)
	switch {
	case m == nil:
		return nil
	case strings.HasSuffix(m[1], "_percent"):
		return []string{"percent"}
	case strings.HasSuffix(m[1], "_bytes"):
		return unitsBytes
	case strings.HasSuffix(m[1], "_seconds"):
		return unitsSeconds
	}
	return unitsCount
}

// TestDashboards runs a sale in each wiring, in two processes that call each other, with a real Prometheus and a real InfluxDB watching, and then the
// query of every panel of every dashboard against them. What the metrics say of the sale is what the shoppers saw.
func TestDashboards(t *testing.T) {
	t.Parallel()
	f := filled{influx: testenv.Influx(t), began: time.Now()}
	const stock, shoppers = 20, 60
	houses, targets := map[Mode]*house{}, []string{}
	for _, mode := range []Mode{Sync, Async} {
		groups := [][]string{{"reservation", "order", "catalog", "account"}, {"inventory", "payment", "notification"}}
		houses[mode] = groupedHouse(t, mode, groups, func(cfg *Config) {
			cfg.AdminListen = net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t)))
			cfg.LookEvery, cfg.CollectEvery = 300*time.Millisecond, 300*time.Millisecond
			cfg.InfluxURL, cfg.InfluxBucket = f.influx.URL, f.influx.Bucket
			if cfg.has("inventory") {
				cfg.AuditEvery = time.Second
			}
			targets = append(targets, cfg.AdminListen)
		})
	}
	f.prometheus = testenv.Prometheus(t, targets, "../../deploy/prometheus/rules.yml")
	// The first scrape comes before the first shopper: a counter that is first seen late has not increased.
	f.until(t, "every process is scraped", fmt.Sprintf(`sum(up) == %d`, len(targets)))
	for _, mode := range []Mode{Sync, Async} {
		c := crowd(houses[mode], stock, shoppers)
		t.Cleanup(c.Client.CloseIdleConnections)
		sale, err := journey.OpenSale(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		f.until(t, "the sale is seen before the first shopper", fmt.Sprintf(`max(flashsale_stock_units{wiring=%q,state="left"}) == %d`, mode, stock))
		// Some come before the others: most series begin with what they count first, and only what comes later is an increase.
		first, w := c, fmt.Sprintf("{wiring=%q}", mode)
		first.Shoppers, first.AbandonRate, first.Seed = 6, 0, 50
		early := journey.New(first, sale).Do(t.Context())
		f.until(t, "the first are counted in every process", strings.ReplaceAll(
			`sum(flashsale_order_value_minor_units_count$) > 0 and on() sum(flashsale_payments_total$) > 0 and on() sum(flashsale_decision_seconds_count$) > 0`, "$", w))
		// Who buys is a race, and all of them might pay: these do not.
		left := first
		left.Shoppers, left.AbandonRate, left.Seed = 3, 1, 60
		if gone := journey.New(left, sale).Do(t.Context()).Abandoned; gone != left.Shoppers {
			t.Fatalf("%s: %d of %d left without paying", mode, gone, left.Shoppers)
		}
		c.Shoppers -= first.Shoppers + left.Shoppers
		sellOut(t, c, sale, early.SoldUnits+journey.New(c, sale).Do(t.Context()).SoldUnits)
	}
	for _, mode := range []Mode{Sync, Async} {
		w := fmt.Sprintf("{wiring=%q}", mode)
		for what, expr := range map[string]string{
			"every unit is sold":          fmt.Sprintf(`max(flashsale_stock_units{wiring=%q,state="sold"}) == %d`, mode, stock),
			"none is left":                fmt.Sprintf(`max(flashsale_stock_units{wiring=%q,state="left"}) == 0`, mode),
			"none is held":                fmt.Sprintf(`max(flashsale_stock_units{wiring=%q,state="held"}) == 0`, mode),
			"each has an order":           fmt.Sprintf(`sum(flashsale_orders_total{wiring=%q,state="confirmed"}) == %d`, mode, stock),
			"each is revenue":             fmt.Sprintf(`sum(flashsale_revenue_minor_units_total{wiring=%q,currency="EUR"}) == %d`, mode, 9900*stock),
			"each is a unit of a product": fmt.Sprintf(`sum(flashsale_units_sold_total%s) == %d`, w, stock),
			"each is captured":            fmt.Sprintf(`sum(flashsale_payments_total{wiring=%q,state="captured"}) == %d`, mode, stock),
			"what nobody paid for ended":  fmt.Sprintf(`sum(flashsale_ledger_moves_total{wiring=%q,move="expire",outcome="applied"}) > 0`, mode),
			"each hold was moved":         fmt.Sprintf(`sum(flashsale_ledger_moves_total{wiring=%q,move="capture",outcome="applied"}) == %d`, mode, stock),
			"nothing is oversold":         fmt.Sprintf(`max(flashsale_oversold_units%s) == 0`, w),
			"nothing is unsent":           fmt.Sprintf(`max(flashsale_outbox_events%s) == 0`, w),
			"every look works":            fmt.Sprintf(`min(flashsale_look_up%s) == 1`, w),
			"the audit is clean":          fmt.Sprintf(`max(flashsale_audit_failed_checks%s) == 0 and sum(flashsale_audit_runs_total{wiring=%q,outcome="clean"}) > 0`, w, mode),
			"shoppers were told":          fmt.Sprintf(`sum(flashsale_reservations_total{wiring=%q,outcome=~"held|accepted"}) >= %d`, mode, stock),
			"and took":                    fmt.Sprintf(`sum(flashsale_gate_takes_total{wiring=%q,outcome="taken"}) >= %d`, mode, stock),
			"and were decided on":         fmt.Sprintf(`sum(flashsale_decision_seconds_count%s) >= %d`, w, stock),
			"each bucket is new once":     fmt.Sprintf(`sum(flashsale_gate_recoveries_total{wiring=%q,reason="new"}) == 3`, mode),
			"breakers are closed":         fmt.Sprintf(`max(flashsale_peer_breaker_open%s) == 0`, w),
		} {
			f.until(t, string(mode)+": "+what, expr)
		}
	}
	var err error
	if f.names, err = f.prometheus.Names(); err != nil {
		t.Fatal(err)
	}
	for _, name := range f.names { // nothing is counted in vain
		if !strings.HasPrefix(name, "flashsale_") || !strings.HasSuffix(name, "_total") && !strings.HasSuffix(name, "_count") || slices.Contains(rare(), name) {
			continue
		}
		for _, mode := range []Mode{Sync, Async} {
			if some, err := f.prometheus.Query(fmt.Sprintf(`sum(%s{wiring=%q}) > 0`, name, mode)); err != nil || len(some) == 0 {
				t.Errorf("after a whole sale %s is zero, or absent, in the wiring %s (%v)", name, mode, err)
			}
		}
	}
	boards := dashboards(t, "../../grafana")
	if len(boards) == 0 {
		t.Fatal("no dashboards in grafana")
	}
	for path, d := range boards {
		for _, p := range d.Panels {
			if wrong := f.check(p); len(wrong) > 0 {
				t.Errorf("%s, panel %q:\n  %s", path, p.Title, strings.Join(wrong, "\n  "))
			}
		}
	}
	// Every unit is in the panel of products, those sold between two scrapes too.
	business := boards["../../grafana/dashboards/business.json"].Panels
	top := slices.IndexFunc(business, func(p panel) bool { return p.Title == "Top products" })
	if top < 0 {
		t.Fatal("no panel of products")
	}
	for _, q := range f.variables(business[top].Targets[0].Expr) {
		sold, err := f.prometheus.Query(q)
		if err != nil || len(sold) != 1 || sold[0].Values[0] != stock {
			t.Errorf("%s is %v, want %d units of one product (%v)", q, sold, stock, err)
		}
	}
	for what, p := range badPanels() {
		if len(f.check(p)) == 0 {
			t.Errorf("a panel with %s is let through", what)
		}
	}
	// What is firing after a good sale? Nothing but what says that a sale was sold fast.
	firing, err := f.prometheus.Query(`ALERTS{alertstate="firing"}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range firing {
		if name := a.Labels["alertname"]; !strings.HasPrefix(name, "FlashsaleReserveSlow") { // on a machine that does much else
			t.Errorf("after a good sale %s fires: %v", name, a.Labels)
		}
	}
}

// rare counts what a good sale has none of, or need not have. The tests of telemetry/metrics make each happen.
func rare() []string {
	return []string{
		"flashsale_database_errors_total", "flashsale_ledger_errors_total", "flashsale_gate_orphans_total", "flashsale_gate_transfers_total", "flashsale_refunds_minor_units_total",
	}
}

// until waits for an expression to hold. Prometheus tells nobody what it has scraped: it is asked.
func (f filled) until(t *testing.T, what, expr string) {
	t.Helper()
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for deadline := time.Now().Add(150 * time.Second); ; <-again.C {
		series, err := f.prometheus.Query(expr)
		if err == nil && len(series) > 0 {
			return
		}
		if time.Now().After(deadline) {
			left, _, _ := strings.Cut(expr, " == ")
			left, _, _ = strings.Cut(left, " >= ")
			left, _, _ = strings.Cut(left, " > ")
			is, _ := f.prometheus.Query(left)
			t.Fatalf("never: %s: %s; it is %v %v", what, expr, is, err)
		}
	}
}

// badPanels are panels that must not be let through.
func badPanels() map[string]panel {
	prom := func(unit, expr string) (p panel) {
		text, _ := json.Marshal(map[string]any{
			"type": "timeseries", "datasource": map[string]string{"type": "prometheus"}, "targets": []any{map[string]string{"expr": expr}},
			"fieldConfig": map[string]any{"defaults": map[string]string{"unit": unit}},
		})
		_ = json.Unmarshal(text, &p)
		return p
	}
	flux := prom("percent", "")
	flux.Datasource.Type = "influxdb"
	flux.Targets[0].Query = `from(bucket: v.defaultBucket) |> range(start: v.timeRangeStart) |> filter(fn: (r) => r._measurement == "process" and r._field == "cpu_percents")`
	bytes := flux
	bytes.Targets = slices.Clone(flux.Targets)
	bytes.Targets[0].Query = `from(bucket: v.defaultBucket) |> range(start: v.timeRangeStart) |> filter(fn: (r) => r._field == "memory_bytes")`
	return map[string]panel{
		"an unknown metric":             prom("short", `sum(flashsale_nothing) or vector(1)`),
		"no data":                       prom("short", `flashsale_stock_units{state="lost"}`),
		"a metric of no wiring's":       prom("short", `flashsale_queue_waiting{wiring="$wiring",service="catalog"}`),
		"no query that can be read":     prom("short", `sum(`),
		"milliseconds for seconds":      prom("ms", `histogram_quantile(0.99, sum by (le) (rate(flashsale_decision_seconds_bucket[$__rate_interval])))`),
		"a count for a rate":            prom("short", `sum(rate(flashsale_http_requests_total[$__rate_interval]))`),
		"percent for a share":           prom("percent", `sum(rate(flashsale_payments_total{state="captured"}[1m])) / sum(rate(flashsale_payments_total[1m]))`),
		"a field that is none":          flux,
		"percent for bytes":             bytes,
		"no query":                      {Type: "stat"},
		"a data source that is unknown": func() panel { p := prom("short", "up"); p.Datasource.Type = "loki"; return p }(),
	}
}
