// Package lab is what the benchmarks against baselines share: shops on the servers of a testbed, load by wrk, and the
// report of figures.
package lab

import (
	"context"
	_ "embed"
	"errors"
	"flashsale/account"
	"flashsale/account/token"
	"flashsale/bench/testbed"
	"flashsale/id"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

//go:embed nginx.conf
var nginxConf string

//go:embed reserve.lua
var reserveLua string

// Lab is everything that the benchmark runs on: servers of its own on 127.0.0.1, on free ports, in
// a temporary folder.
type Lab struct {
	Root string // of the checkout
	Dir  string
	Say  *testbed.Progress

	Postgres *testbed.Postgres
	Redis    []*testbed.Process
	RedisURL []string
	Rabbit   *testbed.RabbitMQ
	nginx    *testbed.Process
	echo     *testbed.Process
	EchoPort int
	// nginx's ports in front of the service and of the echo, and where the service must listen.
	FrontPort, EchoFrontPort, ServicePort int

	secret   string
	Password string
	worlds   []*World
	stops    []func()
	versions []string
	rounds   int
}

// Plan says what a benchmark runs on, beside PostgreSQL, Redis and wrk.
type Plan struct {
	Shards int  // Redis servers
	Front  bool // nginx, the echo, redis-benchmark
	Rabbit bool
}

func (p Plan) needs() []testbed.Need {
	all := []testbed.Need{
		{Find: testbed.FindPostgres, Package: "postgresql"}, {Find: testbed.OnPath("redis-server"), Package: "redis-server"}, {Find: testbed.OnPath("wrk"), Package: "wrk"},
	}
	if p.Front {
		all = append(all, testbed.Need{Find: testbed.OnPath("redis-benchmark"), Package: "redis-tools"}, testbed.Need{Find: testbed.FindNginx, Package: "nginx-light"})
	}
	if p.Rabbit {
		all = append(all, testbed.Need{Find: testbed.FindRabbitMQ, Package: "rabbitmq-server"})
	}
	return all
}

// newLab starts the servers. close must be called, after an error too.
func newLab(ctx context.Context, root, dir string, plan Plan, say *testbed.Progress) (*Lab, error) {
	l := &Lab{Root: root, Dir: dir, Say: say}
	programs := []string{"./cmd/flashsale"}
	starts := []func(context.Context) error{l.startPostgres}
	for range plan.Shards {
		starts = append(starts, func(ctx context.Context) error {
			_, err := l.StartRedis(ctx)
			return err
		})
	}
	if plan.Front {
		programs = append(programs, "./bench/core/echo")
		starts = append(starts, l.startEcho, l.startNginx)
	}
	if plan.Rabbit {
		starts = append(starts, l.startRabbit)
	}
	say.Step("building %s", strings.Join(programs, " and "))
	if err := testbed.Compile(ctx, root, dir, programs...); err != nil {
		return l, err
	}
	l.secret, l.Password = id.New(time.Now()).String()+id.New(time.Now()).String(), id.New(time.Now()).String()
	say.Step("starting the servers")
	for _, start := range append(starts, l.writeTokens, func(ctx context.Context) error { return l.readVersions(ctx, plan) }) {
		if err := start(ctx); err != nil {
			return l, err
		}
	}
	return l, os.WriteFile(filepath.Join(dir, "reserve.lua"), []byte(reserveLua), 0o644)
}

// close stops everything, the last first.
func (l *Lab) close() {
	for _, w := range slices.Backward(l.worlds) {
		w.close()
	}
	for _, stop := range slices.Backward(l.stops) {
		stop()
	}
	l.stops, l.worlds = nil, nil
}

func (l *Lab) startPostgres(ctx context.Context) error {
	p, err := testbed.StartPostgres(ctx, l.Dir)
	if p != nil && p.Process != nil {
		l.stops = append(l.stops, func() { p.Stop(syscall.SIGINT) })
	}
	l.Postgres = p
	return err
}

// StartRedis adds a server that keeps nothing on disk, and returns its place.
func (l *Lab) StartRedis(ctx context.Context) (int, error) {
	n := len(l.Redis)
	p, port, err := testbed.StartRedis(ctx, l.Dir, fmt.Sprintf("redis%d", n))
	if p == nil {
		return 0, err
	}
	l.stops = append(l.stops, func() { p.Stop(syscall.SIGKILL) })
	l.Redis, l.RedisURL = append(l.Redis, p), append(l.RedisURL, fmt.Sprintf("redis://127.0.0.1:%d/0", port))
	return n, err
}

func (l *Lab) startRabbit(ctx context.Context) error {
	r, err := testbed.StartRabbitMQ(ctx, l.Dir)
	if err != nil {
		return err
	}
	l.stops = append(l.stops, r.Stop)
	l.Rabbit = r
	version, err := r.Version(ctx)
	l.versions = append(l.versions, version)
	return err
}

func (l *Lab) startEcho(ctx context.Context) error {
	p, port, err := testbed.StartEcho(ctx, l.Dir)
	if p != nil {
		l.stops = append(l.stops, func() { p.Stop(syscall.SIGKILL) })
	}
	l.echo, l.EchoPort = p, port
	return err
}

func (l *Lab) startNginx(ctx context.Context) error {
	for _, p := range []*int{&l.ServicePort, &l.FrontPort, &l.EchoFrontPort} {
		var err error
		if *p, err = testbed.FreePort(ctx); err != nil {
			return err
		}
	}
	type upstream struct {
		Name       string
		Listen, To int
	}
	conf := filepath.Join(l.Dir, "nginx.conf")
	f, err := os.Create(conf)
	if err != nil {
		return err
	}
	err = template.Must(template.New("nginx").Parse(nginxConf)).Execute(f, map[string]any{
		"Dir": l.Dir, "Upstreams": []upstream{{"service", l.FrontPort, l.ServicePort}, {"echo", l.EchoFrontPort, l.EchoPort}},
	})
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	l.nginx, err = testbed.StartNginx(ctx, l.Dir, "nginx", l.Dir, conf, l.FrontPort)
	if l.nginx != nil {
		l.stops = append(l.stops, func() { l.nginx.Stop(syscall.SIGTERM) })
	}
	return err
}

// How many shoppers there are, and wrk's threads: each thread has its own.
const (
	shoppers   = 120_000
	wrkThreads = 2
	tokenTTL   = 2 * time.Hour
)

// Signer makes access tokens with the secret that the service has: a hundred thousand logins would
// measure the password hash.
func (l *Lab) Signer() (*token.Tokens, error) {
	return token.New([]string{l.secret}, tokenTTL, time.Now)
}

// writeTokens writes the shoppers' tokens, a file a thread.
func (l *Lab) writeTokens(context.Context) error {
	t, err := l.Signer()
	if err != nil {
		return err
	}
	for n := range wrkThreads {
		var b strings.Builder
		for range shoppers / wrkThreads {
			s, _, err := t.Sign(id.New(time.Now()), account.Shopper)
			if err != nil {
				return err
			}
			b.WriteString(s)
			b.WriteByte('\n')
		}
		if err := os.WriteFile(filepath.Join(l.Dir, "tokens."+strconv.Itoa(n)), []byte(b.String()), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) readVersions(ctx context.Context, plan Plan) error {
	commands := [][]string{{filepath.Join(l.Postgres.Bin, "postgres"), "--version"}, {"redis-server", "--version"}, {"wrk", "-v"}, {"go", "version"}}
	if plan.Front {
		nginx, err := testbed.FindNginx()
		if err != nil {
			return err
		}
		commands = append(commands, []string{nginx, "-v"})
	}
	found, err := testbed.Versions(ctx, commands...)
	l.versions = append(l.versions, found...)
	return err
}

var client = &http.Client{Timeout: 30 * time.Second}
