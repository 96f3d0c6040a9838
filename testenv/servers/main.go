// Command servers starts private servers for tests, runs a command that can use them, and stops
// them again. Its exit status is the command's.
//
//	go run ./testenv/servers -- go test ./...
//	go run ./testenv/servers -install -- go test ./...    installs what is missing, as root on Debian
package main

import (
	"context"
	"errors"
	"flag"
	"flashsale/bench/testbed"
	"flashsale/testenv"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	install := flag.Bool("install", false, "install missing servers with apt-get (root on Debian)")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: servers [-install] -- COMMAND [ARG …]")
		os.Exit(2)
	}
	code, err := run(*install, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "servers:", err)
		code = 1
	}
	os.Exit(code)
}

func run(install bool, command []string) (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := require(ctx, install); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "flashsale-servers-")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		return 1, err
	}
	s := &servers{dir: dir}
	defer s.stop()
	began := time.Now()
	var wg sync.WaitGroup
	errs := make([]error, 3)
	wg.Go(func() { errs[0] = s.postgres(ctx) })
	wg.Go(func() { errs[1] = s.rabbitmq(ctx) })
	wg.Go(func() { errs[2] = s.influx(ctx) })
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return 1, err
	}
	fmt.Printf("servers: %s in %.1f s\n", strings.Join(s.started, ", "), time.Since(began).Seconds())
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), s.env...)
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err = <-done:
	case <-ctx.Done():
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err = <-done:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			err = <-done
		}
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// need is a program and where it comes from.
type need struct {
	find    func() (string, error)
	pkg     string // of Debian; several with spaces
	what    string
	instead []string // variables that make it unnecessary
}

func needs() []need {
	return []need{
		{testbed.FindPostgres, "postgresql", "PostgreSQL 15 or newer", []string{testenv.DatabaseURLVar}},
		{func() (string, error) { return exec.LookPath("redis-server") }, "redis-server", "Redis 7.0 or newer", nil},
		{func() (string, error) { return exec.LookPath("gcc") }, "gcc libc6-dev", "a C compiler, which the race detector links with", nil},
		{func() (string, error) { return exec.LookPath("prometheus") }, "prometheus", "Prometheus 2.42 or newer, with promtool", nil},
		{testenv.NginxBin, "nginx-light", "nginx 1.22 or newer", nil},
		{testbed.FindFaketime, "libfaketime", "libfaketime, which gives a server a clock of its own", nil},
		{testbed.FindRabbitMQ, "rabbitmq-server", "RabbitMQ 3.10 or newer", []string{testenv.AMQPURLVar, testenv.RabbitAPIVar}},
	}
}

// require installs what is missing, or says what to do.
func require(ctx context.Context, install bool) error {
	var missing []need
	for _, n := range needs() {
		if len(n.instead) > 0 && os.Getenv(n.instead[0]) != "" {
			continue
		}
		if _, err := n.find(); err != nil {
			missing = append(missing, n)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	_, noApt := exec.LookPath("apt-get")
	if !install || noApt != nil || os.Geteuid() != 0 {
		var lines []string
		for _, n := range missing {
			line := "  " + n.what + " (Debian: apt-get install " + n.pkg + ")"
			if len(n.instead) > 0 {
				line += ", or set " + strings.Join(n.instead, " and ")
			}
			lines = append(lines, line)
		}
		return fmt.Errorf("these are missing, and are installed by themselves only for root on Debian:\n%s", strings.Join(lines, "\n"))
	}
	var packages []string
	for _, n := range missing {
		packages = append(packages, strings.Fields(n.pkg)...)
	}
	fmt.Println("servers: installing", strings.Join(packages, " "))
	if err := testbed.Install(ctx, packages); err != nil {
		return err
	}
	for _, n := range missing {
		if _, err := n.find(); err != nil {
			return fmt.Errorf("%s is still missing after its package %s was installed: %w", n.what, n.pkg, err)
		}
	}
	return nil
}

// servers are those that this program has started.
type servers struct {
	dir string

	mu      sync.Mutex
	started []string
	env     []string
	stops   []func()
}

// claim returns a port that is this run's until it stops.
func (s *servers) claim(ctx context.Context) (int, error) {
	port, release, err := testbed.ClaimPort(ctx)
	if err == nil {
		s.mu.Lock()
		s.stops = append(s.stops, release)
		s.mu.Unlock()
	}
	return port, err
}

func (s *servers) add(name string, stop func(), env ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started, s.env = append(s.started, name), append(s.env, env...)
	if stop != nil {
		s.stops = append(s.stops, stop)
	}
}

func (s *servers) stop() {
	for _, f := range s.stops {
		f()
	}
}

func (s *servers) postgres(ctx context.Context) error {
	if os.Getenv(testenv.DatabaseURLVar) != "" {
		return nil
	}
	p, err := testbed.StartPostgres(ctx, s.dir)
	if err != nil {
		return err
	}
	s.add("PostgreSQL", func() { p.Stop(syscall.SIGINT) }, testenv.DatabaseURLVar+"="+p.URL("postgres"))
	return nil
}

// influx starts InfluxDB, which is built once for all runs on this machine.
func (s *servers) influx(ctx context.Context) error {
	if os.Getenv(testenv.InfluxURLVar) != "" {
		return nil
	}
	bin, err := testbed.BuildInflux(ctx)
	if err != nil {
		return fmt.Errorf("InfluxDB (or set %s): %w", testenv.InfluxURLVar, err)
	}
	home := filepath.Join(s.dir, "influxdb")
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	ports := make([]int, 2) // HTTP, backup
	for i := range ports {
		if ports[i], err = s.claim(ctx); err != nil {
			return err
		}
	}
	conf := filepath.Join(home, "conf")
	if err := os.WriteFile(conf, []byte(testbed.InfluxConfig(home, ports[0], ports[1])), 0o600); err != nil {
		return err
	}
	p, err := testbed.Spawn(context.WithoutCancel(ctx), s.dir, "influxdb", syscall.SIGTERM, testbed.BaseEnv(), nil, bin, "-config", conf)
	if err != nil {
		return err
	}
	url := fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	s.add("InfluxDB", func() { p.Stop(syscall.SIGTERM) }, testenv.InfluxURLVar+"="+url)
	return p.Ready(ctx, 120*time.Second, testbed.Answers(url+"/ping"))
}

func (s *servers) rabbitmq(ctx context.Context) error {
	if os.Getenv(testenv.AMQPURLVar) != "" {
		return nil
	}
	b, err := testbed.StartRabbitMQ(ctx, s.dir)
	if err != nil {
		return err
	}
	s.add("RabbitMQ", b.Stop, testenv.AMQPURLVar+"="+b.URL(), testenv.RabbitAPIVar+"="+b.API())
	return nil
}
