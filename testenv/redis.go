package testenv

import (
	"context"
	"flashsale/bench/testbed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// RedisServer is a Redis process of one test's own.
type RedisServer struct {
	t    testing.TB
	bin  string
	port int
	dir  string
	cmd  *exec.Cmd
}

// Redis starts n servers without persistence and returns their URLs. They end with the test.
func Redis(t testing.TB, n int) []string {
	t.Helper()
	urls := make([]string, n)
	for i := range urls {
		urls[i] = StartRedis(t).URL()
	}
	return urls
}

// StartRedis starts one server. It ends with the test.
func StartRedis(t testing.TB) *RedisServer {
	t.Helper()
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal("no redis-server on the PATH: run `make test`, or install Redis 7.0 or newer")
	}
	r := &RedisServer{t: t, bin: bin, port: FreePort(t), dir: t.TempDir()}
	r.Start()
	t.Cleanup(r.Kill)
	return r
}

// URL returns the server's URL.
func (r *RedisServer) URL() string { return fmt.Sprintf("redis://127.0.0.1:%d/0", r.port) }

// Start starts the process on its port and folder, and waits until it answers. A snapshot that is
// in the folder is loaded.
func (r *RedisServer) Start() {
	r.t.Helper()
	log := filepath.Join(r.dir, "log")
	r.cmd = exec.Command(r.bin, "--port", strconv.Itoa(r.port), "--bind", "127.0.0.1", "--dir", r.dir,
		"--save", "", "--appendonly", "no", "--dbfilename", "dump.rdb", "--logfile", log)
	if err := r.cmd.Start(); err != nil {
		r.t.Fatalf("redis-server: %v", err)
	}
	for deadline := time.Now().Add(15 * time.Second); ; {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", r.port))
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			tail, _ := os.ReadFile(log)
			r.t.Fatalf("redis-server on port %d does not answer: %v\n%s", r.port, err, tail)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Kill ends the process with SIGKILL. It may be called twice.
func (r *RedisServer) Kill() {
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
	r.cmd = nil
}

// FreePort returns a TCP port of 127.0.0.1 that nobody listens on, and that no other test is given
// until this one ends.
func FreePort(t testing.TB) int {
	t.Helper()
	port, release, err := testbed.ClaimPort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return port
}
