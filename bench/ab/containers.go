package ab

import (
	"context"
	"encoding/json"
	"errors"
	"flashsale/audit"
	"flashsale/bench/testbed"
	"flashsale/nginx"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// containers are the two compose files of the checkout, as projects of their own: what else is up under these files is
// not touched. The echo runs in a container beside them, behind the same nginx.
type containers struct {
	dir, root string
	say       *testbed.Progress
	parts     *parts
	ports     testbed.Ports
	sides     map[string]*project
	password  string // the operator's of the side that is up
	db        influx // of the side that is up
}

// project is one compose file, brought up once and reset from then on.
type project struct {
	name        string
	args        []string
	env         []string
	front, echo int // ports
	influx      int
	made        bool
}

// engineAnswers reports whether there is Docker with Compose on this machine.
func engineAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for _, args := range [][]string{{"info", "--format", "{{.ServerVersion}}"}, {"compose", "version", "--short"}} {
		if _, _, err := testbed.Output(ctx, os.Environ(), nil, "docker", args...); err != nil {
			return err
		}
	}
	return nil
}

func newContainers(ctx context.Context, root, dir string, p *parts, say *testbed.Progress) (*containers, error) {
	c := &containers{dir: dir, root: root, say: say, parts: p, sides: map[string]*project{}}
	say.Step("building the echo")
	static := append(os.Environ(), "CGO_ENABLED=0") // its image has no libraries
	if _, _, err := testbed.Output(ctx, static, nil, "go", "-C", root, "build", "-o", filepath.Join(dir, "echo"), "./bench/core/echo"); err != nil {
		return c, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the containers' users are others
		return c, err
	}
	conf, to := filepath.Join(dir, "nginx"), map[string][]string{}
	for _, name := range nginx.Services() {
		to[name] = []string{name + ":8080"}
	}
	if err := os.Mkdir(conf, 0o755); err != nil {
		return c, err
	}
	if err := nginx.Write(conf, nginx.Site{Instances: to, Files: map[string]string{"http/echo.conf": fmt.Sprintf(
		"upstream echo { server echo:8080; include shared/upstream.conf; }\nserver { listen %d reuseport backlog=4096; location / { proxy_pass http://echo; } }\n", echoPort)}}); err != nil {
		return c, err
	}
	for _, side := range []string{Sync, Async} {
		if err := c.prepare(ctx, side); err != nil {
			return c, err
		}
	}
	say.Step("building the image")
	_, err := c.compose(ctx, Sync, "build")
	return c, err
}

const echoPort = 8089 // in nginx's container

