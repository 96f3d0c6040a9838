//go:build faults

package faults

import (
	"context"
	"flashsale/bench/journey"
	"flashsale/bench/testbed"
	"flashsale/nginx"
	"flashsale/testenv"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
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

// hangFor is how long what is stopped, cut or slow stays so: FAULTS_HANG, or 30 s, or 3 s with -short.
func hangFor(t *testing.T) time.Duration {
	t.Helper()
	if text := os.Getenv("FAULTS_HANG"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			t.Fatalf("FAULTS_HANG=%q is no duration such as 3s", text)
		}
		return d
	}
	if testing.Short() {
		return 3 * time.Second
	}
	return 30 * time.Second
}

// seeds is how often each cell runs, each time with another crowd and another moment: FAULTS_SEEDS, or once.
func seeds(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("FAULTS_SEEDS")
	if text == "" {
		return 1
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		t.Fatalf("FAULTS_SEEDS=%q is no number from 1 on", text)
	}
	return n
}

// back is the bound of availability: how long after the end of a fault a shopper may wait for the first decision.
const back = 30 * time.Second

// site is one installation with every server and every service in a process of its own, nginx in front.
type site struct {
	*system
	mode     string
	dir      string
	postgres *testbed.Postgres
	rabbit   *testbed.RabbitMQ
	shards   []*shard
	services map[string]*process
	nginx    *testbed.Process
	port     int                 // nginx's
	links    map[string]*wires   // none: everything is connected directly
	pause    time.Duration       // how long a fault lasts that does not end by itself
	to       map[string][]string // where nginx finds each service
	twins    []*process          // second instances
	customer *customer           // who is told by webhooks; nil: nobody
	twice    *repeater           // between the services; nil: nothing is
}

// hang waits for as long as a fault lasts.
func (s *site) hang() {
	select {
	case <-s.t.Context().Done():
	case <-time.After(s.pause):
	}
}

// shard is a Redis that keeps nothing but what it is told to save.
type shard struct {
	*testbed.Process
	dir  string
	port int
}

func (h *shard) start(t *testing.T) {
	t.Helper()
	var err error
	h.Process, err = testbed.Spawn(context.WithoutCancel(t.Context()), h.dir, "redis", syscall.SIGTERM, testbed.BaseEnv(), nil, "redis-server",
		"--port", strconv.Itoa(h.port), "--bind", "127.0.0.1", "--dir", h.dir, "--save", "", "--appendonly", "no")
	must(t, err)
	must(t, h.Ready(t.Context(), 15*time.Second, testbed.Dials(h.port)))
}

func (h *shard) say(t *testing.T, args ...string) {
	t.Helper()
	_, _, err := testbed.Output(t.Context(), testbed.BaseEnv(), nil, "redis-cli", append([]string{"-p", strconv.Itoa(h.port)}, args...)...)
	must(t, err)
}

func roles() []string {
	return []string{"reservation", "inventory", "order", "payment", "catalog", "account", "notification"}
}

// newSite starts everything, each part connected directly to the others. Settings are NAME=value, instead of the suite's.
func newSite(t *testing.T, mode string, settings ...string) *site {
	t.Helper()
	return startSite(t, mode, func(_ *site, _ string, port int) int { return port }, settings...)
}

// newWiredSite has the connections to the servers, and nginx's to the services, go through proxies.
func newWiredSite(t *testing.T, mode string) *site {
	t.Helper()
	return startSite(t, mode, func(s *site, link string, port int) int {
		if s.links[link] == nil {
			s.links[link] = &wires{}
		}
		return s.links[link].wire(t, fmt.Sprintf("127.0.0.1:%d", port))
	})
}

