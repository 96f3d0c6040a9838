package testbed

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// FindRabbitMQ returns RabbitMQ's program: Debian's wrapper in sbin changes the user, the program
// itself runs as anybody.
func FindRabbitMQ() (string, error) {
	const debian = "/usr/lib/rabbitmq/bin/rabbitmq-server"
	if _, err := os.Stat(debian); err == nil {
		return debian, nil
	}
	return exec.LookPath("rabbitmq-server")
}

// RabbitMQ is a broker of its own, with a user guest. It can die, lose its disk and come back.
type RabbitMQ struct {
	*Process
	bin      string
	home     string
	ports    Ports
	port     int // AMQP
	api      int // management
	dist     int
	epmdPort int
}

// StartRabbitMQ starts a broker below dir on free ports.
func StartRabbitMQ(ctx context.Context, dir string) (*RabbitMQ, error) {
	r := &RabbitMQ{home: filepath.Join(dir, "rabbitmq")}
	var err error
	if r.bin, err = FindRabbitMQ(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(r.home, "log"), 0o700); err != nil {
		return nil, err
	}
	for _, p := range []*int{&r.port, &r.api, &r.dist, &r.epmdPort} {
		if *p, err = r.ports.Next(ctx); err != nil {
			r.ports.Release()
			return nil, err
		}
	}
	conf := fmt.Sprintf("listeners.tcp.1 = 127.0.0.1:%d\nmanagement.tcp.ip = 127.0.0.1\nmanagement.tcp.port = %d\ndisk_free_limit.absolute = 50MB\n", r.port, r.api)
	for name, text := range map[string]string{"rabbitmq.conf": conf, "plugins": "[rabbitmq_management].\n"} {
		if err := os.WriteFile(filepath.Join(r.home, name), []byte(text), 0o600); err != nil {
			r.ports.Release()
			return nil, err
		}
	}
	if err := r.Start(ctx); err != nil {
		r.Stop()
		return nil, err
	}
	return r, nil
}

func (r *RabbitMQ) env() []string {
	return append(BaseEnv(),
		"HOME="+r.home, "RABBITMQ_NODENAME="+r.node(), "RABBITMQ_MNESIA_BASE="+filepath.Join(r.home, "data"),
		"RABBITMQ_LOG_BASE="+filepath.Join(r.home, "log"), "RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(r.home, "plugins"),
		"RABBITMQ_CONFIG_FILE="+filepath.Join(r.home, "rabbitmq"), "RABBITMQ_DIST_PORT="+strconv.Itoa(r.dist),
		"ERL_EPMD_PORT="+strconv.Itoa(r.epmdPort), "ERL_EPMD_ADDRESS=127.0.0.1", "RABBITMQ_PID_FILE="+filepath.Join(r.home, "pid"),
		"RABBITMQ_CONF_ENV_FILE=/dev/null", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+sbwt none")
}

func (r *RabbitMQ) node() string { return "flashsale" + strconv.Itoa(r.port) + "@localhost" }

// Start starts a broker that was killed, with what it has on its disk, and waits until it answers.
func (r *RabbitMQ) Start(ctx context.Context) error {
	p, err := Spawn(context.WithoutCancel(ctx), r.home, "rabbitmq", syscall.SIGTERM, r.env(), nil, r.bin)
	if err != nil {
		return err
	}
	r.Process = p
	return r.Ready(ctx, 2*time.Minute, func(ctx context.Context) error { return r.Manage(ctx, http.MethodGet, "/api/overview", "", nil) })
}

// Kill ends the broker as a crash does. What it has on its disk stays.
func (r *RabbitMQ) Kill() { r.Process.Stop(syscall.SIGKILL) }

// Wipe removes everything that a killed broker has stored.
func (r *RabbitMQ) Wipe() error { return os.RemoveAll(filepath.Join(r.home, "data")) }

// Ctl runs rabbitmqctl on the broker.
func (r *RabbitMQ) Ctl(ctx context.Context, args ...string) error {
	_, _, err := Output(ctx, r.env(), nil, filepath.Join(filepath.Dir(r.bin), "rabbitmqctl"), append([]string{"-n", r.node()}, args...)...)
	return err
}

// URL returns the broker's address.
func (r *RabbitMQ) URL() string { return fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", r.port) }

// API returns the address of its management API.
func (r *RabbitMQ) API() string { return fmt.Sprintf("http://guest:guest@127.0.0.1:%d", r.api) }

// Stop ends the broker, and the port mapper that Erlang has started for it: that one is in nobody's
// process group.
func (r *RabbitMQ) Stop() {
	if r.Process != nil {
		r.Process.Stop(syscall.SIGTERM)
		_ = exec.CommandContext(context.Background(), "epmd", "-port", strconv.Itoa(r.epmdPort), "-kill").Run()
	}
	r.ports.Release()
}

// Manage calls the management API. body may be empty, and into nil.
func (r *RabbitMQ) Manage(ctx context.Context, method, path, body string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, r.API()+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("RabbitMQ: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("RabbitMQ's management API answers %d to %s %s", resp.StatusCode, method, path)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// Version asks the broker.
func (r *RabbitMQ) Version(ctx context.Context) (string, error) {
	var about struct {
		Rabbit string `json:"rabbitmq_version"`
		Erlang string `json:"erlang_version"`
	}
	err := r.Manage(ctx, http.MethodGet, "/api/overview", "", &about)
	return "RabbitMQ " + about.Rabbit + ", Erlang " + about.Erlang, err
}