// prepare writes what differs from the compose file of a side: its name, the ports, the echo, and what is not bounded
// because a virtual user is many shoppers.
func (c *containers) prepare(ctx context.Context, side string) error {
	p := &project{name: "flashsale-ab-" + side, env: append(os.Environ(), "FLASHSALE_LOG_LEVEL=warn")}
	c.sides[side] = p
	for name, port := range map[string]*int{"NGINX_PORT": &p.front, "INFLUXDB_PORT": &p.influx, "ECHO_PORT": &p.echo, "PROMETHEUS_PORT": nil, "JAEGER_PORT": nil, "GRAFANA_PORT": nil} {
		n, err := c.ports.Next(ctx)
		if err != nil {
			return err
		}
		if port != nil {
			*port = n
		}
		p.env = append(p.env, name+"="+strconv.Itoa(n))
	}
	services := map[string]any{
		"echo": map[string]any{
			"image": "flashsale:local", "pull_policy": "never", "entrypoint": []string{"/echo", "-listen", "0.0.0.0:8080"}, "read_only": true,
			"cap_drop": []string{"ALL"}, "networks": []string{"front"},
			"volumes": []string{filepath.Join(c.dir, "echo") + ":/echo:ro"},
		},
		"nginx": map[string]any{
			"volumes":    []string{filepath.Join(c.dir, "nginx") + ":/etc/nginx/flashsale:ro"},
			"ports":      []string{fmt.Sprintf("127.0.0.1:%d:%d", p.echo, echoPort)},
			"depends_on": map[string]any{"echo": map[string]string{"condition": "service_started"}},
		},
		"auditor": map[string]any{"profiles": []string{"tools"}}, // does not run: what it reads would be part of the figures
	}
	for _, role := range roles() {
		services[role] = map[string]any{"environment": map[string]string{
			"FLASHSALE_MAX_UNPAID": "1000000", "FLASHSALE_SHOPPER_RATE": "1000000", "FLASHSALE_COLLECT_EVERY": lookEvery.String(), "FLASHSALE_DRAIN_NOTICE": "0s",
		}}
	}
	b, err := json.Marshal(map[string]any{"services": services}) // which is YAML
	if err != nil {
		return err
	}
	over := filepath.Join(c.dir, side+".yml")
	if err := os.WriteFile(over, b, 0o600); err != nil {
		return err
	}
	// Included files cannot be changed by another file: the whole is, once it has been put together.
	p.args = []string{"--project-name", p.name, "-f", filepath.Join(c.root, "docker-compose."+side+".yml")}
	whole, err := c.compose(ctx, side, "--profile", "*", "config")
	if err != nil {
		return err
	}
	base := filepath.Join(c.dir, side+"-base.yml")
	p.args = []string{"--project-name", p.name, "-f", base, "-f", over}
	return os.WriteFile(base, []byte(whole), 0o600)
}

func (c *containers) compose(ctx context.Context, side string, args ...string) (string, error) {
	p := c.sides[side]
	out, _, err := testbed.Output(ctx, p.env, nil, "docker", slices.Concat([]string{"compose", "--progress", "quiet"}, p.args, args)...)
	return out, err
}

// start stops both sides, and brings one up with nothing of the run before but the accounts.
func (c *containers) start(ctx context.Context, side string) (shopURL, echoURL string, err error) {
	for name := range c.parts.all() {
		c.parts.remove(name)
	}
	for each, p := range c.sides {
		if !p.made {
			continue
		}
		if _, err := c.compose(ctx, each, "stop", "--timeout", "30"); err != nil {
			return "", "", err
		}
	}
	p := c.sides[side]
	if err := c.reset(ctx, side); err != nil {
		return "", "", fmt.Errorf("reset: %w", err)
	}
	if _, err := c.compose(ctx, side, "up", "--detach", "--wait", "--wait-timeout", "300"); err != nil {
		return "", "", fmt.Errorf("%w\nwhere images cannot be pulled, --in processes needs none", err)
	}
	for name, into := range map[string]*string{"operator": &c.password, "influxdb": &c.db.token} {
		out, err := c.compose(ctx, side, "run", "--rm", "secrets", "show", name)
		if err != nil {
			return "", "", err
		}
		*into = strings.TrimSpace(out)
	}
	c.db.url, c.db.org, c.db.bucket = fmt.Sprintf("http://127.0.0.1:%d", p.influx), "flashsale", "flashsale"
	return fmt.Sprintf("http://127.0.0.1:%d", p.front), fmt.Sprintf("http://127.0.0.1:%d", p.echo), c.findParts(ctx, side)
}

