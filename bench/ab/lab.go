package ab

import (
	"context"
	"encoding/json"
	"errors"
	"flashsale/audit"
	"flashsale/bench/testbed"
	"flashsale/id"
	"flashsale/nginx"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// lab is the topology of the compose files as processes of this machine: nginx in front of two instances of every
// service, each in a process of its own, on one PostgreSQL with a database per service, Redis shards, RabbitMQ and
// InfluxDB. Everything listens on 127.0.0.1, on free ports, below a temporary folder.
type lab struct {
	dir  string
	root string // of the checkout
	say  *testbed.Progress

	postgres      *testbed.Postgres
	rabbit        *testbed.RabbitMQ
	redisURL      []string // the gate's shards, then the catalogue's cache
	redis         []*redis.Client
	echoPort      int
	db            influx
	influxd       string // program
	influxVersion string
	secret        string // signs tokens and lets services call each other
	password      string // the operator's

	services []*testbed.Process
	nginx    *testbed.Process
	parts    *parts
	ports    testbed.Ports
	stops    []func()
	fresh    bool // no wiring has been started yet
}

const (
	instances  = 2
	gateShards = 3
	operator   = "operator@example.com"
)

// roles are the services in the order in which a reader of the report looks for them.
func roles() []string {
	return []string{"account", "catalog", "order", "payment", "reservation", "inventory", "notification", "console"}
}

func databaseNames() []string {
	return []string{"inventory", "orders", "payments", "catalog", "accounts", "notifications"}
}

func labNeeds() []testbed.Need {
	return []testbed.Need{
		{Find: testbed.FindPostgres, Package: "postgresql"},
		{Find: testbed.OnPath("redis-server"), Package: "redis-server"},
		{Find: testbed.FindNginx, Package: "nginx-light"},
		{Find: testbed.FindRabbitMQ, Package: "rabbitmq-server"},
	}
}

// newLab starts the servers and migrates the databases. close must be called, after an error too.
func newLab(ctx context.Context, root, dir string, s Settings, p *parts, say *testbed.Progress) (*lab, error) {
	l := &lab{
		dir: dir, root: root, say: say, parts: p, fresh: true,
		secret: id.New(time.Now()).String() + id.New(time.Now()).String(), password: id.New(time.Now()).String(),
	}
	say.Step("building flashsale and the echo")
	if err := testbed.Compile(ctx, root, dir, "./cmd/flashsale", "./bench/core/echo"); err != nil {
		return l, err
	}
	var err error
	if l.influxd, l.influxVersion, err = findInflux(ctx, s.Influxd, say); err != nil {
		return l, err
	}
	say.Step("starting PostgreSQL, %d Redis, RabbitMQ, InfluxDB and the echo", gateShards+1)
	for _, start := range []func(context.Context) error{
		l.startPostgres, l.startRedis, l.startRabbitMQ, l.startInflux, l.startEcho, l.migrate,
	} {
		if err := start(ctx); err != nil {
			return l, err
		}
	}
	return l, nil
}

// close stops everything, the last first. It may be called twice.
func (l *lab) close() {
	l.stopServices()
	for _, stop := range slices.Backward(l.stops) {
		stop()
	}
	l.stops = nil
	l.ports.Release()
}

func (l *lab) startPostgres(ctx context.Context) error {
	p, err := testbed.StartPostgres(ctx, l.dir)
	if p != nil && p.Process != nil {
		l.stops = append(l.stops, func() { p.Stop(syscall.SIGINT) })
		l.parts.add("postgresql", p.PID())
	}
	l.postgres = p
	return err
}

func (l *lab) startRedis(ctx context.Context) error {
	for i := range gateShards + 1 {
		name := "redis"
		if i == gateShards {
			name = "redis-cache"
		}
		p, port, err := testbed.StartRedis(ctx, l.dir, fmt.Sprintf("redis%d", i))
		if p != nil {
			l.stops = append(l.stops, func() { p.Stop(syscall.SIGKILL) })
			l.parts.add(name, p.PID())
		}
		if err != nil {
			return err
		}
		client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + strconv.Itoa(port)})
		l.stops = append(l.stops, func() { _ = client.Close() })
		l.redis, l.redisURL = append(l.redis, client), append(l.redisURL, fmt.Sprintf("redis://127.0.0.1:%d/0", port))
	}
	return nil
}

