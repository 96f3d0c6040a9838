// Package testbed starts servers and programs for benchmarks, on 127.0.0.1 and on free ports, and tells
// what they use of the machine.
package testbed

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a server that the benchmark has started, in a process group of its own.
type Process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// Spawn starts a server with this environment only. When ctx ends it is told to stop.
func Spawn(ctx context.Context, dir, name string, gentle syscall.Signal, env []string, cred *syscall.Credential, bin string, args ...string) (*Process, error) {
	p := &Process{name: name, log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	f, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	p.cmd = exec.CommandContext(ctx, bin, args...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir, p.cmd.Env = f, f, "/", env
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: cred}
	p.cmd.Cancel = func() error { return p.signal(gentle) }
	p.cmd.WaitDelay = 10 * time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID returns the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// signal tells the whole group, and lets it go on if it is paused: a paused process hears nothing.
func (p *Process) signal(s syscall.Signal) error {
	err := syscall.Kill(-p.PID(), s)
	return errors.Join(err, syscall.Kill(-p.PID(), syscall.SIGCONT))
}

// Stop ends the group: gently, then not.
func (p *Process) Stop(gentle syscall.Signal) {
	_ = p.signal(gentle)
	select {
	case <-p.done:
	case <-time.After(15 * time.Second):
	}
	_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
	<-p.done
}

// Pause keeps an idle service from using the cores while its baseline is measured.
func (p *Process) Pause() error { return syscall.Kill(-p.PID(), syscall.SIGSTOP) }

// Resume lets it go on.
func (p *Process) Resume() error { return syscall.Kill(-p.PID(), syscall.SIGCONT) }

// Ready polls until a server answers.
func (p *Process) Ready(ctx context.Context, bound time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s has ended:\n%s", p.name, p.Log())
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w\n%s", p.name, err, p.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Log returns the last lines that it has written.
func (p *Process) Log() string {
	b, _ := os.ReadFile(p.log)
	return Tail(string(b))
}

// Wait waits until it has ended, and returns its status: -1 when a signal has ended it.
func (p *Process) Wait() int {
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

// Output runs a program to its end and returns what it printed.
func Output(ctx context.Context, env []string, cred *syscall.Credential, bin string, args ...string) (stdout string, cpu time.Duration, err error) {
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env, cmd.Dir = env, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: cred}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.Output()
	if cmd.ProcessState != nil {
		cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	if err != nil {
		if ctx.Err() != nil {
			return "", cpu, ctx.Err()
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return string(out), cpu, fmt.Errorf("%s: %w\n%s%s", filepath.Base(bin), err, Tail(string(out)), Tail(string(exit.Stderr)))
		}
		return string(out), cpu, fmt.Errorf("%s: %w", filepath.Base(bin), err)
	}
	return string(out), cpu, nil
}

// BaseEnv is what every program gets: nothing of the caller's settings may change a figure.
func BaseEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "TZ=UTC"}
}

// ClaimPort returns a TCP port of 127.0.0.1 that nobody listens on, and keeps the UDP port of the same number until
// release: nobody else who claims gets it meanwhile, in this process or another. It is below the range that systems take
// for outgoing connections, which would steal a port between two listeners.
func ClaimPort(ctx context.Context) (port int, release func(), err error) {
	for range 1000 {
		port = 15_000 + rand.IntN(17_000)
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		claim, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", addr)
		if err != nil {
			continue
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		if err != nil {
			_ = claim.Close()
			continue
		}
		_ = l.Close()
		return port, func() { _ = claim.Close() }, nil
	}
	return 0, nil, errors.New("no free port from 15000 to 31999")
}

// Ports are claimed together, and released together.
type Ports struct{ releases []func() }

// Next claims another port.
func (p *Ports) Next(ctx context.Context) (int, error) {
	port, release, err := ClaimPort(ctx)
	if err == nil {
		p.releases = append(p.releases, release)
	}
	return port, err
}

// Release gives the ports back. It may be called twice.
func (p *Ports) Release() {
	for _, release := range p.releases {
		release()
	}
	p.releases = nil
}

// FreePort returns a port for a server that is started at once.
func FreePort(ctx context.Context) (int, error) {
	var p Ports
	defer p.Release()
	return p.Next(ctx)
}

// Dials asks whether somebody listens on a port.
func Dials(port int) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// Tail returns the last lines of a text: what a person needs to see of a log.
func Tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