// startSite starts everything; by says at which port a part is found at the other end of a link.
func startSite(t *testing.T, mode string, by func(s *site, link string, port int) int, settings ...string) *site {
	t.Helper()
	s := &site{mode: mode, dir: t.TempDir(), services: map[string]*process{}, port: testenv.FreePort(t), links: map[string]*wires{}, pause: hangFor(t), to: map[string][]string{}}
	must(t, os.Chmod(s.dir, 0o755)) // nginx's workers and PostgreSQL are other users
	for parent := filepath.Dir(s.dir); parent != os.TempDir() && parent != "/"; parent = filepath.Dir(parent) {
		must(t, os.Chmod(parent, 0o755))
	}
	var err error
	s.postgres, err = testbed.StartPostgres(t.Context(), s.dir)
	must(t, err)
	t.Cleanup(func() { s.postgres.Stop(syscall.SIGINT) })
	var databaseURLs, shardURLs []string
	postgres := by(s, "PostgreSQL", s.postgres.Port)
	for _, name := range databases() {
		must(t, s.postgres.SQL(t.Context(), "postgres", "CREATE DATABASE "+name))
		databaseURLs = append(databaseURLs, name+"="+strings.Replace(s.postgres.URL(name), fmt.Sprint(s.postgres.Port), fmt.Sprint(postgres), 1))
	}
	for n := range 2 {
		h := &shard{dir: filepath.Join(s.dir, "redis"+strconv.Itoa(n)), port: testenv.FreePort(t)}
		must(t, os.Mkdir(h.dir, 0o755))
		h.start(t)
		t.Cleanup(func() { h.Stop(syscall.SIGTERM) })
		s.shards, shardURLs = append(s.shards, h), append(shardURLs, fmt.Sprintf("redis://127.0.0.1:%d/0", by(s, "Redis", h.port)))
	}
	amqpURL := ""
	if mode == "async" {
		s.rabbit = testenv.Broker(t)
		u, err := url.Parse(s.rabbit.URL())
		must(t, err)
		port, err := strconv.Atoi(u.Port())
		must(t, err)
		u.Host = fmt.Sprintf("127.0.0.1:%d", by(s, "RabbitMQ", port))
		amqpURL = u.String()
	}
	s.system = systemOn(t, databaseURLs, shardURLs, amqpURL)
	s.env = append(s.env, settings...)                                        // the last one counts
	s.books, s.orders = s.postgres.URL("inventory"), s.postgres.URL("orders") // the tests look directly
	for _, role := range roles() {
		s.services[role] = s.process(mode, role)
	}
	for _, role := range roles() {
		s.services[role].args = append(s.services[role].args, s.peers(role))
		_, port, err := net.SplitHostPort(strings.TrimPrefix(s.services[role].url, "http://"))
		must(t, err)
		n, err := strconv.Atoi(port)
		must(t, err)
		s.to[role] = []string{fmt.Sprintf("127.0.0.1:%d", by(s, "the services", n))}
	}
	s.to["console"] = s.to["catalog"]
	s.startServices()
	s.writeNginx()
	s.startNginx()
	t.Cleanup(func() { s.nginx.Stop(syscall.SIGTERM) })
	return s
}

// peers is the setting that says where a service's others are.
func (s *site) peers(role string) string {
	var all []string
	for _, other := range roles() {
		if other != role {
			all = append(all, other+"=http://"+s.services[other].internal)
		}
	}
	return "--peers=" + strings.Join(all, ",")
}

// writeNginx writes nginx's configuration for the instances that there are.
func (s *site) writeNginx() {
	s.t.Helper()
	conf := filepath.Join(s.dir, "nginx")
	must(s.t, os.RemoveAll(conf))
	must(s.t, os.Mkdir(conf, 0o755))
	must(s.t, nginx.Write(conf, nginx.Site{Listen: fmt.Sprintf("127.0.0.1:%d", s.port), Instances: s.to, Files: map[string]string{"log.conf": "access_log off;\n"}}))
}

// startServices starts all services: each asks others before it is ready.
func (s *site) startServices() {
	for _, role := range roles() {
		s.services[role].launch()
	}
	for _, role := range roles() {
		s.services[role].ready()
	}
}

func (s *site) startNginx() {
	var err error
	conf := filepath.Join(s.dir, "nginx")
	s.nginx, err = testbed.StartNginx(context.WithoutCancel(s.t.Context()), s.dir, "nginx", conf+"/", filepath.Join(conf, s.mode+".conf"), s.port)
	must(s.t, err)
}

// fault is what happens in the middle of a sale. It ends when what was broken works again as far as anybody but the
// system itself can mend it.
type fault struct {
	name    string
	short   bool                 // in the cut that CI runs
	hangs   bool                 // lasts for as long as hangFor says
	breaks  bool                 // shoppers' connections fail
	calm    bool                 // nobody is told to repeat anything, but who has the same key under way
	crowd   func(*load)          // what is different about its crowd
	prepare func(s *site) func() // before the crowd comes; what it returns undoes it
	strike  func(s *site)
}

