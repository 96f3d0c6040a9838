//go:build faults

package faults

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"flashsale/bench/journey"
	"flashsale/bench/testbed"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// clocks are those of a site that can be set: of its services, of PostgreSQL and of a Redis shard.
type clocks struct {
	*site
	dir string
}

// newClocks gives every part of a site a clock of its own, which is right until it is set.
func newClocks(t *testing.T, mode string) *clocks {
	t.Helper()
	c := &clocks{site: newSite(t, mode)}
	c.dir = filepath.Join(c.site.dir, "clocks")
	must(t, os.Mkdir(c.dir, 0o755))
	bin, err := sabotaged()
	must(t, err)
	for _, role := range roles() {
		c.set(0, role)
		c.services[role].end(syscall.SIGTERM)
		own := *c.system
		own.bin, own.env = bin, append(slices.Clip(c.env), "FLASHSALE_CLOCK="+filepath.Join(c.dir, role))
		c.services[role].s = &own
	}
	c.set(0, "postgres")
	c.postgres.Stop(syscall.SIGINT)
	c.postgres.Env = c.faked("postgres")
	must(t, c.postgres.Start(t.Context()))
	c.set(0, "redis")
	h := c.shards[0]
	h.Stop(syscall.SIGTERM)
	h.Process, err = testbed.Spawn(context.WithoutCancel(t.Context()), h.dir, "redis", syscall.SIGTERM, append(testbed.BaseEnv(), c.faked("redis")...), nil,
		"redis-server", "--port", strconv.Itoa(h.port), "--bind", "127.0.0.1", "--dir", h.dir, "--save", "", "--appendonly", "no")
	must(t, err)
	must(t, h.Ready(t.Context(), 15*time.Second, testbed.Dials(h.port)))
	c.startServices()
	return c
}

// faked is the environment of a server whose wall clock a file sets. The monotonic one goes on, as it does when the clock
// of a machine is set.
func (c *clocks) faked(name string) []string {
	c.t.Helper()
	lib, err := testbed.FindFaketime()
	must(c.t, err)
	// The C library's own malloc, not Redis's: that one asks for the time while it is made, and libfaketime allocates for the answer.
	return []string{"LD_PRELOAD=" + lib + ":libc.so.6", "FAKETIME_TIMESTAMP_FILE=" + filepath.Join(c.dir, name), "FAKETIME_NO_CACHE=1", "DONT_FAKE_MONOTONIC=1"}
}

// set sets clocks so much beside the right time.
func (c *clocks) set(by time.Duration, names ...string) {
	c.t.Helper()
	for _, name := range names {
		text := by.String()
		if name == "postgres" || name == "redis" {
			text = fmt.Sprintf("%+d\n", int(by.Seconds()))
		}
		path := filepath.Join(c.dir, name)
		must(c.t, os.WriteFile(path+".new", []byte(text), 0o644))
		must(c.t, os.Rename(path+".new", path)) // nobody reads half of it
	}
}

// in makes a test the one that everything is reported to.
func (c *clocks) in(t *testing.T) (back func()) {
	outer := c.t
	to := func(t *testing.T) {
		c.t, c.wrong = t, nil
		for _, p := range c.services {
			p.s.t = t
		}
	}
	to(t)
	return func() { to(outer) }
}

// step is how far clocks are set.
const step = 5 * time.Minute

// clockCell is clocks that are set in the middle of a sale, one step after the other. They are right again afterwards.
type clockCell struct {
	name  string
	of    []string
	steps []time.Duration
}

// how says what the clock is set to, one after the other.
func (c clockCell) how() string {
	var all []string
	for _, by := range c.steps {
		all = append(all, fmt.Sprintf("%+d min", int(by.Minutes())))
	}
	return "set by " + strings.Join(all, ", ")
}

func clockCells() []clockCell {
	there := []time.Duration{step, -step, 0}
	return []clockCell{
		{"the clock of reservation", []string{"reservation"}, there},
		{"the clock of inventory", []string{"inventory"}, there},
		{"the clocks of order and payment", []string{"order", "payment"}, there},
		{"the clocks of account and catalog", []string{"account", "catalog"}, there},
		{"the clocks of all services", roles(), there},
		{"the clock of a Redis shard", []string{"redis"}, there},
		// What is held by a clock that is ahead is held so much longer by the right one: it would be a long test.
		{"the clock of PostgreSQL", []string{"postgres"}, []time.Duration{-step, step}},
	}
}

