//go:build faults

package faults

import (
	"bytes"
	"errors"
	"flashsale/bench/journey"
	"flashsale/id"
	"flashsale/testenv"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// sabotaged builds, once, the program that fails between two steps when it is told to.
var sabotaged = sync.OnceValues(func() (string, error) {
	shipped, err := binary()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(shipped), "sabotaged")
	if out, err := exec.Command("go", "build", "-tags", "failpoints", "-o", path, "flashsale/cmd/flashsale").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
})

// phase is a moment between two steps, in which a service dies, or is stopped while others go on.
type phase struct {
	name string
	cuts []interruption
}

// interruption is how a phase is cut: a service dies, or stops, at a call of one of its ports.
type interruption struct {
	role string
	at   string // "gate.take:after"
	n    []int  // which call; a seed each
	// stop: the service is stopped there, and goes on when this is so. nil: it is killed there.
	stop func(s *site) bool
	// instead: meanwhile another process of the service does its work.
	instead bool
	// bring prepares what makes the call happen when a crowd by itself may not, and returns it: it is for a system of which
	// a part may be dead already.
	bring func(s *site) func()
}

// phases are cut one after the other in the middle of sales, those of a group in the middle of one.
func phases() []struct {
	group  string
	phases []phase
} {
	return []struct {
		group  string
		phases []phase
	}{
		{"who reserves", []phase{
			{"between take and commit", []interruption{
				{role: "reservation", at: "gate.take:after", n: []int{2, 7}, bring: left},
				{role: "inventory", at: "ledger.commit:before", n: []int{2, 1}, bring: left},
			}},
			{"between commit and reply", []interruption{
				{role: "reservation", at: "events.send:after", n: []int{3, 6}, bring: left},
				{role: "inventory", at: "ledger.commit:after", n: []int{1, 2}, bring: left},
			}},
			{"between commit and settle", []interruption{
				{role: "inventory", at: "gate.settle:before", n: []int{1, 2}, bring: left},
				{role: "inventory", at: "gate.settle:after", n: []int{2, 1}, bring: left},
			}},
			{"while a commit hangs, its take is given back", []interruption{
				{role: "inventory", at: "ledger.commit:before", n: []int{2}, instead: true, bring: left, stop: late()},
			}},
		}},
		{"who keeps the gate", []phase{
			{"between release and credit", []interruption{
				{role: "inventory", at: "ledger.expire:after", n: []int{1, 2}, bring: left},
				{role: "inventory", at: "gate.credit:before", n: []int{1, 3}, bring: left},
				{role: "inventory", at: "gate.credit:after", n: []int{1, 2}, bring: left},
			}},
			{"in a transfer", []interruption{
				{role: "inventory", at: "gate.transfer:after", n: []int{1}, bring: lopsided},
				{role: "inventory", at: "ledger.transfer:after", n: []int{1}, bring: lopsided},
			}},
			{"while the tail is drained", []interruption{
				{role: "inventory", at: "ledger.transfer:before", n: []int{1}, bring: last},
				{role: "inventory", at: "ledger.transfer:after", n: []int{1}, bring: last},
			}},
			{"between epoch and install", []interruption{
				{role: "inventory", at: "ledger.reopen:after", n: []int{1, 2}, bring: flushed},
				{role: "inventory", at: "gate.install:after", n: []int{1, 2}, bring: flushed},
			}},
			{"while an expiry is made, another makes it", []interruption{
				{role: "inventory", at: "ledger.expire:before", n: []int{1}, instead: true, bring: left, stop: noneLeft("state = 'held' AND expires_at < now()")},
			}},
		}},
		{"who pays", []phase{
			{"between capture and record", []interruption{
				{role: "payment", at: "provider.charge:after", n: []int{1, 4}, bring: bought},
				{role: "payment", at: "payments.advance:after", n: []int{3, 6}, bring: bought},
			}},
			{"between order and message", []interruption{
				{role: "notification", at: "events.handle:after", n: []int{2}, bring: bought},
				{role: "order", at: "orders.apply:after", n: []int{1, 3}, bring: bought},
			}},
			{"while a payment begins, its hold expires", []interruption{
				{role: "payment", at: "payments.begin:after", n: []int{1}, bring: bought, stop: more("state = 'expired'")},
			}},
			{"while a payment is charged, its hold ends", []interruption{
				{role: "payment", at: "provider.charge:before", n: []int{1}, bring: bought, stop: some("state = 'paying' AND expires_at < now()")},
			}},
		}},
	}
}

// everyPhase is all of them.
func everyPhase() (all []phase) {
	for _, g := range phases() {
		all = append(all, g.phases...)
	}
	return all
}