func (l *lab) startRabbitMQ(ctx context.Context) error {
	r, err := testbed.StartRabbitMQ(ctx, l.dir)
	if err != nil {
		return err
	}
	l.rabbit = r
	l.stops = append(l.stops, r.Stop)
	l.parts.add("rabbitmq", r.PID())
	return nil
}

// findInflux returns the program, and its version: one that was built from its module does not know it.
func findInflux(ctx context.Context, given string, say *testbed.Progress) (bin, version string, err error) {
	if given == "" {
		say.Step("building InfluxDB (a minute or more, the first time)")
		if bin, err = testbed.BuildInflux(ctx); err != nil {
			return "", "", fmt.Errorf("%w; name an influxd 1.8 with --influxd", err)
		}
		return bin, "InfluxDB " + testbed.InfluxVersion, nil
	}
	if bin, err = exec.LookPath(given); err != nil {
		return "", "", err
	}
	said, err := testbed.Versions(ctx, []string{bin, "version"})
	return bin, strings.Join(said, ""), err
}

func (l *lab) startInflux(ctx context.Context) error {
	p, address, err := testbed.StartInflux(ctx, l.dir, l.influxd)
	if p != nil {
		l.stops = append(l.stops, func() { p.Stop(syscall.SIGKILL) })
		l.parts.add("influxdb", p.PID())
	}
	if err != nil {
		return err
	}
	l.db = influx{url: address, bucket: bucketName}
	_, err = l.db.send(ctx, "/query", map[string][]string{"q": {"CREATE DATABASE flashsale"}}, "text/plain", "")
	return err
}

func (l *lab) startEcho(ctx context.Context) error {
	p, port, err := testbed.StartEcho(ctx, l.dir)
	if p != nil {
		l.stops = append(l.stops, func() { p.Stop(syscall.SIGKILL) })
	}
	l.echoPort = port
	return err
}

// migrate makes the databases, and a pattern of each: a reset copies it.
func (l *lab) migrate(ctx context.Context) error {
	var create, copies []string
	for _, name := range databaseNames() {
		create = append(create, "CREATE DATABASE "+name)
		copies = append(copies, "CREATE DATABASE pattern_"+name+" TEMPLATE "+name)
	}
	if err := l.postgres.SQL(ctx, "postgres", create...); err != nil {
		return err
	}
	if _, _, err := testbed.Output(ctx, l.env(), nil, filepath.Join(l.dir, "flashsale"), "migrate"); err != nil {
		return err
	}
	return l.postgres.SQL(ctx, "postgres", copies...)
}

// env is what every service has of settings. They are the defaults but for addresses and secrets.
func (l *lab) env() []string {
	return append(testbed.BaseEnv(),
		"DATABASE_URL="+l.postgres.URL("{database}"), "REDIS_URLS="+strings.Join(l.redisURL[:gateShards], ","), "CACHE_URL="+l.redisURL[gateShards],
		"TOKEN_SECRETS="+l.secret, "FLASHSALE_INTERNAL_TOKEN="+l.secret, "OPERATOR_EMAIL="+operator, "OPERATOR_PASSWORD="+l.password, "FLASHSALE_LOG_LEVEL=warn", "FLASHSALE_DRAIN_NOTICE=0s",
		"FLASHSALE_MAX_UNPAID=1000000", "FLASHSALE_SHOPPER_RATE=1000000", // a virtual user is many shoppers: counted, but not bounded
		"GOMAXPROCS=1", // as in the compose files
		"AMQP_URL="+l.rabbit.URL()+vhost, "INFLUX_URL="+l.db.url, "INFLUX_BUCKET="+l.db.bucket, "FLASHSALE_COLLECT_EVERY="+lookEvery.String())
}

const vhost = "bench"

