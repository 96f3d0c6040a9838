//go:build telemetry

package main

import (
	"context"
	"flashsale/testenv"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

// shortRules are the rules of production with what nobody waits for in a test made short, and the names of their alerts.
func shortRules(t *testing.T) (path string, alerts []string) {
	t.Helper()
	b, err := os.ReadFile("../../deploy/prometheus/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for long, short := range map[string]string{"for: 3m": "for: 5s", "> 1800": "> 5", "for: 1m": "for: 20s"} {
		if !strings.Contains(text, long) {
			t.Fatalf("no rule has %q any more", long)
		}
		text = strings.ReplaceAll(text, long, short)
	}
	path = filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(text, -1) {
		alerts = append(alerts, m[1])
	}
	return path, alerts
}

// scene is a system of several processes that is about to be broken.
type scene struct {
	*stall
	targets []string // of Prometheus
	cfg     Config   // of the process with the ledger
}

// stage opens a system whose processes can be watched.
func stage(t *testing.T, mode Mode, groups [][]string, change func(*Config)) *scene {
	t.Helper()
	s := &scene{}
	h := groupedHouse(t, mode, groups, func(cfg *Config) {
		cfg.AdminListen = net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t)))
		cfg.LookEvery, cfg.ShardDeadAfter, cfg.KeepEvery = 300*time.Millisecond, time.Hour, time.Second
		change(cfg)
		s.targets = append(s.targets, cfg.AdminListen)
		if cfg.has("inventory") {
			s.cfg = *cfg
		}
	})
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	s.stall = &stall{t: t, mode: mode, house: h}
	s.operator = person{t: t, client: client, base: h.base}.login(testOperator, testPassword)
	return s
}

