package testbed

import (
	"context"
	"flashsale/id"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Describe says what the figures were taken on.
func Describe(dir string) (map[string]string, error) {
	m := map[string]string{"cores": fmt.Sprint(runtime.NumCPU())}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.SplitSeq(string(b), "\n") {
			if name, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m["cpu"] = strings.TrimSpace(v)
				break
			}
		}
	}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	total, err := kilobytes(string(b), "MemTotal:")
	if err != nil {
		return nil, err
	}
	m["memory"] = fmt.Sprintf("%.1f GB", float64(total)/(1<<30))
	if b, err = os.ReadFile("/proc/sys/kernel/osrelease"); err != nil {
		return nil, err
	}
	m["kernel"] = strings.TrimSpace(string(b))
	sync, err := syncTime(dir)
	if err != nil {
		return nil, err
	}
	m["disk"] = fmt.Sprintf("%s, fdatasync of 8 kB in %.2f ms (median)", fileSystem(dir), sync)
	return m, nil
}

// fileSystem names the kinds that matter: on one in memory, durable means nothing.
func fileSystem(dir string) string {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return "unknown"
	}
	switch s.Type {
	case 0x01021994, 0x858458f6:
		return "MEMORY ONLY (tmpfs): these figures are not durable, name a folder on a disk with --dir"
	case 0xef53:
		return "ext4"
	case 0x58465342:
		return "xfs"
	case 0x9123683e:
		return "btrfs"
	case 0x794c7630:
		return "overlayfs"
	}
	return fmt.Sprintf("file system %#x", s.Type)
}

// syncTime measures what one commit must wait for at least, ms.
func syncTime(dir string) (float64, error) {
	f, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return 0, err
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	page := make([]byte, 8<<10)
	var took []float64
	for range 50 {
		if _, err := f.Write(page); err != nil {
			return 0, err
		}
		began := time.Now()
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		took = append(took, float64(time.Since(began))/float64(time.Millisecond))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// Checkout returns the folder of the module that the command was started in.
func Checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if b, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && strings.HasPrefix(string(b), "module flashsale\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("run it in the checkout: no go.mod of flashsale here or above")
		}
	}
}

// CommitOf returns the checkout's commit and whether there is more than it holds.
func CommitOf(ctx context.Context, root string) (string, bool, error) {
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", root}, args...)...)
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	commit, err := git("rev-parse", "HEAD")
	if err != nil {
		return "", false, fmt.Errorf("git: %w", err)
	}
	status, err := git("status", "--porcelain")
	return commit, status != "", err
}

// Folder makes a temporary folder with a name of its own. It is below the system's when parent is empty.
func Folder(parent, prefix string) (string, error) {
	if parent == "" {
		parent = os.TempDir()
	}
	dir, err := filepath.Abs(filepath.Join(parent, prefix+id.New(time.Now()).String()))
	if err != nil {
		return "", err
	}
	return dir, os.Mkdir(dir, 0o755) // PostgreSQL and nginx's workers are other users
}