// reset empties everything but the accounts: databases, shards, cache and queues.
func (l *lab) reset(ctx context.Context) error {
	var statements []string
	for _, name := range databaseNames() {
		if name != "accounts" {
			statements = append(statements, "DROP DATABASE "+name+" WITH (FORCE)", "CREATE DATABASE "+name+" TEMPLATE pattern_"+name)
		}
	}
	errs := []error{l.postgres.SQL(ctx, "postgres", append(statements, "CHECKPOINT")...)}
	for _, r := range l.redis {
		errs = append(errs, r.FlushAll(ctx).Err())
	}
	if !l.fresh {
		errs = append(errs, l.rabbit.Manage(ctx, http.MethodDelete, "/api/vhosts/"+vhost, "", nil))
	}
	errs = append(errs, l.rabbit.Manage(ctx, http.MethodPut, "/api/vhosts/"+vhost, "{}", nil),
		l.rabbit.Manage(ctx, http.MethodPut, "/api/permissions/"+vhost+"/guest", `{"configure":".*","write":".*","read":".*"}`, nil))
	l.fresh = false
	return errors.Join(errs...)
}

// address is where an instance of a service listens.
type address struct{ public, internal string }

// start resets everything and starts a wiring: its services, and nginx in front. It returns the addresses of the shop
// and of the echo.
func (l *lab) start(ctx context.Context, wiring string) (shopURL, echoURL string, err error) {
	l.stopServices()
	if err := l.reset(ctx); err != nil {
		return "", "", fmt.Errorf("reset: %w", err)
	}
	at := map[string][]address{}
	for _, role := range roles() {
		for range instances {
			var ports [2]int
			for i := range ports {
				if ports[i], err = l.ports.Next(ctx); err != nil {
					return "", "", err
				}
			}
			at[role] = append(at[role], address{fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("127.0.0.1:%d", ports[1])})
		}
	}
	if shopURL, echoURL, err = l.startNginx(ctx, wiring, at); err != nil {
		return "", "", err
	}
	var wg sync.WaitGroup
	errs := make([]error, 0, len(roles())*instances)
	for _, role := range roles() {
		for i := range instances {
			command := []string{filepath.Join(l.dir, "flashsale"), "serve"}
			if role == "account" { // a password hash takes a core for a while: the sale goes first
				command = append([]string{"nice", "-n", "10"}, command...)
			}
			p, err := testbed.Spawn(ctx, l.dir, fmt.Sprintf("%s-%d", role, i+1), syscall.SIGTERM, append(l.env(), l.settings(wiring, role, i, at, shopURL)...),
				nil, command[0], command[1:]...)
			if err != nil {
				return "", "", err
			}
			l.services = append(l.services, p)
			errs = append(errs, nil)
			slot := &errs[len(errs)-1]
			wg.Go(func() { *slot = p.Ready(ctx, 2*time.Minute, testbed.Answers("http://"+at[role][i].public+"/readyz")) })
		}
	}
	wg.Wait()
	return shopURL, echoURL, errors.Join(errs...)
}

// settings are one instance's own. An instance calls the peer with its own number: nginx spreads the shoppers over both.
func (l *lab) settings(wiring, role string, i int, at map[string][]address, front string) []string {
	var peers []string
	for _, other := range roles() {
		if other != role && other != "reservation" && other != "console" {
			peers = append(peers, other+"=http://"+at[other][i].internal)
		}
	}
	env := []string{
		"FLASHSALE_MODE=" + wiring, "FLASHSALE_ROLES=" + role, "FLASHSALE_LISTEN=" + at[role][i].public, "FLASHSALE_INTERNAL_LISTEN=" + at[role][i].internal,
		"FLASHSALE_PEERS=" + strings.Join(peers, ","), "FLASHSALE_CONSOLE_API=" + front,
	}
	if role == "account" { // each hash leaves 19 MiB behind: collect them sooner than the service would by itself
		env = append(env, "FLASHSALE_PASSWORD_SLOTS=1", "GOMEMLIMIT=160MiB")
	}
	return env
}