// reset makes the databases anew and empties the broker. The shards keep nothing over a stop.
func (c *containers) reset(ctx context.Context, side string) error {
	p := c.sides[side]
	psql := func(statements []string) error {
		args := []string{"exec", "-T", "postgres", "psql", "-q", "-U", "postgres", "-v", "ON_ERROR_STOP=1"}
		for _, s := range statements {
			args = append(args, "-c", s)
		}
		_, err := c.compose(ctx, side, args...)
		return err
	}
	var statements []string
	if !p.made {
		p.made = true // close has something to take down
		c.say.Step("%-5s  making the databases", side)
		if _, err := c.compose(ctx, side, "run", "--rm", "migrate"); err != nil {
			return err
		}
		for _, name := range databaseNames() {
			statements = append(statements, "CREATE DATABASE pattern_"+name+" TEMPLATE "+name)
		}
		return psql(statements)
	}
	servers := []string{"postgres"}
	if side == Async {
		servers = append(servers, "rabbitmq")
	}
	if _, err := c.compose(ctx, side, append([]string{"up", "--detach", "--wait", "--wait-timeout", "120"}, servers...)...); err != nil {
		return err
	}
	for _, name := range databaseNames() {
		if name != "accounts" {
			statements = append(statements, "DROP DATABASE "+name+" WITH (FORCE)", "CREATE DATABASE "+name+" TEMPLATE pattern_"+name+" OWNER "+name, "REVOKE ALL ON DATABASE "+name+" FROM PUBLIC")
		}
	}
	if err := psql(append(statements, "CHECKPOINT")); err != nil || side != Async {
		return err
	}
	for _, args := range [][]string{{"delete_vhost", "/"}, {"add_vhost", "/"}, {"set_permissions", "-p", "/", "flashsale", ".*", ".*", ".*"}} {
		if _, err := c.compose(ctx, side, append([]string{"exec", "-T", "rabbitmq", "rabbitmqctl", "-q"}, args...)...); err != nil {
			return err
		}
	}
	return nil
}

// findParts finds the processes of the servers: the services tell of themselves.
func (c *containers) findParts(ctx context.Context, side string) error {
	out, err := c.compose(ctx, side, "ps", "--format", "{{.Service}} {{.ID}}")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		service, container, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || service == "echo" || slices.Contains(roles(), service) {
			continue
		}
		text, _, err := testbed.Output(ctx, os.Environ(), nil, "docker", "inspect", "--format", "{{.State.Pid}}", container)
		if err != nil {
			return err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil {
			return fmt.Errorf("docker inspect %s: %w", service, err)
		}
		switch {
		case service == "postgres":
			service = "postgresql"
		case service != "redis-cache" && strings.HasPrefix(service, "redis-"):
			service = "redis"
		}
		c.parts.add(service, pid)
	}
	return nil
}

func (c *containers) audit(ctx context.Context, side string) ([]audit.Check, error) {
	out, err := c.compose(ctx, side, "run", "--rm", "audit", "audit", "--json", "--settle", "60s")
	var checks []audit.Check
	if jerr := json.Unmarshal([]byte(out), &checks); jerr != nil { // status 1 with checks is an answer: they do not balance
		return nil, errors.Join(err, jerr)
	}
	return checks, nil
}

func (c *containers) series() influx { return c.db }

func (c *containers) operator() (email, password string) { return operator, c.password }

func (c *containers) versions(ctx context.Context) ([]string, error) {
	images, err := c.compose(ctx, Async, "config", "--images")
	if err != nil {
		return nil, err
	}
	engine, _, err := testbed.Output(ctx, os.Environ(), nil, "docker", "version", "--format", "Docker {{.Server.Version}}")
	if err != nil {
		return nil, err
	}
	names := strings.Fields(images)
	slices.Sort(names)
	return append([]string{strings.TrimSpace(engine)}, slices.Compact(names)...), nil
}

func (c *containers) notes() []string {
	return []string{
		"containers of docker-compose.sync.yml and docker-compose.async.yml as they are, limits of CPU and memory included, but for ports, the bounds on one shopper, and an echo beside the shop; images as this machine has them under these names",
		"before every run: everything stopped, all databases but the accounts made anew, the queues deleted, everything started; the shards keep nothing",
	}
}

// close takes both down with their volumes.
func (c *containers) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	for side, p := range c.sides {
		if p.made {
			if _, err := c.compose(ctx, side, "--profile", "*", "down", "--volumes", "--timeout", "20"); err != nil {
				c.say.Line("%-5s  %v; take it down with: docker compose -p %s down --volumes", side, err, p.name)
			}
			p.made = false
		}
	}
	c.ports.Release()
}