// faults are what happens to servers and services.
func faults(mode string) []fault {
	all := []fault{{name: "no fault", short: true, calm: true, strike: func(*site) {}}}
	for _, role := range roles() {
		all = append(all,
			fault{name: "kill -9 " + role, strike: func(s *site) {
				s.services[role].end(syscall.SIGKILL)
				s.services[role].start()
			}},
			fault{name: "stop " + role, hangs: true, short: role == "inventory", strike: func(s *site) {
				p := s.services[role].cmd.Process
				must(s.t, p.Signal(syscall.SIGSTOP))
				s.hang()
				must(s.t, p.Signal(syscall.SIGCONT))
			}})
	}
	all = append(all,
		fault{name: "kill -9 all services", short: true, strike: func(s *site) {
			for _, role := range roles() {
				s.services[role].end(syscall.SIGKILL)
			}
			s.startServices()
		}},
		fault{name: "kill -9 both instances of reservation and inventory", prepare: twins("reservation", "inventory"), strike: func(s *site) {
			for _, p := range s.twins {
				p.end(syscall.SIGKILL)
			}
			for _, role := range []string{"reservation", "inventory"} {
				s.services[role].end(syscall.SIGKILL)
			}
			for _, p := range append([]*process{s.services["reservation"], s.services["inventory"]}, s.twins...) {
				p.launch()
			}
			for _, p := range append([]*process{s.services["reservation"], s.services["inventory"]}, s.twins...) {
				p.ready()
			}
		}},
		fault{name: "rolling restart", strike: func(s *site) {
			for _, role := range roles() {
				s.services[role].end(syscall.SIGTERM)
				s.services[role].start()
			}
		}},
		fault{name: "the provider answers late", hangs: true, strike: func(s *site) {
			s.restart("payment", "--payment-latency=900ms") // the patience of payment is 400 ms
			s.hang()
			s.restart("payment", "--payment-latency=10ms")
		}},
		fault{name: "kill -9 a Redis shard", strike: func(s *site) {
			s.shards[0].Stop(syscall.SIGKILL)
			s.shards[0].start(s.t)
		}},
		fault{name: "FLUSHALL on a Redis shard", short: true, strike: func(s *site) { s.shards[1].say(s.t, "FLUSHALL") }},
		fault{name: "a Redis shard restarts from a stale snapshot", hangs: true, short: true, strike: func(s *site) {
			s.shards[1].say(s.t, "SAVE")
			s.hang()
			s.shards[1].Stop(syscall.SIGKILL)
			s.shards[1].start(s.t)
			must(s.t, os.Remove(filepath.Join(s.shards[1].dir, "dump.rdb")))
		}},
		fault{name: "stop a Redis shard", hangs: true, strike: func(s *site) {
			must(s.t, s.shards[0].Pause())
			s.hang()
			must(s.t, s.shards[0].Resume())
		}},
		fault{name: "kill -9 PostgreSQL", short: true, strike: func(s *site) {
			s.everyPostgres(syscall.SIGKILL)
			s.postgres.Wait()
			s.until("the old processes are gone", 20*time.Second, func() bool { return s.postgres.Start(s.t.Context()) == nil })
		}},
		fault{name: "stop PostgreSQL", hangs: true, strike: func(s *site) {
			s.everyPostgres(syscall.SIGSTOP)
			s.hang()
			s.everyPostgres(syscall.SIGCONT)
		}},
		fault{name: "kill -9 nginx", breaks: true, strike: func(s *site) {
			s.nginx.Stop(syscall.SIGKILL)
			s.startNginx()
		}},
		fault{name: "stop nginx", hangs: true, breaks: true, strike: func(s *site) {
			must(s.t, s.nginx.Pause())
			s.hang()
			must(s.t, s.nginx.Resume())
		}},
	)
	if mode == "async" {
		all = append(all,
			fault{name: "kill -9 RabbitMQ", short: true, strike: func(s *site) {
				s.rabbit.Kill()
				must(s.t, s.rabbit.Start(s.t.Context()))
			}},
			fault{name: "stop RabbitMQ", hangs: true, strike: func(s *site) {
				must(s.t, s.rabbit.Pause())
				s.hang()
				must(s.t, s.rabbit.Resume())
			}},
			fault{name: "an alarm of RabbitMQ", hangs: true, strike: func(s *site) {
				must(s.t, s.rabbit.Ctl(s.t.Context(), "set_vm_memory_high_watermark", "0.000001"))
				s.hang()
				must(s.t, s.rabbit.Ctl(s.t.Context(), "set_vm_memory_high_watermark", "0.6"))
			}},
			fault{name: "switch to the synchronous wiring and back", strike: func(s *site) {
				for _, wiring := range []string{"sync", "async"} {
					for _, role := range roles() {
						s.restart(role, "--mode="+wiring)
					}
				}
			}})
	}
	return all
}

