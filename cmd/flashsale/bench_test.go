package main

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inFolder lists the processes that were started for a folder: it is in their command, their settings or their place.
func inFolder(t *testing.T, folder string) (found []string) {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(procs) == 0 {
		t.Fatalf("no processes are listed: %v", err)
	}
	for _, p := range procs {
		command, _ := os.ReadFile(p + "/cmdline") // one that has ended has none
		env, _ := os.ReadFile(p + "/environ")
		place, _ := os.Readlink(p + "/cwd")
		if len(command) > 0 && (bytes.Contains(command, []byte(folder)) || bytes.Contains(env, []byte(folder)) || strings.HasPrefix(place, folder)) {
			found = append(found, filepath.Base(p)+" "+strings.ReplaceAll(string(command), "\x00", " "))
		}
	}
	return found
}

// TestBenchInterrupted: Ctrl-C while the whole topology is up, nginx, brokers and sixteen services, ends every process and
// leaves no file.
func TestBenchInterrupted(t *testing.T) {
	t.Parallel()
	folder, err := os.MkdirTemp("", "flashsale-interrupted-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o755); err != nil { // PostgreSQL and nginx's workers are other users
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	// k6 is not needed before the shop is open, and building it takes minutes.
	cmd := exec.CommandContext(ctx, self, "bench", "ab", "--short", "--in=processes", "--install=false", "--k6", "true", "--dir", folder, "--out", folder+"/out")
	cmd.Env = append(os.Environ(), runMain+"=1")
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	up := false
	for lines := bufio.NewScanner(said); lines.Scan(); {
		text.WriteString(lines.Text() + "\n")
		if !up && strings.Contains(lines.Text(), "accounts:") { // the topology is up, and in use
			up = true
			if n := len(inFolder(t, folder)); n < 20 {
				t.Errorf("only %d processes are up: the test looks in the wrong place", n)
			}
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Error(err)
			}
		}
	}
	err = cmd.Wait()
	if !up || err == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Fatalf("the topology came up: %t, the end: %v\n%s", up, err, text.String())
	}
	if left := inFolder(t, folder); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	if files, _ := filepath.Glob(folder + "/*"); len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}
}

// TestBenchCompareRefuses: what is no report is named, and what to do.
func TestBenchCompareRefuses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.json")
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := root()
	cmd.SetArgs([]string{"bench", "compare", path, path})
	if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "flashsale bench ab") {
		t.Errorf("%v", err)
	}
}