// connect opens a database of the system's, behind the services' back.
func (s *scene) connect(database string) *pgx.Conn {
	s.t.Helper()
	c, err := pgx.Connect(context.Background(), s.cfg.DatabaseURLs[database])
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func (s *scene) sql(database, statements string) {
	s.t.Helper()
	c := s.connect(database)
	if _, err := c.Exec(context.Background(), statements); err != nil {
		s.t.Fatalf("%s: %v", statements, err)
	}
}

// shard is one of the gate's.
func (s *scene) shard(i int) *redis.Client {
	s.t.Helper()
	o, err := redis.ParseURL(s.cfg.RedisURLs[i])
	if err != nil {
		s.t.Fatal(err)
	}
	c := redis.NewClient(o)
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// shoppers are people who have an account.
func (s *scene) shoppers(n int) (all []person) {
	s.t.Helper()
	for range n {
		s.n++
		all = append(all, s.nobody().register(fmt.Sprintf("shopper-%d", s.n)))
	}
	return all
}

// buy has all of them reserve one at the same time, and pay for it when they are to.
func buy(all []person, w wares, pay bool) (wait func()) {
	var buying sync.WaitGroup
	for _, p := range all {
		buying.Go(func() {
			got := p.do("POST", "/api/v1/reservations", w.reserve(1), "Idempotency-Key", "k")
			if pay {
				p.do("POST", "/api/v1/orders/"+got.text("order_id")+"/payments", map[string]any{"method": "tok_ok"}, "Idempotency-Key", "p")
			}
		})
	}
	return buying.Wait
}

// silent is where a process listens that hangs: it takes calls and never answers, until it is ended.
func silent(t *testing.T) (addr string, end func()) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				<-ended
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().String(), func() {
		_ = l.Close()
		close(ended)
	}
}

// TestAlertsFire breaks real systems, watched by a real Prometheus with the rules of production, in every way that there is an
// alert for. Each fires; before anything is broken, none does.
func TestAlertsFire(t *testing.T) {
	t.Parallel()
	rules, alerts := shortRules(t)
	events := stage(t, Async, [][]string{{"reservation", "order", "catalog", "account"}, {"inventory"}, {"payment"}, {"notification"}}, func(*Config) {})
	hung, end := silent(t)
	calls := stage(t, Sync, [][]string{{"reservation", "order", "catalog", "account"}, {"inventory", "payment"}}, func(cfg *Config) {
		cfg.Peers["notification"] = "http://" + hung
	})
	t.Cleanup(end)
	whole := events.cfg // of the auditor, who reads all books
	whole.Roles, whole.AdminListen, whole.Listen = allRoles(), net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t))), "127.0.0.1:0"
	auditing, stop := context.WithCancel(t.Context())
	audited := make(chan error, 1)
	go func() { audited <- auditEvery(auditing, whole, time.Second, testLog(t)) }()
	t.Cleanup(func() {
		stop()
		if err := <-audited; err != nil {
			t.Error(err)
		}
	})
	targets := slices.Concat(events.targets, calls.targets, []string{whole.AdminListen})
	f := filled{prometheus: testenv.Prometheus(t, targets, rules), began: time.Now()}
	f.until(t, "every process is scraped", fmt.Sprintf(`sum(up) == %d`, len(targets)))
	w := events.sell(30, 0, 10*time.Minute)
	events.open(w)
	ann := events.shoppers(1)[0]
	first := events.held(ann, w, 1, "k").text("id")
	f.until(t, "the books are audited", `sum(flashsale_audit_runs_total{outcome="clean"}) > 0`)
	if early, err := f.prometheus.Query(`ALERTS{alertname!~"FlashsaleReserveSlow.*",alertstate="firing"}`); err != nil || len(early) > 0 { // slow: on a machine that does much else
		t.Errorf("of systems that are well it is said: %v %v", early, err)
	}

	// Over calls: notification hangs, and the ledger waits for somebody.
	w = calls.sell(60, 0, 10*time.Minute)
	calls.open(w)
	crowd := calls.shoppers(8)
	lock := calls.connect("inventory")
	if _, err := lock.Exec(t.Context(), `BEGIN; LOCK TABLE bucket IN EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	wait := buy(crowd, w, true)
	if _, err := lock.Exec(t.Context(), `SELECT pg_sleep(1.5); COMMIT`); err != nil {
		t.Fatal(err)
	}
	wait()

	// Over events: dead letters; a shard that promises what is not there, one that loses its memory, and one that goes.
	bury(t, events.house.apps[0], 2)
	// Now, for a look at letters that takes too long, as on a machine that does all of the following, is made again after half a minute only.
	f.until(t, "it is said that dead letters are old", `ALERTS{alertname="FlashsaleDeadLettersOld",alertstate="firing"}`)
	w = events.sell(6, 0, 10*time.Minute)
	events.open(w)
	events.shard(0).HIncrBy(t.Context(), "fs:{"+w.sale+"/"+w.sku+"/0}:m", "avail", 20)
	buy(events.shoppers(9), w, false)()
	f.until(t, "the ledger has refused", `sum(flashsale_ledger_decisions_total{wiring="async",outcome="no_units"}) > 0`)
	events.shard(1).FlushAll(t.Context())
	f.until(t, "a bucket is recovered", `sum(flashsale_gate_recoveries_total{wiring="async",reason="empty"}) > 0`)
	events.shard(2).ShutdownNoSave(t.Context())

	// A queue that nobody reads, books that do not balance, and in the end cannot be read.
	stopApp(t, events.house.apps[3])
	ann.do("POST", "/api/v1/orders/"+first+"/payments", map[string]any{"method": "tok_ok"}, "Idempotency-Key", "p")
	ann.eventually("/api/v1/orders/"+first, "state", "confirmed")
	events.sql("inventory", `ALTER TABLE bucket DROP CONSTRAINT bucket_check; UPDATE bucket SET sold = granted - held + 1`)
	f.until(t, "an audit finds it", `max(flashsale_audit_failed_checks) > 0`)
	events.sql("payments", `ALTER TABLE payment RENAME TO away; ALTER TABLE outbox RENAME TO away_too`)
	t.Cleanup(func() {
		events.sql("payments", `ALTER TABLE away RENAME TO payment; ALTER TABLE away_too RENAME TO outbox`)
	})

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for missing := alerts; ; {
		firing, err := f.prometheus.Query(`count by (alertname, look) (count_over_time(ALERTS{alertstate="firing"}[1h]))`) // some end soon
		if err != nil {
			t.Fatal(err)
		}
		missing = slices.DeleteFunc(missing, func(name string) bool {
			return slices.ContainsFunc(firing, func(a testenv.Series) bool {
				look, blind := a.Labels["look"]
				return a.Labels["alertname"] == name && (!blind || look == "outboxes of payment") // and not because another look fails
			})
		})
		if len(missing) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never: %v; what has fired is %v", missing, firing)
		}
	}
}