// restart has a service stop, and start with settings.
func (s *site) restart(role string, settings ...string) {
	s.t.Helper()
	p := s.services[role]
	p.end(syscall.SIGTERM)
	p.args = append(p.args, settings...) // the last one counts
	p.start()
}

// twins starts second instances of some services, and puts both of each behind nginx.
func twins(of ...string) func(s *site) func() {
	return func(s *site) func() {
		single := map[string][]string{}
		for _, role := range of {
			p := s.process(s.mode, role)
			p.args = append(p.args, s.peers(role))
			s.twins = append(s.twins, p.start())
			single[role] = s.to[role]
			s.to[role] = append(slices.Clone(s.to[role]), strings.TrimPrefix(p.url, "http://"))
		}
		s.nginx.Stop(syscall.SIGTERM)
		s.writeNginx()
		s.startNginx()
		s.client.CloseIdleConnections()
		return func() {
			for _, p := range s.twins {
				if p.cmd != nil { // the fault did not get so far
					p.end(syscall.SIGTERM)
				}
			}
			s.twins = nil
			maps.Copy(s.to, single)
			s.nginx.Stop(syscall.SIGTERM)
			s.writeNginx()
			s.startNginx()
		}
	}
}

// everyPostgres signals the server and its backends, which are in process groups of their own.
func (s *site) everyPostgres(sig syscall.Signal) {
	s.t.Helper()
	parent := s.postgres.PID()
	must(s.t, syscall.Kill(parent, syscall.SIGSTOP)) // it makes no more of them
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	must(s.t, err)
	for _, text := range strings.Fields(string(children)) {
		pid, err := strconv.Atoi(text)
		must(s.t, err)
		_ = syscall.Kill(pid, sig) // it may have ended
	}
	must(s.t, syscall.Kill(parent, sig))
}

// crowdSeed is another one for each cell: the same few would come first in all of them, and win.
func crowdSeed(seed uint64, mode, fault string) uint64 {
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, seed, mode, fault)
	return h.Sum64()
}

// TestMatrix: every server and every service is killed, and stopped for a while, and the connections between them are
// cut, slowed and left half open, and what they tell each other comes twice or not at all, in the middle of a sale, in both
// wirings. After each fault a shopper is served again
// within the bound; the crowd's log agrees with the ledger, and every 202 is decided; once everybody has paid or let go,
// the rest is bought and every unit is sold exactly once; the books agree.
func TestMatrix(t *testing.T) {
	for _, mode := range []string{"sync", "async"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			t.Run("servers", func(t *testing.T) { cells(t, mode, faults(mode), false) })
			t.Run("messages", func(t *testing.T) { cells(t, mode, messageFaults(mode), false) })
			t.Run("network", func(t *testing.T) { cells(t, mode, networkFaults(mode), true) })
		})
	}
}

