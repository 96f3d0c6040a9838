package main

import (
	"context"
	"flashsale/audit"
	"flashsale/bench/journey"
	"flashsale/database/postgres"
	"flashsale/engine"
	"flashsale/id"
	"flashsale/nginx"
	"flashsale/testenv"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// house is a running system under test: one process or several, and where its API answers.
type house struct {
	apps  []*app
	base  string
	audit engine.Audit
	sales engine.SaleReader
}

const (
	testOperator = "operator@example.com"
	testPassword = "an operator's password"
)

// quick is a configuration for tests: short intervals, cheap hashes, a provider that is mostly well.
func quick(mode Mode) Config {
	cfg := defaults()
	cfg.Mode, cfg.Listen = mode, "127.0.0.1:0"
	cfg.OperatorEmail, cfg.OperatorPassword = testOperator, testPassword
	cfg.PasswordMemory, cfg.PasswordSlots = 64, 4
	cfg.ShopperRate = 1_000_000 // a test asks faster than a shopper may
	cfg.PaymentLatency, cfg.PaymentPatience, cfg.ProbeAfter = 2*time.Millisecond, 400*time.Millisecond, 600*time.Millisecond
	cfg.PaymentDeclineRate, cfg.PaymentTimeoutRate, cfg.PaymentLostReplyRate = 0.1, 0.05, 0.05 // of means that are not tok_…
	cfg.ExpireEvery, cfg.KeepEvery = 50*time.Millisecond, 50*time.Millisecond
	cfg.PendingFor, cfg.DrainNotice = 2*time.Second, 0
	return cfg
}

func (h *house) run(t *testing.T, cfg Config) *app {
	t.Helper()
	a, err := start(t.Context(), cfg, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	h.apps = append(h.apps, a)
	t.Cleanup(func() { stopApp(t, a) })
	return a
}

func stopApp(t *testing.T, a *app) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := a.stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// testLog shows errors in the test's own output.
func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
}

func embeddedHouse(t *testing.T, mode Mode) *house {
	t.Helper()
	cfg := quick(mode)
	cfg.Data = filepath.Join(t.TempDir(), "data")
	h := &house{}
	a := h.run(t, cfg)
	h.base, h.audit, h.sales = a.url(), a.audit, a.saleReader()
	return h
}

// serverConfig is a configuration on real servers of the test's own, migrated.
func serverConfig(t *testing.T, mode Mode) Config {
	t.Helper()
	cfg := quick(mode)
	cfg.DatabaseURLs = map[string]string{}
	for role, name := range databases() {
		u := testenv.Postgres(t)
		cfg.DatabaseURLs[name] = u
		pool, err := postgres.Open(t.Context(), u, 2, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if err := postgres.Migrate(t.Context(), pool, schema(role).postgres); err != nil {
			t.Fatal(err)
		}
		pool.Close()
	}
	cfg.DatabaseConns = 6
	cfg.RedisURLs = testenv.Redis(t, 3)
	if mode == Async {
		cfg.AMQPURL = testenv.RabbitMQ(t)
	}
	cfg.TokenSecrets = []string{strings.Repeat("secret of the test ", 3)}
	cfg.PasswordMemory = 19 << 10
	cfg.InternalToken = strings.Repeat("internal-token-", 3)
	return cfg
}

func serverHouse(t *testing.T, mode Mode) *house {
	t.Helper()
	cfg := serverConfig(t, mode)
	if err := cfg.validate(); err != nil {
		t.Fatal(err)
	}
	h := &house{}
	a := h.run(t, cfg)
	h.base, h.audit, h.sales = a.url(), a.audit, a.saleReader()
	return h
}

// splitHouse runs every role in a process of its own (an app of its own, over real sockets), behind
// nginx in the wiring's configuration.
func splitHouse(t *testing.T, mode Mode) *house {
	t.Helper()
	var each [][]string
	for _, role := range allRoles() {
		if role != "console" {
			each = append(each, []string{role})
		}
	}
	return groupedHouse(t, mode, each, func(*Config) {})
}

// groupedHouse runs each group of roles in a process of its own; change completes a process's configuration.
func groupedHouse(t *testing.T, mode Mode, groups [][]string, change func(*Config)) *house {
	t.Helper()
	shared := serverConfig(t, mode)
	internal := map[string]string{"console": net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t)))}
	for _, roles := range groups {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t)))
		for _, role := range roles {
			internal[role] = addr
		}
	}
	h := &house{}
	public := map[string][]string{"console": {"127.0.0.1:9"}} // does not run here
	whole := engine.Audit{}
	for _, roles := range groups {
		cfg := shared
		cfg.Roles, cfg.InternalListen, cfg.Peers = roles, internal[roles[0]], map[string]string{}
		for other, addr := range internal {
			if addr != cfg.InternalListen {
				cfg.Peers[other] = "http://" + addr
			}
		}
		change(&cfg)
		if err := cfg.validate(); err != nil {
			t.Fatal(err)
		}
		a := h.run(t, cfg)
		for _, role := range roles {
			public[role] = []string{a.listen.Addr().String()}
		}
		whole = merge(whole, a.audit)
		if cfg.has("inventory") {
			h.sales = a.saleReader()
		}
	}
	h.base, h.audit = "http://"+testenv.Nginx(t, string(mode), nginx.Site{Instances: public}), whole
	return h
}

