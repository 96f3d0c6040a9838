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
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
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
		{pgBin, "postgresql", "PostgreSQL 15 or newer", []string{testenv.DatabaseURLVar}},
		{func() (string, error) { return exec.LookPath("redis-server") }, "redis-server", "Redis 7.0 or newer", nil},
		{func() (string, error) { return exec.LookPath("gcc") }, "gcc libc6-dev", "a C compiler, which the race detector links with", nil},
		{func() (string, error) { return exec.LookPath("prometheus") }, "prometheus", "Prometheus 2.42 or newer, with promtool", nil},
		{testenv.NginxBin, "nginx-light", "nginx 1.22 or newer", nil},
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
	// Packages must not start services of their own: the tests start private ones.
	const policy = "/usr/sbin/policy-rc.d"
	if _, err := os.Stat(policy); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err == nil {
			defer func() { _ = os.Remove(policy) }()
		}
	}
	args := []string{"install", "-y", "-qq", "--no-install-recommends"}
	for _, n := range missing {
		args = append(args, strings.Fields(n.pkg)...)
	}
	fmt.Println("servers: installing", strings.Join(args[4:], " "))
	for _, a := range [][]string{{"update", "-qq"}, args} {
		cmd := exec.CommandContext(ctx, "apt-get", a...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(a, " "), err, tail(string(out)))
		}
	}
	for _, n := range missing {
		if _, err := n.find(); err != nil {
			return fmt.Errorf("%s is still missing after its package %s was installed: %w", n.what, n.pkg, err)
		}
	}
	return nil
}

func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// pgBin returns the folder of the newest PostgreSQL of version 15 or more.
func pgBin() (string, error) {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	version := func(d string) int { n, _ := strconv.Atoi(filepath.Base(filepath.Dir(d))); return n }
	slices.SortFunc(dirs, func(a, b string) int { return version(b) - version(a) })
	for _, d := range dirs {
		if _, err := os.Stat(filepath.Join(d, "initdb")); err == nil && version(d) >= 15 {
			return d, nil
		}
	}
	p, err := exec.LookPath("initdb")
	if err != nil {
		return "", err
	}
	return filepath.Dir(p), nil
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

// start runs a server in a process group of its own, its output in a file.
func start(log string, env []string, cred *syscall.Credential, bin string, args ...string) (*exec.Cmd, error) {
	f, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = f, f, "/"
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: cred}
	return cmd, cmd.Start()
}

// end stops a process group: gently, then not.
func end(cmd *exec.Cmd, gentle syscall.Signal) {
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	_ = syscall.Kill(-cmd.Process.Pid, gentle)
	select {
	case <-done:
	case <-time.After(10 * time.Second):
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	<-done
}

// ready polls until a server answers.
func ready(ctx context.Context, what, log string, bound time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			b, _ := os.ReadFile(log)
			return fmt.Errorf("%s does not answer after %s: %w\n%s", what, bound, err, tail(string(b)))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *servers) postgres(ctx context.Context) error {
	if os.Getenv(testenv.DatabaseURLVar) != "" {
		return nil
	}
	bin, err := pgBin()
	if err != nil {
		return err
	}
	var cred *syscall.Credential
	home := filepath.Join(s.dir, "postgres")
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
		cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(home, uid, gid); err != nil {
			return err
		}
	}
	data, log := filepath.Join(home, "data"), filepath.Join(s.dir, "postgres.log")
	initdb, err := start(log, nil, cred, filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale")
	if err == nil {
		err = initdb.Wait()
	}
	if err != nil {
		b, _ := os.ReadFile(log)
		return fmt.Errorf("initdb: %w\n%s", err, tail(string(b)))
	}
	port, err := s.claim(ctx)
	if err != nil {
		return err
	}
	cmd, err := start(log, nil, cred, filepath.Join(bin, "postgres"), "-D", data, "-p", strconv.Itoa(port), "-k", home,
		"-c", "listen_addresses=127.0.0.1", "-c", "max_connections=500", "-c", "shared_buffers=128MB")
	if err != nil {
		return err
	}
	url := fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres", port)
	s.add("PostgreSQL", func() { end(cmd, syscall.SIGINT) }, testenv.DatabaseURLVar+"="+url)
	return ready(ctx, "PostgreSQL", log, 60*time.Second, func(ctx context.Context) error {
		c, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		return c.Close(ctx)
	})
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
	home, log := filepath.Join(s.dir, "influxdb"), filepath.Join(s.dir, "influxdb.log")
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
	cmd, err := start(log, nil, nil, bin, "-config", conf)
	if err != nil {
		return err
	}
	url := fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	s.add("InfluxDB", func() { end(cmd, syscall.SIGTERM) }, testenv.InfluxURLVar+"="+url)
	return ready(ctx, "InfluxDB", log, 120*time.Second, testbed.Answers(url+"/ping"))
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