// cells runs some faults on one site, one after the other.
func cells(t *testing.T, mode string, all []fault, wired bool) {
	t.Helper()
	if testing.Short() {
		all = slices.DeleteFunc(all, func(f fault) bool { return !f.short })
	}
	if len(all) == 0 {
		return
	}
	var s *site
	if wired {
		s = newWiredSite(t, mode)
	} else {
		s = newSite(t, mode)
	}
	base := fmt.Sprintf("http://127.0.0.1:%d", s.port)
	ann, probe := s.sale(base, 1000, 10*time.Second)
	probes, seen := 0, map[string]int{}
	for seed := uint64(1); seed <= seeds(t); seed++ {
		for _, f := range all {
			name := f.name
			if seed > 1 {
				name = fmt.Sprintf("%s, seed %d", f.name, seed)
			}
			t.Run(name, func(t *testing.T) {
				outer := s.t
				s.t, s.wrong = t, nil
				defer func() { s.t = outer }()
				began := time.Now()
				v := row{wiring: mode, fault: f.name, seed: seed, struck: 10}
				defer func() {
					v.ok, v.wrong, v.total = !t.Failed(), s.wrong, time.Since(began)
					results.add(v)
				}()
				if seed > 1 { // another moment
					v.struck = 5 + rand.New(rand.NewPCG(seed, uint64(len(f.name)))).IntN(60)
				}
				if f.prepare != nil {
					defer f.prepare(s)()
				}
				const stock = 30
				window := 4 * time.Second
				if f.hangs { // the sale goes on behind it
					window = s.pause + 2*time.Second
				}
				var special []func(*load)
				if f.crowd != nil {
					special = append(special, f.crowd)
				}
				run, c, sale, done := s.crowdFor(base, stock, demand(stock), window, crowdSeed(seed, mode, f.name), f.breaks, special...)
				s.at(run, demand(stock)*v.struck/100)
				f.strike(s)
				probes++
				v.back = s.decided(ann, probe, probes)
				s.settled(run, c, sale, done)
				v.sold, v.repeated = stock+run.added, list(run.trouble)
				for what, n := range run.counts {
					seen[what] += n
				}
				if delete(run.trouble, "409 in-flight"); f.calm && len(run.trouble) > 0 {
					s.blame("without a fault shoppers are told to repeat: %s", list(run.trouble))
				}
				if wanted := run.counts["units wanted"]; wanted < 20*stock {
					s.blame("only %d units were wanted, of %d", wanted, stock)
				}
				s.auditIn(mode, 0)
			})
		}
	}
	for _, what := range []string{"cancel cancelled", "pay captured", "pay declined", "refund refunded", "reserve held", "keys sent twice", "payments sent twice", "units of the rest"} {
		if mode == "async" && what == "cancel cancelled" {
			what = "cancel accepted"
		}
		if seen[what] == 0 && probes >= 5 { // of a few winners nobody may
			t.Errorf("the load was not what it should be: no %q among %s", what, list(seen))
		}
	}
}

// decided waits until somebody who asks for a unit gets it, and returns how long that took.
func (s *site) decided(ann person, probe journey.Sale, n int) time.Duration {
	s.t.Helper()
	began := time.Now()
	ann.s = s.system
	s.until("a shopper is served again", back, func() bool {
		r := ann.do("POST", "/api/v1/reservations", wants(probe), "Idempotency-Key", fmt.Sprint("probe-", n), "Prefer", "wait=5")
		return r.status == http.StatusCreated
	})
	return time.Since(began)
}

// TestCellsAreDocumented: docs/failure-model.md names every cell, and none that is not there.
func TestCellsAreDocumented(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../docs/failure-model.md")
	must(t, err)
	cells := map[string]bool{}
	for _, f := range slices.Concat(faults("async"), networkFaults("async"), messageFaults("async"), messageFaults("sync")) {
		cells[f.name] = true
		if !strings.Contains(string(b), "`"+f.name+"`") {
			t.Errorf("the cell %q is not in the document", f.name)
		}
	}
	for _, n := range overloads() {
		cells[overloadName(n)] = true
		if !strings.Contains(string(b), "`"+overloadName(n)+"`") {
			t.Errorf("the cell %q is not in the document", overloadName(n))
		}
	}
	for _, c := range clockCells() { // TestClocksAreDocumented wants them
		cells[c.name] = true
	}
	for _, m := range regexp.MustCompile("`((?:[0-9]+ times|kill -9|stop|FLUSHALL|a|rolling|no|the|an|switch|cut|200 ms|half-open|messages|calls|webhooks|order|inventory) [^`]*)`").FindAllStringSubmatch(string(b), -1) {
		if !cells[m[1]] {
			t.Errorf("the document names a cell %q", m[1])
		}
	}
}