// some is so when there are reservations like this.
func some(like string) func(*site) bool {
	return func(s *site) bool { return s.count("SELECT count(*) FROM reservation WHERE "+like) > 0 }
}

// noneLeft is so when there are no such reservations any more.
func noneLeft(like string) func(*site) bool {
	return func(s *site) bool { return !some(like)(s) }
}

// more is so when there are more reservations like this than when it was asked first.
func more(like string) func(*site) bool {
	first := -1
	return func(s *site) bool {
		n := s.count("SELECT count(*) FROM reservation WHERE " + like)
		if first < 0 {
			first = n
		}
		return n > first
	}
}

// late is so when the takes that were pending when it was asked first are past their deadline, and have been seen to.
func late() func(*site) bool {
	var first time.Time
	return func(*site) bool {
		if first.IsZero() {
			first = time.Now()
		}
		return time.Since(first) > 4*time.Second // a take is pending for 2 s
	}
}

// opened opens a sale of which one shopper may have everything.
func (s *site) opened(stock int64, hold time.Duration) journey.Sale {
	s.t.Helper()
	sale, err := journey.OpenSale(s.t.Context(), journey.Crowd{
		Base: s.base(), Operator: operator, Password: password, Stock: stock, Units: 1, Limit: int(stock), Hold: hold, Client: s.client, Decide: time.Minute,
	})
	must(s.t, err)
	return sale
}

// somebody registers and logs in, however many others do.
func (s *site) somebody() person {
	s.t.Helper()
	p := person{s: s.system, base: s.base()}
	who := map[string]string{"email": id.New(time.Now()).String() + "@example.com", "password": password}
	s.until("somebody is registered and logged in", back, func() bool {
		p.do("POST", "/api/v1/auth/register", who) // again after an answer that was lost: there already
		p.token, _ = p.do("POST", "/api/v1/auth/login", who).body["access_token"].(string)
		return p.token != ""
	})
	return p
}

// asks opens a sale and returns requests of somebody for some of it, one after the other.
func (s *site) asks(stock int64, quantity, times int, hold time.Duration) func() {
	s.t.Helper()
	sale := s.opened(stock, hold)
	who := s.somebody()
	wants := map[string]any{"sale_id": sale.ID, "sku": sale.SKU, "quantity": quantity}
	return func() {
		for n := range times { // whoever is asked may die of it
			who.do("POST", "/api/v1/reservations", wants, "Idempotency-Key", fmt.Sprint("asks-", n))
		}
	}
}

func (s *site) base() string { return fmt.Sprintf("http://127.0.0.1:%d", s.port) }

// lopsided has one shopper take nearly all of one bucket of a sale, so that units are moved there from another.
func lopsided(s *site) func() { return s.asks(200, 96, 1, 4*time.Second) }

// left has units held and left to expire.
func left(s *site) func() { return s.asks(10, 1, 8, time.Second) }

// last has most of a small sale taken, so that the rest goes to one bucket.
func last(s *site) func() { return s.asks(24, 5, 2, 4*time.Second) }

// bought has units held and paid for.
func bought(s *site) func() {
	s.t.Helper()
	sale := s.opened(10, 4*time.Second)
	who := s.somebody()
	return func() {
		for n := range 4 { // whoever is asked may die of it
			r := who.do("POST", "/api/v1/reservations", wants(sale), "Idempotency-Key", fmt.Sprint("buys-", n), "Prefer", "wait=5")
			who.do("POST", fmt.Sprintf("/api/v1/orders/%v/payments", r.body["id"]), map[string]any{"method": "tok_ok"}, "Idempotency-Key", "pays")
		}
	}
}

// flushed has a shard lose its memory.
func flushed(s *site) func() { return func() { s.shards[1].say(s.t, "FLUSHALL") } }

// armed makes a service's process one that fails at a call. It is started in its place.
func (s *site) armed(p *process, spec string) (*process, *testenv.Text) {
	s.t.Helper()
	bin, err := sabotaged()
	must(s.t, err)
	said := &testenv.Text{}
	told := *s.system
	told.bin, told.env, told.stderr = bin, append(slices.Clip(s.env), "FLASHSALE_FAILPOINTS="+spec), io.MultiWriter(said, s.stderr)
	v := *p
	v.s, v.cmd = &told, nil
	return &v, said
}

