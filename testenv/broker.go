package testenv

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Broker is a RabbitMQ process of its own, with its folder and ports.
type Broker struct {
	bin     string
	dir     string
	ports   [4]int // AMQP, management, distribution, epmd
	release []func()
	cmd     *exec.Cmd
}

// RabbitBin returns the server's program.
func RabbitBin() (string, error) {
	// Debian's wrapper in sbin changes the user; the program itself runs as anybody.
	const debian = "/usr/lib/rabbitmq/bin/rabbitmq-server"
	if _, err := os.Stat(debian); err == nil {
		return debian, nil
	}
	return exec.LookPath("rabbitmq-server")
}

// NewBroker prepares a server in an existing folder. Close it when done.
func NewBroker(ctx context.Context, dir string) (*Broker, error) {
	bin, err := RabbitBin()
	if err != nil {
		return nil, err
	}
	b := &Broker{bin: bin, dir: dir}
	for i := range b.ports {
		port, release, err := ClaimPort(ctx)
		if err != nil {
			b.Close()
			return nil, err
		}
		b.ports[i], b.release = port, append(b.release, release)
	}
	conf := fmt.Sprintf("listeners.tcp.1 = 127.0.0.1:%d\nmanagement.tcp.ip = 127.0.0.1\nmanagement.tcp.port = %d\ndisk_free_limit.absolute = 50MB\n", b.ports[0], b.ports[1])
	for name, text := range map[string]string{"rabbitmq.conf": conf, "plugins": "[rabbitmq_management].\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			b.Close()
			return nil, err
		}
	}
	return b, nil
}

// StartBroker starts a server for one test. It ends with the test.
func StartBroker(t testing.TB) *Broker {
	t.Helper()
	b, err := NewBroker(t.Context(), t.TempDir())
	if err != nil {
		t.Fatalf("RabbitMQ: run `make test`, or install RabbitMQ 3.10 or newer: %v", err)
	}
	t.Cleanup(b.Close)
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

// URL and API return where the server and its management API are.
func (b *Broker) URL() string { return fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", b.ports[0]) }

// API returns where the management API is.
func (b *Broker) API() string { return fmt.Sprintf("http://guest:guest@127.0.0.1:%d", b.ports[1]) }

func (b *Broker) node() string { return "flashsale" + strconv.Itoa(b.ports[0]) + "@localhost" }

func (b *Broker) env() []string {
	return append(os.Environ(),
		"HOME="+b.dir, "RABBITMQ_NODENAME="+b.node(), "RABBITMQ_MNESIA_BASE="+filepath.Join(b.dir, "data"), "RABBITMQ_LOG_BASE="+filepath.Join(b.dir, "log"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(b.dir, "plugins"), "RABBITMQ_CONFIG_FILE="+filepath.Join(b.dir, "rabbitmq"),
		"RABBITMQ_DIST_PORT="+strconv.Itoa(b.ports[2]), "ERL_EPMD_PORT="+strconv.Itoa(b.ports[3]), "ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_PID_FILE="+filepath.Join(b.dir, "pid"), "RABBITMQ_CONF_ENV_FILE=/dev/null", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+sbwt none")
}

// Start starts the process, in a group of its own, and waits until it answers.
func (b *Broker) Start(ctx context.Context) error {
	out := filepath.Join(b.dir, "out")
	f, err := os.OpenFile(out, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	cmd := exec.Command(b.bin)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = b.env(), "/", f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.cmd = cmd
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		err := b.answers(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			text, _ := os.ReadFile(out)
			return fmt.Errorf("RabbitMQ does not answer: %w\n%s", err, text[max(0, len(text)-3000):])
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (b *Broker) answers(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.API()+"/api/overview", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("management API answered %d", resp.StatusCode)
	}
	return nil
}

// Signal sends a signal to every process of the server: SIGSTOP makes it hang, SIGCONT lets it go on.
func (b *Broker) Signal(sig syscall.Signal) error { return syscall.Kill(-b.cmd.Process.Pid, sig) }

// Kill ends the server with SIGKILL. It may be called twice.
func (b *Broker) Kill() { b.end(syscall.SIGKILL) }

// end stops the process group, gently if asked to, and then not.
func (b *Broker) end(first syscall.Signal) {
	if b.cmd == nil {
		return
	}
	done := make(chan struct{})
	go func() {
		_ = b.cmd.Wait()
		close(done)
	}()
	_ = b.Signal(first)
	select {
	case <-done:
	case <-time.After(10 * time.Second):
	}
	_ = b.Signal(syscall.SIGKILL)
	<-done
	b.cmd = nil
}

// Wipe removes everything that a server that is not running has stored.
func (b *Broker) Wipe() error { return os.RemoveAll(filepath.Join(b.dir, "data")) }

// Ctl runs rabbitmqctl on the server.
func (b *Broker) Ctl(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(filepath.Dir(b.bin), "rabbitmqctl"), append([]string{"-n", b.node()}, args...)...)
	cmd.Env, cmd.Dir = b.env(), "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("rabbitmqctl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// Close stops the server, and the port mapper that Erlang has started for it: that is in nobody's
// process group.
func (b *Broker) Close() {
	if b.cmd != nil {
		b.end(syscall.SIGTERM)
		cmd := exec.Command("epmd", "-port", strconv.Itoa(b.ports[3]), "-kill")
		var exit *exec.ExitError
		if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
			fmt.Fprintln(os.Stderr, "testenv: epmd:", err)
		}
	}
	for _, f := range b.release {
		f()
	}
	b.release = nil
}
