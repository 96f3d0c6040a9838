// Package lab is what the benchmarks share: private servers, shops on them, load, CPU time, and the
// report of figures against their baselines.
package lab

import (
	"context"
	_ "embed"
	"errors"
	"flashsale/account"
	"flashsale/account/token"
	"flashsale/id"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/jackc/pgx/v5"
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
	Bin  string // of PostgreSQL
	cred *syscall.Credential
	Say  *progress

	postgres *process
	PgPort   int
	Redis    []*process
	RedisURL []string
	nginx    *process
	echo     *process
	EchoPort int
	rabbit   *process
	AMQPURL  string
	apiURL   string // of RabbitMQ's management API
	// nginx's ports in front of the service and of the echo, and where the service must listen.
	FrontPort, EchoFrontPort, ServicePort int

	secret   string
	Password string
	worlds   []*World
	stops    []func()
	versions []string
	rounds   int
}

// need is a program and the Debian package that it is in.
type need struct {
	find func() (string, error)
	pkg  string
}

func onPath(name string) func() (string, error) {
	return func() (string, error) { return exec.LookPath(name) }
}

// Plan says what a benchmark runs on, beside PostgreSQL, Redis and wrk.
type Plan struct {
	Shards int  // Redis servers
	Front  bool // nginx, the echo, redis-benchmark
	Rabbit bool
}

func (p Plan) needs() []need {
	all := []need{{pgBin, "postgresql"}, {onPath("redis-server"), "redis-server"}, {onPath("wrk"), "wrk"}}
	if p.Front {
		all = append(all, need{onPath("redis-benchmark"), "redis-tools"}, need{nginxBin, "nginx-light"})
	}
	if p.Rabbit {
		all = append(all, need{rabbitBin, "rabbitmq-server"})
	}
	return all
}

// require installs what is missing, as root on Debian and when allowed, or says what to do.
func (p Plan) require(ctx context.Context, install bool, say *progress) error {
	var missing []string
	for _, n := range p.needs() {
		if _, err := n.find(); err != nil {
			missing = append(missing, n.pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	_, noApt := exec.LookPath("apt-get")
	if !install || os.Geteuid() != 0 || noApt != nil {
		return fmt.Errorf("these are missing (Debian's names): %s; install them, or run as root on Debian with --install", strings.Join(missing, ", "))
	}
	// Packages must not start services of their own.
	const policy = "/usr/sbin/policy-rc.d"
	if _, err := os.Stat(policy); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err == nil {
			defer func() { _ = os.Remove(policy) }()
		}
	}
	say.Line("installing %s", strings.Join(missing, " "))
	env := append(BaseEnv(), "DEBIAN_FRONTEND=noninteractive")
	if _, _, err := Output(ctx, env, nil, "apt-get", "update", "-qq"); err != nil {
		return err
	}
	if _, _, err := Output(ctx, env, nil, "apt-get", append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...)...); err != nil {
		return err
	}
	for _, n := range p.needs() {
		if _, err := n.find(); err != nil {
			return fmt.Errorf("%s was installed, and what it is for is still missing: %w", n.pkg, err)
		}
	}
	return nil
}

// pgBin returns the folder of the newest PostgreSQL of version 15 or more.
func pgBin() (string, error) {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	version := func(d string) int { n, _ := strconv.Atoi(filepath.Base(filepath.Dir(d))); return n }
	slices.SortFunc(dirs, func(a, b string) int { return version(b) - version(a) })
	for _, d := range dirs {
		_, err := os.Stat(filepath.Join(d, "pgbench"))
		if _, err2 := os.Stat(filepath.Join(d, "initdb")); err == nil && err2 == nil && version(d) >= 15 {
			return d, nil
		}
	}
	p, err := exec.LookPath("initdb")
	if err != nil {
		return "", err
	}
	if _, err := exec.LookPath("pgbench"); err != nil {
		return "", err
	}
	return filepath.Dir(p), nil
}

func nginxBin() (string, error) {
	if p, err := exec.LookPath("nginx"); err == nil {
		return p, nil
	}
	const debian = "/usr/sbin/nginx" // not on every user's path
	_, err := os.Stat(debian)
	return debian, err
}

// newLab starts the servers. close must be called, after an error too.
func newLab(ctx context.Context, root, dir string, plan Plan, say *progress) (*Lab, error) {
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
	for _, pkg := range programs {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, filepath.Base(pkg)), pkg)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			return l, fmt.Errorf("go build %s: %w\n%s", pkg, err, Tail(string(out)))
		}
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

// pgSettings differ from PostgreSQL's defaults in room only: fsync, synchronous_commit,
// full_page_writes and wal_level are as installed.
func pgSettings() []string {
	return []string{"max_connections=800", "shared_buffers=512MB", "max_wal_size=4GB"}
}