// cutAt has a service die, or stop, at a call in mid-sale, and everything work again.
func (s *site) cutAt(c interruption, n int) {
	s.t.Helper()
	trigger := func() {}
	if c.bring != nil {
		trigger = c.bring(s)
	}
	spec := fmt.Sprintf("%s:%d", c.at, n)
	regular := s.services[c.role]
	if c.stop != nil {
		spec += ":stop"
	}
	began := time.Now()
	regular.end(syscall.SIGKILL)
	victim, said := s.armed(regular, spec)
	victim.launch()
	cmd := victim.cmd
	var ended error
	gone := make(chan struct{})
	go func() { ended = cmd.Wait(); close(gone) }()
	s.t.Cleanup(func() { // should this fail, the next phase begins all the same
		_ = cmd.Process.Kill()
		<-gone
		if regular.cmd == nil {
			regular.start()
		}
	})
	there := func() bool { return strings.Contains(said.String(), "failpoint "+spec+"\n") }
	s.until(c.role+" serves, or has come to "+spec, back, func() bool { return there() || serves(victim) })
	ready := time.Since(began)
	var asking sync.WaitGroup
	asking.Go(trigger)
	defer asking.Wait()
	s.until("it has come to "+spec, 40*time.Second, there)
	s.t.Logf("%s %s: ready after %s, there after %s", c.role, spec, ready, time.Since(began))
	if c.stop == nil {
		<-gone
		var exit *exec.ExitError
		if !errors.As(ended, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			s.t.Fatalf("%s at %s: %v; it should have killed itself", c.role, spec, ended)
		}
		regular.start()
		return
	}
	s.until("it is stopped", 5*time.Second, func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		return err == nil && bytes.Contains(b, []byte(") T "))
	})
	if c.instead {
		other := s.process(s.mode, c.role)
		other.args = append(other.args, regular.args[len(regular.args)-1]) // the peers
		other.start()
		defer other.end(syscall.SIGTERM)
	}
	s.until("the others went on past "+spec, 40*time.Second, func() bool { return c.stop(s) })
	must(s.t, cmd.Process.Signal(syscall.SIGCONT))
	s.until("what was stopped serves again", back, func() bool { return serves(victim) })
	must(s.t, cmd.Process.Signal(syscall.SIGTERM))
	if <-gone; ended != nil {
		s.t.Errorf("%s, stopped at %s: %v", c.role, spec, ended)
	}
	regular.start()
}

func serves(p *process) bool {
	resp, err := p.s.client.Get(p.url + "/readyz")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// kills kills services at random times.
func (s *site) kills(seed uint64, times int) {
	rng := rand.New(rand.NewPCG(seed, 9))
	all := roles()
	for range times {
		select {
		case <-s.t.Context().Done():
		case <-time.After(time.Duration(rng.IntN(700)) * time.Millisecond):
		}
		p := s.services[all[rng.IntN(len(all))]]
		s.t.Logf("kill -9 %s", p.name)
		p.end(syscall.SIGKILL)
		p.start()
	}
}

// TestPhases: in the middle of a sale a service dies between two steps that belong together, or hangs there while others
// go on, in both wirings; and services are killed at random times. What holds after TestMatrix's cells holds here.
func TestPhases(t *testing.T) {
	_, err := sabotaged() // before anything waits for it
	must(t, err)
	for at, mode := range []string{"sync", "async"} { // and they begin at different calls
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, mode)
			ann, probe := s.sale(s.base(), 1000, 10*time.Second)
			p := &phasing{site: s, ann: ann, probe: probe}
			for seed := uint64(1); seed <= seeds(t); seed++ {
				for _, g := range phases() {
					cuts := 0
					for _, ph := range g.phases {
						cuts += len(ph.cuts)
					}
					p.during(t, g.group, seed, cuts, cutTakes, func(cut func(fault, phase string, strike func())) {
						for _, ph := range g.phases {
							for _, c := range ph.cuts {
								n := c.n[(int(seed)-1+at)%len(c.n)]
								how := "kill -9 "
								if c.stop != nil {
									how = "stop "
								}
								cut(how+c.role, fmt.Sprintf("%s (%s:%d)", ph.name, c.at, n), func() { s.cutAt(c, n) })
							}
						}
					})
				}
				p.during(t, randomly, seed, 1, randomKills*cutTakes, func(cut func(fault, phase string, strike func())) {
					cut("kill -9 services", randomly, func() { s.kills(2*seed+uint64(at), randomKills) })
				})
			}
		})
	}
}

const (
	randomly    = "at random times"
	randomKills = 4
)

// phasing is a site in which phases are cut, and who asks whether it serves again.
type phasing struct {
	*site
	ann    person
	probe  journey.Sale
	probes int
}