// TestClocks: in the middle of a sale a clock is set by five minutes, ahead and back, in both wirings.
// What holds after TestMatrix's cells holds here. Then each thing that a shopper may see of a wrong clock, one by one.
func TestClocks(t *testing.T) {
	for _, mode := range []string{"sync", "async"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			c := newClocks(t, mode)
			ann, probe := c.sale(c.base(), 1000, 10*time.Second)
			c.longOpen(probe)
			probes := 0
			for seed := uint64(1); seed <= seeds(t); seed++ {
				for _, cell := range clockCells() {
					name := cell.name
					if seed > 1 {
						name = fmt.Sprintf("%s, seed %d", name, seed)
					}
					t.Run(name, func(t *testing.T) {
						defer c.in(t)()
						began := time.Now()
						v := row{wiring: mode, fault: cell.name, phase: cell.how(), seed: seed, struck: 10}
						defer func() {
							v.ok, v.wrong, v.total = !t.Failed(), c.wrong, time.Since(began)
							results.add(v)
						}()
						const stock = 30
						run, _, sale, done := c.crowdFor(c.base(), stock, demand(stock), 4*time.Second, seed, false, func(l *load) { l.jumps = true })
						c.longOpen(sale)
						defer func() { c.set(0, cell.of...) }()
						for i, by := range cell.steps {
							c.at(run, demand(stock)*(10+25*i)/100)
							c.set(by, cell.of...)
						}
						probes++
						v.back = c.decided(ann, probe, probes)
						c.settled(run, stock, sale, done)
						v.sold, v.repeated = stock+run.added, list(run.told())
						c.auditIn(mode, 0)
					})
				}
			}
			for name, see := range map[string]func(*clocks, person){
				"a login beside the right time": (*clocks).logins, "a sale opens by both clocks": (*clocks).openings,
				"a hold ends by PostgreSQL's clock": (*clocks).holds,
			} {
				t.Run(name, func(t *testing.T) {
					defer c.in(t)()
					ann.s = c.system
					see(c, ann)
				})
			}
			c.auditIn(mode, 0)
		})
	}
}

// longOpen has a sale been open for an hour: a clock that is five minutes wrong does not close it.
func (c *clocks) longOpen(sale journey.Sale) { c.opens(sale, -time.Hour) }

// opens has a sale open so much beside the right time.
func (c *clocks) opens(sale journey.Sale, in time.Duration) {
	c.t.Helper()
	must(c.t, c.postgres.SQL(c.t.Context(), "inventory", fmt.Sprintf("UPDATE sale SET opens_at = '%s' WHERE id = '%s'", time.Now().Add(in).Format(time.RFC3339), sale.ID)))
}

// logins: a shopper who has logged in where the clock is ahead or behind is known everywhere.
func (c *clocks) logins(ann person) {
	for _, by := range []time.Duration{step, -step} {
		c.set(by, "account")
		who := ann
		c.until("a token is signed by the wrong clock", 5*time.Second, func() bool {
			r := ann.do("POST", "/api/v1/auth/login", map[string]string{"email": "ann@example.com", "password": password})
			who.token = fmt.Sprint(r.body["access_token"])
			var claims struct{ Iat int64 }
			parts := strings.Split(who.token, ".")
			b, err := base64.RawURLEncoding.DecodeString(parts[min(1, len(parts)-1)])
			return err == nil && json.Unmarshal(b, &claims) == nil && time.Until(time.Unix(claims.Iat, 0).Add(-by)).Abs() < time.Minute
		})
		if r := who.do("GET", "/api/v1/orders", nil); r.status != http.StatusOK {
			c.t.Errorf("logged in by a clock that is %s beside the others: %d %v", by, r.status, r.body)
		}
	}
	c.set(0, "account")
}

// asked repeats a request for a unit until it is answered like this; kind is empty for a reservation.
func (c *clocks) asked(who person, sale journey.Sale, key, kind string) (id string) {
	c.t.Helper()
	n := 0
	c.until("a request for "+key+" is answered "+kind, 10*time.Second, func() bool {
		n++
		r := who.do("POST", "/api/v1/reservations", wants(sale), "Idempotency-Key", fmt.Sprint(key, n), "Prefer", "wait=5")
		id = fmt.Sprint(r.body["id"])
		if kind == "" {
			return r.status == http.StatusCreated
		}
		return r.body["type"] == "/problems/"+kind
	})
	return id
}

