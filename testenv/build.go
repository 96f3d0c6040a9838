package testenv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Servers that no package of the system offers are built from their Go modules, with the
// dependencies that they were released with.
const (
	InfluxModule  = "github.com/influxdata/influxdb"
	InfluxVersion = "v1.8.10"
	InfluxPackage = "./cmd/influxd"
)

// Build builds the program of a package of a module, unless that was done before, and returns its path. It
// takes a minute or so the first time. Several processes may call it at once: one builds, the others wait.
func Build(ctx context.Context, module, version, pkg string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "flashsale-testenv")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	bin := filepath.Join(dir, filepath.Base(pkg)+"-"+version)
	lock, err := os.OpenFile(bin+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }() // and with it the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	get := exec.CommandContext(ctx, "go", "mod", "download", "-json", module+"@"+version)
	get.Dir = dir // in no module: its own versions count, not ours
	out, err := get.Output()
	var found struct{ Dir, Error string }
	_ = json.Unmarshal(out, &found)
	if err != nil || found.Dir == "" {
		return "", fmt.Errorf("download %s %s: %w", module, version, errors.Join(err, errors.New(found.Error)))
	}
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-mod=readonly", "-o", bin+".new", pkg)
	build.Dir = found.Dir
	build.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return "", fmt.Errorf("build %s of %s %s: %w\n%s", pkg, module, version, err, strings.Join(lines[max(0, len(lines)-10):], "\n"))
	}
	return bin, os.Rename(bin+".new", bin)
}
