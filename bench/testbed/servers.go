package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Need is a program, where it is found, and the Debian package that it is in.
type Need struct {
	Find    func() (string, error)
	Package string
}

// OnPath finds a program by its name.
func OnPath(name string) func() (string, error) {
	return func() (string, error) { return exec.LookPath(name) }
}

// Install installs Debian packages, as root, without starting the services that they bring: what needs one starts a
// private one.
func Install(ctx context.Context, packages []string) error {
	const policy = "/usr/sbin/policy-rc.d"
	if _, err := os.Stat(policy); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err == nil {
			defer func() { _ = os.Remove(policy) }()
		}
	}
	env := append(os.Environ(), "DEBIAN_FRONTEND=noninteractive") // a proxy may be among the caller's
	for _, args := range [][]string{{"update", "-qq"}, append([]string{"install", "-y", "-qq", "--no-install-recommends"}, packages...)} {
		if _, _, err := Output(ctx, env, nil, "apt-get", args...); err != nil {
			return err
		}
	}
	return nil
}

// Require installs what is missing, as root on Debian and when allowed, or says what to do.
func Require(ctx context.Context, needs []Need, install bool, say *Progress) error {
	var missing []string
	for _, n := range needs {
		if _, err := n.Find(); err != nil {
			missing = append(missing, n.Package)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	_, noApt := exec.LookPath("apt-get")
	if !install || os.Geteuid() != 0 || noApt != nil {
		return fmt.Errorf("these are missing (Debian's names): %s; install them, or run as root on Debian with --install", strings.Join(missing, ", "))
	}
	say.Line("installing %s", strings.Join(missing, " "))
	if err := Install(ctx, missing); err != nil {
		return err
	}
	for _, n := range needs {
		if _, err := n.Find(); err != nil {
			return fmt.Errorf("%s was installed, and what it is for is still missing: %w", n.Package, err)
		}
	}
	return nil
}

// FindPostgres returns the folder of the newest PostgreSQL of version 15 or more.
func FindPostgres() (string, error) {
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

// FindNginx returns nginx, which is not on every user's path.
func FindNginx() (string, error) {
	if p, err := exec.LookPath("nginx"); err == nil {
		return p, nil
	}
	const debian = "/usr/sbin/nginx"
	_, err := os.Stat(debian)
	return debian, err
}

// FindFaketime returns the library that gives a server a clock of its own.
func FindFaketime() (string, error) {
	found, err := filepath.Glob("/usr/lib/*/faketime/libfaketime.so.1")
	if err != nil || len(found) == 0 {
		return "", errors.Join(fmt.Errorf("libfaketime: %w", os.ErrNotExist), err)
	}
	return found[0], nil
}

// Postgres is a server of its own: everybody on this machine may connect to it as postgres.
type Postgres struct {
	*Process
	dir   string
	ports Ports
	Bin   string // folder of its programs
	Cred  *syscall.Credential
	Port  int
	Env   []string // of the server beside BaseEnv, from its next start
}

// PostgresSettings differ from PostgreSQL's defaults in room only: fsync, synchronous_commit,
// full_page_writes and wal_level are as installed.
func PostgresSettings() []string {
	return []string{"max_connections=800", "shared_buffers=512MB", "max_wal_size=4GB"}
}

// StartPostgres makes a cluster below dir and starts it on a free port.
func StartPostgres(ctx context.Context, dir string) (*Postgres, error) {
	p := &Postgres{}
	var err error
	if p.Bin, err = FindPostgres(); err != nil {
		return nil, err
	}
	home := filepath.Join(dir, "postgres")
	if err := os.Mkdir(home, 0o700); err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 { // PostgreSQL refuses to run as root
		u, err := user.Lookup("postgres")
		if err != nil {
			return nil, fmt.Errorf("PostgreSQL does not run as root, and there is no user postgres: %w", err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		p.Cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(home, uid, gid); err != nil {
			return nil, err
		}
	}
	data := filepath.Join(home, "data")
	if _, _, err := Output(ctx, BaseEnv(), p.Cred, filepath.Join(p.Bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"); err != nil {
		return nil, err
	}
	if p.Port, err = p.ports.Next(ctx); err != nil { // kept: it may be started again
		return nil, err
	}
	p.dir = dir
	if err := p.Start(ctx); err != nil {
		if p.Process != nil {
			p.Stop(syscall.SIGINT)
		}
		return nil, err
	}
	return p, nil
}

// Start starts the server, after it was killed too, and waits until it answers.
func (p *Postgres) Start(ctx context.Context) error {
	args := []string{"-D", filepath.Join(p.dir, "postgres", "data"), "-p", strconv.Itoa(p.Port), "-k", "", "-c", "listen_addresses=127.0.0.1"} // no socket: its path would be too long
	for _, s := range PostgresSettings() {
		args = append(args, "-c", s)
	}
	var err error
	if p.Process, err = Spawn(context.WithoutCancel(ctx), p.dir, "postgres", syscall.SIGINT, append(BaseEnv(), p.Env...), p.Cred, filepath.Join(p.Bin, "postgres"), args...); err != nil {
		return err
	}
	return p.Ready(ctx, time.Minute, func(ctx context.Context) error { return p.SQL(ctx, "postgres", "SELECT 1") })
}

// URL returns the address of a database.
func (p *Postgres) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", p.Port, database)
}

// SQL runs statements on a database, on a connection of their own.
func (p *Postgres) SQL(ctx context.Context, database string, statements ...string) error {
	c, err := pgx.Connect(ctx, p.URL(database))
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

// StartRedis starts a server that keeps nothing on disk, and returns its port.
func StartRedis(ctx context.Context, dir, name string) (*Process, int, error) {
	port, err := FreePort(ctx)
	if err != nil {
		return nil, 0, err
	}
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, 0, err
	}
	p, err := Spawn(ctx, dir, name, syscall.SIGTERM, BaseEnv(), nil, bin,
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "no")
	if err != nil {
		return nil, 0, err
	}
	return p, port, p.Ready(ctx, 15*time.Second, Dials(port))
}

// StartEcho starts the echo that Compile has built into dir, and returns its port.
func StartEcho(ctx context.Context, dir string) (*Process, int, error) {
	port, err := FreePort(ctx)
	if err != nil {
		return nil, 0, err
	}
	p, err := Spawn(ctx, dir, "echo-server", syscall.SIGTERM, BaseEnv(), nil, filepath.Join(dir, "echo"), "-listen", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		return nil, 0, err
	}
	return p, port, p.Ready(ctx, 15*time.Second, Dials(port))
}

// StartNginx starts nginx with a configuration, and waits until it listens on a port.
func StartNginx(ctx context.Context, dir, name, prefix, conf string, port int) (*Process, error) {
	bin, err := FindNginx()
	if err != nil {
		return nil, err
	}
	p, err := Spawn(ctx, dir, name, syscall.SIGTERM, BaseEnv(), nil, bin, "-p", prefix, "-e", "stderr", "-c", conf, "-g", "daemon off;")
	if err != nil {
		return nil, err
	}
	return p, p.Ready(ctx, 15*time.Second, Dials(port))
}

// Versions returns what programs say of themselves, the first line of each, whatever their status and wherever they
// write it: nginx writes to its error output, and wrk ends with status 1.
func Versions(ctx context.Context, commands ...[]string) ([]string, error) {
	var out []string
	for _, args := range commands {
		text, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
		first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		if first == "" {
			return nil, fmt.Errorf("%s: %w", strings.Join(args, " "), err)
		}
		out = append(out, first)
	}
	return out, nil
}