// stays looks for a while whether something is so, again and again: it always has to be.
func (c *clocks) stays(what string, d time.Duration, so func() bool) {
	c.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < d; <-tick.C {
		if !so() {
			c.t.Errorf("after %s it is not so that %s", time.Since(began), what)
			return
		}
	}
}

// openings: a sale is open when the clocks of the reservation service and of PostgreSQL both say so: one that is ahead
// opens nothing early, one that is behind opens late.
func (c *clocks) openings(ann person) {
	sale := c.opened(30, time.Minute)
	c.opens(sale, 3*time.Minute)
	c.asked(ann, sale, "early", "sale-not-open")
	c.set(step, "reservation", "inventory")
	n := 0
	c.stays("a sale that is not open yet is not open by a service's clock", time.Second, func() bool { // while clock and terms get new, and then
		n++
		r := ann.do("POST", "/api/v1/reservations", wants(sale), "Idempotency-Key", fmt.Sprint("ahead", n), "Prefer", "wait=5")
		return r.body["type"] == "/problems/sale-not-open"
	})
	c.set(0, "reservation", "inventory")
	c.set(step, "postgres")
	c.asked(ann, sale, "ahead-pg", "sale-not-open")
	c.set(0, "postgres")
	c.opens(sale, -3*time.Minute)
	c.asked(ann, sale, "open", "")
	for _, name := range []string{"reservation", "postgres"} {
		c.set(-step, name)
		c.asked(ann, sale, "behind-"+name, "sale-not-open")
		c.set(0, name)
		c.asked(ann, sale, "right-"+name, "")
	}
}

// holds: by a clock that is ahead a hold ends early, and whoever pays then is told so and not charged, but what is paid
// stays paid; by one that is behind a hold ends late, and can be paid meanwhile; once it is right it ends within seconds.
func (c *clocks) holds(ann person) {
	sale, long := c.opened(20, 4*time.Second), c.opened(20, time.Minute)
	c.longOpen(sale)
	c.longOpen(long)
	state := func(id string) any { return ann.do("GET", "/api/v1/reservations/"+id, nil).body["state"] }
	is := func(id, want string) {
		c.t.Helper()
		c.until("the reservation is "+want, 15*time.Second, func() bool { return state(id) == want })
	}
	pay := func(id string) said {
		return ann.do("POST", "/api/v1/orders/"+id+"/payments", map[string]any{"method": "tok_ok"}, "Idempotency-Key", "pay-"+id, "Prefer", "wait=5")
	}
	paid, held := c.asked(ann, long, "paid", ""), c.asked(ann, long, "held", "")
	pay(paid)
	is(paid, "paid")
	c.set(step, "postgres")
	is(held, "expired")
	if r := pay(held); r.status != http.StatusGone && r.status != http.StatusAccepted {
		c.t.Errorf("paying for a hold that a wrong clock has ended: %d %v", r.status, r.body)
	}
	is(held, "expired")
	is(paid, "paid")
	c.set(0, "postgres")

	late, saved := c.asked(ann, sale, "late", ""), c.asked(ann, sale, "saved", "")
	c.set(-step, "postgres")
	c.stays("by a clock that is behind, holds of 4 s are held on", 6*time.Second, func() bool { return state(late) == "held" && state(saved) == "held" })
	pay(saved)
	is(saved, "paid")
	c.set(0, "postgres")
	is(late, "expired")
	is(saved, "paid")
	is(paid, "paid")
}

// TestClocksAreDocumented: docs/failure-model.md names every cell of TestClocks, and none that is not there.
func TestClocksAreDocumented(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../docs/failure-model.md")
	must(t, err)
	known := map[string]bool{}
	for _, c := range clockCells() {
		known[c.name] = true
		if !bytes.Contains(b, []byte("`"+c.name+"`")) {
			t.Errorf("the cell %q is not in the document", c.name)
		}
	}
	for _, m := range regexp.MustCompile("`(the clocks? of [^`]*)`").FindAllSubmatch(b, -1) {
		if !known[string(m[1])] {
			t.Errorf("the document names a cell %q", m[1])
		}
	}
}