// startNginx starts nginx with the project's own configuration of the wiring, and the echo behind it beside the shop.
func (l *lab) startNginx(ctx context.Context, wiring string, at map[string][]address) (shopURL, echoURL string, err error) {
	var ports [2]int
	for i := range ports {
		if ports[i], err = l.ports.Next(ctx); err != nil {
			return "", "", err
		}
	}
	to := map[string][]string{}
	for _, name := range nginx.Services() {
		for _, a := range at[name] {
			to[name] = append(to[name], a.public)
		}
	}
	dir := filepath.Join(l.dir, "nginx-"+wiring)
	if err := os.RemoveAll(dir); err != nil {
		return "", "", err
	}
	if err := os.Mkdir(dir, 0o755); err != nil { // its workers are another user
		return "", "", err
	}
	err = nginx.Write(dir, nginx.Site{Listen: fmt.Sprintf("127.0.0.1:%d", ports[0]), Instances: to, Files: map[string]string{
		"log.conf":       "access_log access.log json buffer=32k flush=500ms;\n",
		"http/echo.conf": fmt.Sprintf("upstream echo { server 127.0.0.1:%d; include shared/upstream.conf; }\nserver { listen 127.0.0.1:%d reuseport backlog=4096; location / { proxy_pass http://echo; } }\n", l.echoPort, ports[1]),
	}})
	if err != nil {
		return "", "", err
	}
	p, err := testbed.StartNginx(ctx, l.dir, "nginx-"+wiring, dir+"/", filepath.Join(dir, wiring+".conf"), ports[0])
	if p != nil {
		l.nginx = p
		l.parts.add("nginx", p.PID())
	}
	return fmt.Sprintf("http://127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[1]), err
}

// stopServices stops nginx and the services of a wiring, all at the same time.
func (l *lab) stopServices() {
	var wg sync.WaitGroup
	if l.nginx != nil {
		wg.Go(func() { l.nginx.Stop(syscall.SIGTERM) })
	}
	for _, p := range l.services {
		wg.Go(func() { p.Stop(syscall.SIGTERM) })
	}
	wg.Wait()
	l.nginx, l.services = nil, nil
	l.parts.remove("nginx")
}

// audit has the program audit all databases and the gate, once nothing is on its way any more.
func (l *lab) audit(ctx context.Context, wiring string) ([]audit.Check, error) {
	out, _, err := testbed.Output(ctx, append(l.env(), "FLASHSALE_MODE="+wiring), nil, filepath.Join(l.dir, "flashsale"), "audit", "--json", "--settle", "60s")
	var checks []audit.Check
	if jerr := json.Unmarshal([]byte(out), &checks); jerr != nil { // status 1 with checks is an answer: they do not balance
		return nil, errors.Join(err, jerr)
	}
	return checks, nil
}

func (l *lab) versions(ctx context.Context) ([]string, error) {
	bin, err := testbed.FindNginx()
	if err != nil {
		return nil, err
	}
	out, err := testbed.Versions(ctx, []string{filepath.Join(l.postgres.Bin, "postgres"), "--version"}, []string{"redis-server", "--version"},
		[]string{bin, "-v"}, []string{"go", "version"})
	if err != nil {
		return nil, err
	}
	rabbit, err := l.rabbit.Version(ctx)
	if err != nil {
		return nil, err
	}
	return append(out, rabbit, l.influxVersion), nil
}

func (l *lab) series() influx { return l.db }

func (l *lab) operator() (email, password string) { return operator, l.password }

func (l *lab) notes() []string {
	return []string{
		fmt.Sprintf("processes of this machine behind nginx with the project's own configuration: %d instances of each of %s; %d Redis shards and one for the cache; a database per service",
			instances, strings.Join(roles(), ", "), gateShards),
		"every service with GOMAXPROCS=1: there are many more processes than cores",
		"PostgreSQL: fsync, synchronous_commit, full_page_writes and wal_level as installed; " + strings.Join(testbed.PostgresSettings(), ", "),
		"the account service hashes one password at a time in each of its processes (FLASHSALE_PASSWORD_SLOTS=1), which run at nice 10 with GOMEMLIMIT=160MiB: the sale goes first",
		"before every run: the services stopped, all databases but the accounts made anew, the shards flushed, the queues deleted, the services started",
	}
}
