package testenv

import (
	"context"
	"flashsale/nginx"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// NginxBin returns where nginx is: on Debian it is not on every user's path.
func NginxBin() (string, error) {
	const debian = "/usr/sbin/nginx"
	if _, err := os.Stat(debian); err == nil {
		return debian, nil
	}
	return exec.LookPath("nginx")
}

// NginxFolder writes the configuration for a site into a folder of the test's own, which nginx's
// workers can enter whoever they run as.
func NginxFolder(t testing.TB, s nginx.Site) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "flashsale-nginx-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := nginx.Write(dir, s); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Nginx starts nginx in front of a site's instances, in the configuration of a wiring ("sync" or
// "async"), and returns host:port. It ends with the test.
func Nginx(t testing.TB, wiring string, s nginx.Site) string {
	t.Helper()
	bin, err := NginxBin()
	if err != nil {
		t.Fatal("no nginx: run `make test`, or install nginx 1.22 or newer")
	}
	s.Listen = net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(t)))
	dir := NginxFolder(t, s)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(bin, "-p", dir+"/", "-e", "stderr", "-c", filepath.Join(dir, wiring+".conf"), "-g", "daemon off;")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("nginx: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // SIGKILL would leave its workers
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", s.Listen)
		if err == nil {
			_ = c.Close()
			return s.Listen
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("nginx does not answer on %s: %v\n%s", s.Listen, err, said)
		}
	}
}
