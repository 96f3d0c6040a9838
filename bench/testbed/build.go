package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Build builds the program of a package of another module, with the dependencies that it was released with, unless that
// was done before, and returns its path: for servers that no package of the system offers. It takes a minute or so the first time. Several processes may call it at once: one builds, the others wait.
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
		return "", fmt.Errorf("build %s of %s %s: %w\n%s", pkg, module, version, err, Tail(string(out)))
	}
	return bin, os.Rename(bin+".new", bin)
}

// Compile builds programs of the checkout into a folder, each by the last part of its package's name.
func Compile(ctx context.Context, root, dir string, packages ...string) error {
	for _, pkg := range packages {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, filepath.Base(pkg)), pkg)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build %s: %w\n%s", pkg, err, Tail(string(out)))
		}
	}
	return nil
}
