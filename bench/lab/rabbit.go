package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

func rabbitBin() (string, error) {
	// Debian's wrapper in sbin changes the user; the program itself runs as anybody.
	const debian = "/usr/lib/rabbitmq/bin/rabbitmq-server"
	if _, err := os.Stat(debian); err == nil {
		return debian, nil
	}
	return exec.LookPath("rabbitmq-server")
}

// startRabbit starts a broker of one node with the management API, its port mapper on a port of its own.
func (l *Lab) startRabbit(ctx context.Context) error {
	bin, err := rabbitBin()
	if err != nil {
		return err
	}
	home := filepath.Join(l.Dir, "rabbitmq")
	if err := os.MkdirAll(filepath.Join(home, "log"), 0o700); err != nil {
		return err
	}
	ports := make([]int, 4) // AMQP, management, distribution, epmd
	for i := range ports {
		if ports[i], err = FreePort(ctx); err != nil {
			return err
		}
	}
	conf := fmt.Sprintf("listeners.tcp.1 = 127.0.0.1:%d\nmanagement.tcp.ip = 127.0.0.1\nmanagement.tcp.port = %d\ndisk_free_limit.absolute = 50MB\n", ports[0], ports[1])
	for name, text := range map[string]string{"rabbitmq.conf": conf, "plugins": "[rabbitmq_management].\n"} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	env := append(BaseEnv(),
		"HOME="+home, "RABBITMQ_NODENAME=bench"+strconv.Itoa(ports[0])+"@localhost", "RABBITMQ_MNESIA_BASE="+home,
		"RABBITMQ_LOG_BASE="+filepath.Join(home, "log"), "RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(home, "plugins"),
		"RABBITMQ_CONFIG_FILE="+filepath.Join(home, "rabbitmq"), "RABBITMQ_DIST_PORT="+strconv.Itoa(ports[2]),
		"ERL_EPMD_PORT="+strconv.Itoa(ports[3]), "ERL_EPMD_ADDRESS=127.0.0.1", "RABBITMQ_PID_FILE="+filepath.Join(home, "pid"),
		"RABBITMQ_CONF_ENV_FILE=/dev/null", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+sbwt none",
	)
	if l.rabbit, err = spawn(ctx, l.Dir, "rabbitmq", syscall.SIGTERM, env, nil, bin); err != nil {
		return err
	}
	l.stops = append(l.stops, func() {
		l.rabbit.stop(syscall.SIGTERM)
		_ = exec.CommandContext(context.Background(), "epmd", "-port", strconv.Itoa(ports[3]), "-kill").Run() // in nobody's process group
	})
	l.AMQPURL = fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", ports[0])
	l.apiURL = fmt.Sprintf("http://guest:guest@127.0.0.1:%d", ports[1])
	if err := l.rabbit.ready(ctx, 2*time.Minute, func(ctx context.Context) error { return l.AskRabbit(ctx, "/api/overview", nil) }); err != nil {
		return err
	}
	var about struct {
		Rabbit string `json:"rabbitmq_version"`
		Erlang string `json:"erlang_version"`
	}
	if err := l.AskRabbit(ctx, "/api/overview", &about); err != nil {
		return err
	}
	l.versions = append(l.versions, "RabbitMQ "+about.Rabbit+", Erlang "+about.Erlang)
	return nil
}

// AskRabbit reads from the management API.
func (l *Lab) AskRabbit(ctx context.Context, path string, into any) error {
	status, b, err := Call(ctx, http.MethodGet, l.apiURL+path, "", nil, nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("RabbitMQ's management API answers %d to %s", status, path)
	}
	if err != nil || into == nil {
		return err
	}
	return json.Unmarshal(b, into)
}
