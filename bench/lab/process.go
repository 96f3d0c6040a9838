package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// process is a server that the benchmark has started, in a process group of its own.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// spawn starts a server with this environment only. When ctx ends it is told to stop.
func spawn(ctx context.Context, dir, name string, gentle syscall.Signal, env []string, cred *syscall.Credential, bin string, args ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
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

func (p *process) Pid() int { return p.cmd.Process.Pid }

// signal tells the whole group, and lets it go on if it is paused: a paused process hears nothing.
func (p *process) signal(s syscall.Signal) error {
	err := syscall.Kill(-p.Pid(), s)
	return errors.Join(err, syscall.Kill(-p.Pid(), syscall.SIGCONT))
}

// stop ends the group: gently, then not.
func (p *process) stop(gentle syscall.Signal) {
	_ = p.signal(gentle)
	select {
	case <-p.done:
	case <-time.After(15 * time.Second):
	}
	_ = syscall.Kill(-p.Pid(), syscall.SIGKILL)
	<-p.done
}

// pause keeps an idle service from using the cores while its baseline is measured.
func (p *process) pause() error { return syscall.Kill(-p.Pid(), syscall.SIGSTOP) }

func (p *process) resume() error { return syscall.Kill(-p.Pid(), syscall.SIGCONT) }

// ready polls until a server answers.
func (p *process) ready(ctx context.Context, bound time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s has ended:\n%s", p.name, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w\n%s", p.name, err, p.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *process) tail() string {
	b, _ := os.ReadFile(p.log)
	return Tail(string(b))
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

// FreePort returns a port that was free a moment ago.
func FreePort(ctx context.Context) (int, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// dials asks whether somebody listens on a port.
func dials(port int) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return err
		}
		return c.Close()
	}
}
