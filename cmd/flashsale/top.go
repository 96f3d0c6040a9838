package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func topCommand() *cobra.Command {
	from, every := []string{"http://127.0.0.1:8081"}, time.Second
	var once, asJSON bool
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch a sale in the terminal",
		Long: `Shows a running sale from the metrics of its processes: stock, rates, latencies, queues, shards. Name the
--admin-listen address of every process, so that what each of them counts is added up.`,
		Example: `  flashsale serve --sample --admin-listen 127.0.0.1:8081 & flashsale top
  flashsale top --from http://shop-1:8081,http://shop-2:8081
  flashsale top --once --json | jq '.items[0].left'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond {
				return fmt.Errorf("--every is %s; set 100ms or more, such as 1s", every)
			}
			for i, f := range from {
				u, err := url.Parse(f)
				if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
					return fmt.Errorf("--from: %q is not the address of a process; set http://host:port, as its --admin-listen says", f)
				}
				from[i] = u.JoinPath("/metrics").String()
			}
			return top(cmd.Context(), cmd.OutOrStdout(), from, every, once, asJSON)
		},
	}
	cmd.Flags().StringSliceVar(&from, "from", from, "where the processes serve their metrics, with commas")
	cmd.Flags().DurationVar(&every, "every", every, "time between two readings; rates are over it")
	cmd.Flags().BoolVar(&once, "once", false, "two readings, one answer")
	cmd.Flags().BoolVar(&asJSON, "json", false, "an answer is one line of JSON")
	return cmd
}

// glance is what top shows. Rates are per second since the reading before; a latency without any request is absent.
type glance struct {
	At         time.Time          `json:"at"`
	Processes  []processGlance    `json:"processes"`
	Items      []itemGlance       `json:"items"`
	Oversold   float64            `json:"oversold_units"`
	Answers    map[string]float64 `json:"answers_per_second"` // to "reserve", by what was said
	Takes      map[string]float64 `json:"takes_per_second"`   // at the gate, by outcome
	Requests   float64            `json:"requests_per_second"`
	Errors     float64            `json:"errors_per_second"` // 5xx
	Latency    map[string]latency `json:"latency"`
	Orders     map[string]float64 `json:"orders"` // since the processes began, by state
	Revenue    map[string]float64 `json:"revenue_minor_units"`
	Shards     []shardGlance      `json:"shards"`
	Recoveries map[string]float64 `json:"recoveries"` // since the processes began, by reason; new ones left out
	Queues     []queueGlance      `json:"queues"`
	Breakers   []string           `json:"breakers_open"`
	Blind      []string           `json:"cannot_look_at"`
}

type (
	processGlance struct {
		URL    string `json:"url"`
		Roles  string `json:"roles,omitempty"`
		Wiring string `json:"wiring,omitempty"`
		Error  string `json:"error,omitempty"`
	}
	itemGlance struct {
		Sale string  `json:"sale"`
		SKU  string  `json:"sku"`
		Left float64 `json:"left"`
		Held float64 `json:"held"`
		Sold float64 `json:"sold"`
	}
	latency struct {
		P50 float64 `json:"p50_ms"`
		P99 float64 `json:"p99_ms"`
	}
	shardGlance struct {
		Shard     string  `json:"shard"`
		Up        bool    `json:"up"`
		Available float64 `json:"available"`
		Pending   float64 `json:"pending"`
		Epoch     float64 `json:"epoch"`
	}
	queueGlance struct {
		Service      string  `json:"service"`
		Waiting      float64 `json:"waiting"`
		Retrying     float64 `json:"retrying"`
		Dead         float64 `json:"dead_letters"`
		Outbox       float64 `json:"outbox"`
		OutboxOldest float64 `json:"outbox_oldest_seconds"`
	}
)

// reading is one look at every process.
type reading struct {
	at        time.Time
	processes []processGlance
	metrics   []map[string]*dto.MetricFamily // nil for a process that did not answer
}

func top(ctx context.Context, w io.Writer, from []string, every time.Duration, once, asJSON bool) error {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	var screen *os.File // what is shown is drawn over, and fits
	if f, ok := w.(*os.File); ok && !asJSON && !once && term.IsTerminal(int(f.Fd())) {
		screen = f
	}
	before := look(ctx, client, from)
	for {
		if !slices.ContainsFunc(before.metrics, func(m map[string]*dto.MetricFamily) bool { return m != nil }) && once {
			return fmt.Errorf("no process answers: %s; start them with --admin-listen, or name where they are with --from", before.processes[0].Error)
		}
		if sleep(ctx, every) != nil {
			return nil
		}
		now := look(ctx, client, from)
		g := compareReadings(before, now)
		text := g.String()
		switch {
		case asJSON:
			b, err := json.Marshal(g)
			if err != nil {
				return err
			}
			text = string(b) + "\n"
		case screen != nil:
			if wide, high, err := term.GetSize(int(screen.Fd())); err == nil { // it may have been resized
				text = fit(text, wide, high)
			}
			text = "\x1b[H" + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\x1b[K\n") + "\x1b[J"
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
		if once {
			return nil
		}
		before = now
	}
}

// look reads the metrics of every process.
func look(ctx context.Context, client *http.Client, from []string) reading {
	r := reading{at: time.Now()}
	for _, u := range from {
		p := processGlance{URL: strings.TrimSuffix(u, "/metrics")}
		m, err := fetch(ctx, client, u)
		if err != nil {
			p.Error = err.Error()
		}
		for _, v := range m["flashsale_info"].GetMetric() {
			p.Roles, p.Wiring = label(v, "service"), label(v, "wiring")
		}
		r.processes, r.metrics = append(r.processes, p), append(r.metrics, m)
	}
	return r
}

func fetch(ctx context.Context, client *http.Client, u string) (map[string]*dto.MetricFamily, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %d", u, resp.StatusCode)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	m, err := parser.TextToMetricFamilies(io.LimitReader(resp.Body, 32<<20))
	if err == nil && m["flashsale_info"] == nil {
		err = errors.New(u + " is not of a flashsale process")
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// sum adds a counter up over the processes, by the values of a label.
func (r reading) sum(name, by string) map[string]float64 {
	out := map[string]float64{}
	for _, m := range r.metrics {
		for _, v := range m[name].GetMetric() {
			out[label(v, by)] += v.GetCounter().GetValue()
		}
	}
	return out
}

// most takes the maximum of a gauge over the processes, by the values of labels.
func (r reading) most(name string, by ...string) map[string]float64 {
	out := map[string]float64{}
	for _, m := range r.metrics {
		for _, v := range m[name].GetMetric() {
			var key []string
			for _, l := range by {
				key = append(key, label(v, l))
			}
			k := strings.Join(key, "\x00")
			if old, ok := out[k]; !ok || v.GetGauge().GetValue() > old {
				out[k] = v.GetGauge().GetValue()
			}
		}
	}
	return out
}

// buckets adds a histogram up over the processes: cumulative counts by upper bound.
func (r reading) buckets(name string, wanted map[string]string) map[float64]float64 {
	out := map[float64]float64{}
	for _, m := range r.metrics {
		for _, v := range m[name].GetMetric() {
			fits := true
			for l, value := range wanted {
				fits = fits && label(v, l) == value
			}
			if !fits {
				continue
			}
			for _, b := range v.GetHistogram().GetBucket() {
				out[b.GetUpperBound()] += float64(b.GetCumulativeCount())
			}
		}
	}
	return out
}

// quantile interpolates within the bucket that holds it; beyond the last one it is the last bound.
func quantile(q float64, before, now map[float64]float64) (float64, bool) {
	bounds := slices.Sorted(maps.Keys(now))
	if len(bounds) == 0 {
		return 0, false
	}
	of := func(b float64) float64 { return math.Max(now[b]-before[b], 0) }
	rank := q * of(bounds[len(bounds)-1])
	if rank == 0 {
		return 0, false
	}
	low, below := 0.0, 0.0
	for _, b := range bounds {
		if n := of(b); n >= rank {
			if math.IsInf(b, 1) || n == below {
				return low, true
			}
			return low + (b-low)*(rank-below)/(n-below), true
		}
		low, below = b, of(b)
	}
	return low, true
}

// compareReadings makes what is shown of two readings.
func compareReadings(before, now reading) glance {
	seconds := math.Max(now.at.Sub(before.at).Seconds(), 0.001)
	rates := func(name, by string) map[string]float64 {
		was, is := before.sum(name, by), now.sum(name, by)
		for k := range is {
			is[k] = math.Max(is[k]-was[k], 0) / seconds // a process that has restarted begins again
		}
		return is
	}
	g := glance{
		At: now.at.UTC(), Processes: now.processes, Items: []itemGlance{}, Answers: rates("flashsale_reservations_total", "outcome"), Takes: rates("flashsale_gate_takes_total", "outcome"),
		Latency: map[string]latency{}, Orders: now.sum("flashsale_orders_total", "state"), Revenue: now.sum("flashsale_revenue_minor_units_total", "currency"),
		Recoveries: now.sum("flashsale_gate_recoveries_total", "reason"), Oversold: now.most("flashsale_oversold_units")[""], Shards: []shardGlance{}, Queues: []queueGlance{},
		Breakers: []string{}, Blind: []string{},
	}
	delete(g.Recoveries, "new")
	for code, n := range rates("flashsale_http_requests_total", "code") {
		g.Requests += n
		if strings.HasPrefix(code, "5") {
			g.Errors += n
		}
	}
	for name, of := range map[string]struct {
		metric string
		labels map[string]string
	}{
		"reserve":        {"flashsale_http_request_seconds", map[string]string{"method": "POST", "route": "/api/v1/reservations"}},
		"pay":            {"flashsale_http_request_seconds", map[string]string{"method": "POST", "route": "/api/v1/orders/:id/payments"}},
		"decision":       {"flashsale_decision_seconds", nil},
		"ledger commit":  {"flashsale_ledger_call_seconds", map[string]string{"call": "commit"}},
		"take":           {"flashsale_gate_take_seconds", nil},
		"group's wait":   {"flashsale_group_wait_seconds", map[string]string{"group": "ledger_commits"}},
		"provider":       {"flashsale_provider_seconds", map[string]string{"call": "charge"}},
		"database query": {"flashsale_database_query_seconds", nil},
	} {
		was, is := before.buckets(of.metric, of.labels), now.buckets(of.metric, of.labels)
		if p99, ok := quantile(0.99, was, is); ok {
			p50, _ := quantile(0.5, was, is)
			g.Latency[name] = latency{1000 * p50, 1000 * p99}
		}
	}
	g.stock(now)
	g.parts(now)
	return g
}

func (g *glance) stock(now reading) {
	items := map[[2]string]*itemGlance{}
	for key, units := range now.most("flashsale_stock_units", "sale", "sku", "state") {
		part := strings.Split(key, "\x00")
		at := [2]string{part[0], part[1]}
		if items[at] == nil {
			items[at] = &itemGlance{Sale: part[0], SKU: part[1]}
		}
		switch part[2] {
		case "left":
			items[at].Left = units
		case "held":
			items[at].Held = units
		case "sold":
			items[at].Sold = units
		}
	}
	for _, i := range items {
		g.Items = append(g.Items, *i)
	}
	slices.SortFunc(g.Items, func(a, b itemGlance) int { // the newest sale first
		return cmp.Or(cmp.Compare(b.Sale, a.Sale), cmp.Compare(a.SKU, b.SKU))
	})
}

func (g *glance) parts(now reading) {
	available, pending, epoch := now.most("flashsale_gate_available_units", "shard"), now.most("flashsale_gate_pending_units", "shard"), now.most("flashsale_gate_epoch", "shard")
	up := now.most("flashsale_gate_shard_up", "shard")
	for _, s := range slices.Sorted(maps.Keys(up)) {
		g.Shards = append(g.Shards, shardGlance{s, up[s] > 0, available[s], pending[s], epoch[s]})
	}
	waiting, retrying, dead := now.most("flashsale_queue_waiting", "service"), now.most("flashsale_queue_retrying", "service"), now.most("flashsale_dead_letters", "service")
	outbox, oldest := now.most("flashsale_outbox_events", "service"), now.most("flashsale_outbox_oldest_seconds", "service")
	services := maps.Clone(waiting)
	maps.Copy(services, outbox)
	for _, s := range slices.Sorted(maps.Keys(services)) {
		g.Queues = append(g.Queues, queueGlance{s, waiting[s], retrying[s], dead[s], outbox[s], oldest[s]})
	}
	breakers, looks := now.most("flashsale_peer_breaker_open", "to"), now.most("flashsale_look_up", "look")
	for _, to := range slices.Sorted(maps.Keys(breakers)) {
		if breakers[to] > 0 {
			g.Breakers = append(g.Breakers, to)
		}
	}
	for _, l := range slices.Sorted(maps.Keys(looks)) {
		if looks[l] == 0 {
			g.Blind = append(g.Blind, l)
		}
	}
}

const (
	shownItems = 12
	barWidth   = 30
)

// String writes a glance: what is wrong first, then stock, rates, latencies, queues and shards.
func (g glance) String() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("flashsale %s UTC", g.At.Format("15:04:05"))
	for _, p := range g.Processes {
		if p.Error != "" {
			line("  %-28s DOES NOT ANSWER: %s", p.URL, p.Error)
		} else {
			line("  %-28s %s %s", p.URL, p.Wiring, p.Roles)
		}
	}
	for _, what := range g.Breakers {
		line("  BREAKER OPEN: calls to %s fail", what)
	}
	for _, what := range g.Blind {
		line("  BLIND: cannot look at %s", what)
	}
	if g.Oversold > 0 {
		line("  OVERSOLD: %.0f units", g.Oversold)
	}
	for _, s := range g.Shards {
		if !s.Up {
			line("  AWAY: shard %s of the gate", s.Shard)
		}
	}
	for _, q := range g.Queues {
		if q.Dead > 0 {
			line("  DEAD LETTERS: %.0f of %s", q.Dead, q.Service)
		}
	}
	line("\n%-22s %8s %8s %8s", "stock", "left", "held", "sold")
	for _, i := range g.Items[:min(len(g.Items), shownItems)] {
		line("%-22.22s %8.0f %8.0f %8.0f  %s", i.SKU, i.Left, i.Held, i.Sold, bar(i))
	}
	if more := len(g.Items) - shownItems; more > 0 {
		line("  and %d more; --json has them all", more)
	}
	line("\n%-22s %8.1f/s   errors %.1f/s", "requests", g.Requests, g.Errors)
	line("%-22s %s", "told who reserves", perSecond(g.Answers))
	line("%-22s %s", "takes at the gate", perSecond(g.Takes))
	line("%-22s %s", "orders so far", totals(g.Orders))
	for _, currency := range slices.Sorted(maps.Keys(g.Revenue)) {
		line("%-22s %s %.2f", "revenue so far", currency, g.Revenue[currency]/100)
	}
	line("\n%-22s %8s %8s", "latency, ms", "p50", "p99")
	for _, name := range slices.Sorted(maps.Keys(g.Latency)) {
		line("%-22s %8.1f %8.1f", name, g.Latency[name].P50, g.Latency[name].P99)
	}
	line("\n%-14s %8s %8s %8s %8s %8s", "service", "waiting", "retrying", "dead", "outbox", "oldest")
	for _, q := range g.Queues {
		line("%-14s %8.0f %8.0f %8.0f %8.0f %7.1fs", q.Service, q.Waiting, q.Retrying, q.Dead, q.Outbox, q.OutboxOldest)
	}
	line("\n%-14s %8s %9s %8s", "shard", "state", "available", "pending")
	for _, s := range g.Shards {
		state := "up"
		if !s.Up {
			state = "AWAY"
		}
		line("%-14s %8s %9.0f %8.0f", s.Shard, state, s.Available, s.Pending)
	}
	if t := totals(g.Recoveries); t != "none" {
		line("buckets recovered: %s", t)
	}
	return b.String()
}

// fit cuts a text to a terminal. The first lines say the most, and the last one how much is missing: a terminal that scrolls would
// show the end, and a line that wraps pushes another out.
func fit(text string, wide, high int) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if high > 1 && len(lines) > high {
		lines = append(lines[:high-1:high-1], fmt.Sprintf("… %d more lines in a higher terminal, or with --once", len(lines)-high+1))
	}
	for i, l := range lines {
		if r := []rune(l); wide > 1 && len(r) > wide {
			lines[i] = string(r[:wide-1]) + "…"
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// bar draws what is sold, held and left.
func bar(i itemGlance) string {
	all := i.Left + i.Held + i.Sold
	if all <= 0 {
		return ""
	}
	sold := int(math.Round(barWidth * i.Sold / all))
	held := min(int(math.Round(barWidth*i.Held/all)), barWidth-sold)
	return strings.Repeat("█", sold) + strings.Repeat("▒", held) + strings.Repeat("·", barWidth-sold-held)
}

func perSecond(m map[string]float64) string { return list(m, "%s %.1f/s") }
func totals(m map[string]float64) string    { return list(m, "%s %.0f") }

// list writes what is not zero, the most first.
func list(m map[string]float64, format string) string {
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(m)), func(k string) bool { return m[k] == 0 })
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(m[b], m[a]) })
	for i, n := range names {
		names[i] = fmt.Sprintf(format, n, m[n])
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
