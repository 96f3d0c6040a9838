//go:build faults

package faults

import (
	"context"
	"flashsale/bench/journey"
	"flashsale/bench/testbed"
	"flashsale/nginx"
	"flashsale/testenv"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hang is how long what is stopped stays stopped, with --short and without.
const (
	hangShort = 3 * time.Second
	hangLong  = 30 * time.Second
)

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
	port     int // nginx's
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

func newSite(t *testing.T, mode string) *site {
	t.Helper()
	s := &site{mode: mode, dir: t.TempDir(), services: map[string]*process{}, port: testenv.FreePort(t)}
	must(t, os.Chmod(s.dir, 0o755)) // nginx's workers and PostgreSQL are other users
	for parent := filepath.Dir(s.dir); parent != os.TempDir() && parent != "/"; parent = filepath.Dir(parent) {
		must(t, os.Chmod(parent, 0o755))
	}
	var err error
	s.postgres, err = testbed.StartPostgres(t.Context(), s.dir)
	must(t, err)
	t.Cleanup(func() { s.postgres.Stop(syscall.SIGINT) })
	var databaseURLs, shardURLs []string
	for _, name := range databases() {
		must(t, s.postgres.SQL(t.Context(), "postgres", "CREATE DATABASE "+name))
		databaseURLs = append(databaseURLs, name+"="+s.postgres.URL(name))
	}
	for n := range 2 {
		h := &shard{dir: filepath.Join(s.dir, "redis"+strconv.Itoa(n)), port: testenv.FreePort(t)}
		must(t, os.Mkdir(h.dir, 0o755))
		h.start(t)
		t.Cleanup(func() { h.Stop(syscall.SIGTERM) })
		s.shards, shardURLs = append(s.shards, h), append(shardURLs, fmt.Sprintf("redis://127.0.0.1:%d/0", h.port))
	}
	amqpURL := ""
	if mode == "async" {
		s.rabbit = testenv.Broker(t)
		amqpURL = s.rabbit.URL()
	}
	s.system = systemOn(t, databaseURLs, shardURLs, amqpURL)
	to := map[string][]string{}
	for _, role := range roles() {
		p := s.process(mode, role)
		s.services[role], to[role] = p, []string{strings.TrimPrefix(p.url, "http://")}
	}
	to["console"] = to["catalog"]
	for role, p := range s.services {
		var peers []string
		for other, q := range s.services {
			if other != role {
				peers = append(peers, other+"=http://"+q.internal)
			}
		}
		p.args = append(p.args, "--peers="+strings.Join(peers, ","))
	}
	s.startServices()
	conf := filepath.Join(s.dir, "nginx")
	must(t, os.Mkdir(conf, 0o755))
	must(t, nginx.Write(conf, nginx.Site{Listen: fmt.Sprintf("127.0.0.1:%d", s.port), Instances: to, Files: map[string]string{"log.conf": "access_log off;\n"}}))
	s.startNginx()
	t.Cleanup(func() { s.nginx.Stop(syscall.SIGTERM) })
	return s
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
	name   string
	long   bool // left out with --short
	strike func(s *site)
}

func faults(mode string) []fault {
	hang := hangLong
	if testing.Short() {
		hang = hangShort
	}
	wait := func(s *site) { // the fault itself lasts so long
		select {
		case <-s.t.Context().Done():
		case <-time.After(hang):
		}
	}
	var all []fault
	for _, role := range roles() {
		all = append(all,
			fault{name: "kill -9 " + role, strike: func(s *site) {
				s.services[role].end(syscall.SIGKILL)
				s.services[role].start()
			}},
			fault{name: "stop " + role, long: role == "account" || role == "catalog" || role == "notification", strike: func(s *site) {
				p := s.services[role].cmd.Process
				must(s.t, p.Signal(syscall.SIGSTOP))
				wait(s)
				must(s.t, p.Signal(syscall.SIGCONT))
			}})
	}
	all = append(all,
		fault{name: "kill -9 all services", strike: func(s *site) {
			for _, role := range roles() {
				s.services[role].end(syscall.SIGKILL)
			}
			s.startServices()
		}},
		fault{name: "rolling restart", long: true, strike: func(s *site) {
			for _, role := range roles() {
				s.services[role].end(syscall.SIGTERM)
				s.services[role].start()
			}
		}},
		fault{name: "kill -9 a Redis shard", strike: func(s *site) {
			s.shards[0].Stop(syscall.SIGKILL)
			s.shards[0].start(s.t)
		}},
		fault{name: "FLUSHALL on a Redis shard", strike: func(s *site) { s.shards[1].say(s.t, "FLUSHALL") }},
		fault{name: "a Redis shard restarts from a stale snapshot", strike: func(s *site) {
			s.shards[1].say(s.t, "SAVE")
			wait(s)
			s.shards[1].Stop(syscall.SIGKILL)
			s.shards[1].start(s.t)
			must(s.t, os.Remove(filepath.Join(s.shards[1].dir, "dump.rdb")))
		}},
		fault{name: "stop a Redis shard", strike: func(s *site) {
			must(s.t, s.shards[0].Pause())
			wait(s)
			must(s.t, s.shards[0].Resume())
		}},
		fault{name: "kill -9 PostgreSQL", strike: func(s *site) {
			s.everyPostgres(syscall.SIGKILL)
			s.postgres.Wait()
			s.until("the old processes are gone", 20*time.Second, func() bool { return s.postgres.Start(s.t.Context()) == nil })
		}},
		fault{name: "stop PostgreSQL", strike: func(s *site) {
			s.everyPostgres(syscall.SIGSTOP)
			wait(s)
			s.everyPostgres(syscall.SIGCONT)
		}},
		fault{name: "kill -9 nginx", strike: func(s *site) {
			s.nginx.Stop(syscall.SIGKILL)
			s.startNginx()
		}},
	)
	if mode == "async" {
		all = append(all,
			fault{name: "kill -9 RabbitMQ", strike: func(s *site) {
				s.rabbit.Kill()
				must(s.t, s.rabbit.Start(s.t.Context()))
			}},
			fault{name: "stop RabbitMQ", strike: func(s *site) {
				must(s.t, s.rabbit.Pause())
				wait(s)
				must(s.t, s.rabbit.Resume())
			}})
	}
	return all
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

// TestMatrix: every server and every service is killed, and stopped for a while, in the middle of a sale, in both wirings.
// After each fault a shopper is served again within the bound; nobody has lost what was acknowledged; every 202 is decided;
// once everybody has paid or let go, the rest is bought and every unit is sold exactly once; the books agree.
func TestMatrix(t *testing.T) {
	for _, mode := range []string{"sync", "async"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, mode)
			base := fmt.Sprintf("http://127.0.0.1:%d", s.port)
			ann, probe := s.sale(base, 1000, 10*time.Second)
			var report strings.Builder
			for n, f := range faults(mode) {
				if f.long && testing.Short() {
					continue
				}
				t.Run(f.name, func(t *testing.T) {
					outer := s.t
					s.t = t
					defer func() { s.t = outer }()
					const stock, shoppers = 30, 90
					run, c, sale, done := s.crowd(base, stock, shoppers)
					s.at(run, shoppers/10)
					f.strike(s)
					took := s.decided(ann, probe, n)
					s.settled(run, c, sale, done)
					s.auditIn(mode, 0)
					fmt.Fprintf(&report, "%-6s %-46s back after %6.2f s\n", mode, f.name, took.Seconds())
				})
			}
			t.Logf("\n%s", report.String())
		})
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
	for _, f := range faults("async") {
		cells[f.name] = true
		if f.long && strings.HasPrefix(f.name, "stop ") { // the others of their kind stand for it
			continue
		}
		if !strings.Contains(string(b), "`"+f.name+"`") {
			t.Errorf("the cell %q is not in the document", f.name)
		}
	}
	for _, m := range regexp.MustCompile("`((?:kill -9|stop|FLUSHALL|a Redis|rolling) [^`]*)`").FindAllStringSubmatch(string(b), -1) {
		if !cells[m[1]] {
			t.Errorf("the document names a cell %q", m[1])
		}
	}
}