// during has something cut, several times, in the middle of one sale, and holds afterwards what everybody was told against
// the books. A part of the crowd comes with each cut, within the time that it takes, more or less. Each cut is a row of the
// report; what that says of the books is what they are after all of them.
func (p *phasing) during(t *testing.T, name string, seed uint64, cuts int, takes time.Duration, strikes func(cut func(fault, phase string, strike func()))) {
	t.Helper()
	if seed > 1 {
		name = fmt.Sprintf("%s, seed %d", name, seed)
	}
	t.Run(name, func(t *testing.T) {
		outer := p.t
		p.t, p.wrong = t, nil
		defer func() { p.t = outer }()
		var rows []row
		var sold int64
		defer func() {
			for n, v := range rows {
				if v.ok, v.sold = !t.Failed(), sold; n == len(rows)-1 {
					v.wrong = p.wrong
				}
				results.add(v)
			}
		}()
		const stock = 40
		next := make(chan struct{}, cuts)
		run, c, sale, done := p.crowdFor(p.base(), stock, demand(stock), time.Duration(cuts)*takes, seed, false, func(l *load) { l.parts, l.next = cuts, next })
		told := map[string]int{}
		strikes(func(fault, phase string, strike func()) {
			if len(rows) > 0 {
				next <- struct{}{}
			}
			p.until("some of the next part are there", time.Minute, func() bool { return run.came() > demand(stock)*(4*len(rows)+1)/(4*cuts) })
			began := time.Now()
			rows = append(rows, row{wiring: p.mode, fault: fault, phase: phase, seed: seed, struck: int(run.done.Load()) * 100 / demand(stock)})
			v := &rows[len(rows)-1]
			strike()
			p.probes++
			v.back = p.decided(p.ann, p.probe, p.probes)
			v.total = time.Since(began)
			now := run.told()
			v.repeated = list(less(now, told))
			told = now
		})
		p.settled(run, c, sale, done)
		sold = stock + run.added
		p.auditIn(p.mode, 0)
	})
}

// cutTakes is how long a cut takes, more or less.
const cutTakes = 2 * time.Second

// less is what was counted since.
func less(now, before map[string]int) map[string]int {
	since := map[string]int{}
	for what, n := range now {
		if n > before[what] {
			since[what] = n - before[what]
		}
	}
	return since
}

// TestPhasesAreDocumented: docs/failure-model.md names every phase, and none that is not there.
func TestPhasesAreDocumented(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../docs/failure-model.md")
	must(t, err)
	known := map[string]bool{randomly: true}
	for _, p := range everyPhase() {
		known[p.name] = true
	}
	for name := range known {
		if !bytes.Contains(b, []byte("`"+name+"`")) {
			t.Errorf("the phase %q is not in the document", name)
		}
	}
	for _, m := range regexp.MustCompile("`((?:between|in a|while|at random) [^`]*)`").FindAllSubmatch(b, -1) {
		if !known[string(m[1])] {
			t.Errorf("the document names a phase %q", m[1])
		}
	}
}

// TestShippedCannotFail: the program that is shipped has none of the failpoints, by name or variable; the test build has
// all of them, and refuses what it does not know.
func TestShippedCannotFail(t *testing.T) {
	t.Parallel()
	shipped, err := binary()
	must(t, err)
	rigged, err := sabotaged()
	must(t, err)
	names := map[string]bool{"FLASHSALE_FAILPOINTS": true, "FLASHSALE_CLOCK": true, "main.failpoint": true, "main.failingGate": true, "main.failingLedger": true}
	for _, p := range everyPhase() {
		for _, c := range p.cuts {
			name, _, _ := strings.Cut(c.at, ":")
			names[name] = true
		}
	}
	for path, want := range map[string]bool{shipped: false, rigged: true} {
		b, err := os.ReadFile(path)
		must(t, err)
		for name := range names {
			if bytes.Contains(b, []byte(name)) != want {
				t.Errorf("%s: %q is in it: %v, want %v", filepath.Base(path), name, !want, want)
			}
		}
	}
	for _, spec := range []string{"gate.take", "gate.take:after", "gate.take:after:0", "gate.take:during:1", "gate.taken:after:1", "gate.take:after:1:run", "gate.take:after:1:sleep"} {
		cmd := exec.CommandContext(t.Context(), rigged, "serve", "--data", t.TempDir(), "--listen", "127.0.0.1:0")
		cmd.Env = append(os.Environ(), "FLASHSALE_FAILPOINTS="+spec)
		if out, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(out, []byte("FLASHSALE_FAILPOINTS")) {
			t.Errorf("with %s: %v\n%s", spec, err, out)
		}
	}
}