func (l *Lab) startPostgres(ctx context.Context) error {
	var err error
	if l.Bin, err = pgBin(); err != nil {
		return err
	}
	home := filepath.Join(l.Dir, "postgres")
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	if os.Geteuid() == 0 { // PostgreSQL refuses to run as root
		u, err := user.Lookup("postgres")
		if err != nil {
			return fmt.Errorf("PostgreSQL does not run as root, and there is no user postgres: %w", err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		l.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(home, uid, gid); err != nil {
			return err
		}
	}
	data := filepath.Join(home, "data")
	if _, _, err := Output(ctx, BaseEnv(), l.cred, filepath.Join(l.Bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"); err != nil {
		return err
	}
	if l.PgPort, err = FreePort(ctx); err != nil {
		return err
	}
	args := []string{"-D", data, "-p", strconv.Itoa(l.PgPort), "-k", home, "-c", "listen_addresses=127.0.0.1"}
	for _, s := range pgSettings() {
		args = append(args, "-c", s)
	}
	l.postgres, err = spawn(ctx, l.Dir, "postgres", syscall.SIGINT, BaseEnv(), l.cred, filepath.Join(l.Bin, "postgres"), args...)
	if err != nil {
		return err
	}
	l.stops = append(l.stops, func() { l.postgres.stop(syscall.SIGINT) })
	return l.postgres.ready(ctx, time.Minute, func(ctx context.Context) error { return l.SQL(ctx, "postgres", "SELECT 1") })
}

// DatabaseURL is the URL of a database of this lab's PostgreSQL.
func (l *Lab) DatabaseURL(name string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", l.PgPort, name)
}

// SQL runs statements on a database, on a connection of their own.
func (l *Lab) SQL(ctx context.Context, database string, statements ...string) error {
	c, err := pgx.Connect(ctx, l.DatabaseURL(database))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	for _, s := range statements {
		if _, err := c.Exec(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// StartRedis adds a server that keeps nothing on disk, and returns its place.
func (l *Lab) StartRedis(ctx context.Context) (int, error) {
	port, err := FreePort(ctx)
	if err != nil {
		return 0, err
	}
	n := len(l.Redis)
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return 0, err
	}
	p, err := spawn(ctx, l.Dir, fmt.Sprintf("redis%d", n), syscall.SIGTERM, BaseEnv(), nil, bin,
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", l.Dir, "--save", "", "--appendonly", "no")
	if err != nil {
		return 0, err
	}
	l.stops = append(l.stops, func() { p.stop(syscall.SIGKILL) })
	l.Redis, l.RedisURL = append(l.Redis, p), append(l.RedisURL, fmt.Sprintf("redis://127.0.0.1:%d/0", port))
	return n, p.ready(ctx, 15*time.Second, dials(port))
}

func (l *Lab) startEcho(ctx context.Context) error {
	var err error
	if l.EchoPort, err = FreePort(ctx); err != nil {
		return err
	}
	l.echo, err = spawn(ctx, l.Dir, "echo-server", syscall.SIGTERM, BaseEnv(), nil, filepath.Join(l.Dir, "echo"), "-listen", "127.0.0.1:"+strconv.Itoa(l.EchoPort))
	if err != nil {
		return err
	}
	l.stops = append(l.stops, func() { l.echo.stop(syscall.SIGKILL) })
	return l.echo.ready(ctx, 15*time.Second, dials(l.EchoPort))
}

func (l *Lab) startNginx(ctx context.Context) error {
	for _, p := range []*int{&l.ServicePort, &l.FrontPort, &l.EchoFrontPort} {
		var err error
		if *p, err = FreePort(ctx); err != nil {
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
	bin, err := nginxBin()
	if err != nil {
		return err
	}
	l.nginx, err = spawn(ctx, l.Dir, "nginx", syscall.SIGTERM, BaseEnv(), nil, bin, "-p", l.Dir, "-e", filepath.Join(l.Dir, "nginx.error.log"), "-c", conf, "-g", "daemon off;")
	if err != nil {
		return err
	}
	l.stops = append(l.stops, func() { l.nginx.stop(syscall.SIGTERM) })
	return l.nginx.ready(ctx, 15*time.Second, dials(l.FrontPort))
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
	commands := [][]string{{filepath.Join(l.Bin, "postgres"), "--version"}, {"redis-server", "--version"}, {"wrk", "-v"}, {"go", "version"}}
	if plan.Front {
		nginx, err := nginxBin()
		if err != nil {
			return err
		}
		commands = append(commands, []string{nginx, "-v"})
	}
	for _, args := range commands {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		out, err := cmd.CombinedOutput() // nginx writes to its error output, and wrk ends with status 1
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		if first == "" {
			return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
		}
		l.versions = append(l.versions, first)
	}
	return nil
}

var client = &http.Client{Timeout: 30 * time.Second}