// merge puts the parts of several processes' audits together.
func merge(a, b engine.Audit) engine.Audit {
	a.Own = append(a.Own, b.Own...)
	if b.Inventory != nil {
		a.Inventory, a.Books, a.Gate = b.Inventory, b.Books, b.Gate
	}
	if b.Orders != nil {
		a.Orders = b.Orders
	}
	if b.Payments != nil {
		a.Payments, a.Provider = b.Payments, b.Provider
	}
	if b.Queues != nil {
		a.Queues = b.Queues
	}
	boxes := maps.Clone(a.Outboxes) // a process that runs reads its own
	for s, box := range b.Outboxes {
		if boxes == nil {
			boxes = maps.Clone(b.Outboxes)
		}
		boxes[s] = box
	}
	a.Outboxes = boxes
	a.Clock = b.Clock
	return a
}

func crowd(h *house, stock int64, shoppers int) journey.Crowd {
	return journey.Crowd{
		Base: h.base, Operator: testOperator, Password: testPassword, Shoppers: shoppers, Stock: stock, Units: 1, Hold: 2 * time.Second,
		AbandonRate: 0.15, Concurrency: 24, Seed: 7, Decide: 90 * time.Second, GiveUpOnHeld: 30 * time.Second,
		Client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}},
	}
}

// TestJourney: the same crowd over every transport ends in the same states.
func TestJourney(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) *house{
		"embedded, sync, calls":                      func(t *testing.T) *house { return embeddedHouse(t, Sync) },
		"embedded, async, queue file":                func(t *testing.T) *house { return embeddedHouse(t, Async) },
		"servers, sync, one process":                 func(t *testing.T) *house { return serverHouse(t, Sync) },
		"servers, async, RabbitMQ":                   func(t *testing.T) *house { return serverHouse(t, Async) },
		"servers, sync, a process a role, HTTP":      func(t *testing.T) *house { return splitHouse(t, Sync) },
		"servers, async, a process a role, RabbitMQ": func(t *testing.T) *house { return splitHouse(t, Async) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t)
			const stock, shoppers = 20, 60
			c := crowd(h, stock, shoppers)
			t.Cleanup(c.Client.CloseIdleConnections)
			sale, err := journey.OpenSale(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			run := journey.New(c, sale)
			res := run.Do(t.Context())
			sellOut(t, c, sale, res.SoldUnits)
			states := finalStates(t, h, run, sale, res)
			// Nobody was told anything odd, and every unit could be bought.
			want := fmt.Sprintf("sold %d held 0 available 0 oversold 0 lost 0 undecided 0 unexpected 0 clean true", stock)
			if states != want {
				t.Fatalf("final states: %s\nwant:         %s\n%v", states, want, res.Errors)
			}
		})
	}
}

// sellOut buys what is left: some shoppers walk away, and on a slow machine some are too late, but
// every unit that comes back must be there for somebody else.
func sellOut(t *testing.T, c journey.Crowd, sale journey.Sale, sold int) {
	t.Helper()
	for round := uint64(0); sold < int(c.Stock) && round < 8; round++ {
		rest := c
		rest.Shoppers, rest.AbandonRate, rest.Seed = int(c.Stock)-sold, 0, 100+round
		sold += journey.New(rest, sale).Do(t.Context()).SoldUnits
	}
	if sold != int(c.Stock) {
		t.Errorf("sold %d of %d", sold, c.Stock)
	}
}

// finalStates waits for the last steps, audits, and says where everything is.
func finalStates(t *testing.T, h *house, run *journey.Run, sale journey.Sale, res journey.Result) string {
	t.Helper()
	bound, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	sid, err := id.Parse(sale.ID)
	if err != nil {
		t.Fatal(err)
	}
	book, err := h.audit.SettleSale(bound, h.sales, sid)
	if err != nil {
		t.Fatal(err)
	}
	lost, err := run.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	checks, err := h.audit.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range checks {
		if !c.OK {
			t.Errorf("audit %d. %s: %s", c.Equation, c.Name, c.Figures)
		}
	}
	if len(checks) < 18 {
		t.Errorf("the audit made %d checks only", len(checks))
	}
	return fmt.Sprintf("sold %d held %d available %d oversold %d lost %d undecided %d unexpected %d clean %v",
		book.Sold, book.Held, book.Available, max(0, book.Sold+book.Held-book.Total), lost, res.Undecided, res.Unexpected, audit.Clean(checks))
}

// TestMigrateFirst: a process refuses databases that are not migrated, and says what to run.
func TestMigrateFirst(t *testing.T) {
	t.Parallel()
	cfg := serverConfig(t, Sync)
	cfg.DatabaseURLs["orders"] = testenv.Postgres(t)
	_, err := start(t.Context(), cfg, testLog(t))
	if err == nil || !strings.Contains(err.Error(), "flashsale migrate") {
		t.Fatalf("error %v; want one that says to run flashsale migrate", err)
	}
}

// TestUnsafeServerIsRefused: a PostgreSQL that would lose commits is refused with what to change.
func TestUnsafeServerIsRefused(t *testing.T) {
	t.Parallel()
	cfg := serverConfig(t, Sync)
	c, err := pgx.Connect(t.Context(), cfg.DatabaseURLs["inventory"])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	if _, err := c.Exec(t.Context(), `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$`); err != nil {
		t.Fatal(err)
	}
	_, err = start(t.Context(), cfg, testLog(t))
	if err == nil || !strings.Contains(err.Error(), "synchronous_commit = on") {
		t.Fatalf("error %v; want one that says to turn synchronous_commit on", err)
	}
}
