package testbed

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of /proc/<pid>/stat. Linux tells user space 100 a second on every machine.
const tick = 10 * time.Millisecond

// procStat is what is read of /proc/<pid>/stat: the process's own time, and its ended children's.
type procStat struct {
	parent      int
	own, reaped time.Duration
}

func parseStat(text string) (procStat, error) {
	// The name is in brackets and may hold anything, brackets too.
	end := strings.LastIndexByte(text, ')')
	if end < 0 {
		return procStat{}, fmt.Errorf("not a process's stat: %q", text)
	}
	f := strings.Fields(text[end+1:])
	if len(f) < 15 {
		return procStat{}, fmt.Errorf("not a process's stat: %q", text)
	}
	var n [5]int64 // parent, user, system, children's user and system
	for i, at := range []int{1, 11, 12, 13, 14} {
		v, err := strconv.ParseInt(f[at], 10, 64)
		if err != nil {
			return procStat{}, fmt.Errorf("stat field %d: %w", at, err)
		}
		n[i] = v
	}
	return procStat{parent: int(n[0]), own: time.Duration(n[1]+n[2]) * tick, reaped: time.Duration(n[3]+n[4]) * tick}, nil
}

// Snapshot is what the processes of this machine had used at one moment.
type Snapshot struct{ all map[int]procStat }

// Look takes a snapshot.
func Look() (Snapshot, error) {
	all, err := processes()
	return Snapshot{all}, err
}

// Tree lists a process and all its children, or nothing when it is gone.
func (s Snapshot) Tree(root int) (pids []int) {
	if _, ok := s.all[root]; !ok {
		return nil
	}
	for pid := range s.all {
		if pid == root || descends(s.all, pid, root) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// CPU returns the time of a process and all its children, ended ones included: what a child used moves to its parent
// when it ends.
func (s Snapshot) CPU(pid int) (time.Duration, error) {
	tree := s.Tree(pid)
	if len(tree) == 0 {
		return 0, fmt.Errorf("process %d is gone", pid)
	}
	var sum time.Duration
	for _, p := range tree {
		sum += s.all[p].own + s.all[p].reaped
	}
	return sum, nil
}

// Memory returns what a process and all its children have of the machine's memory, in bytes. Pages that several of
// them share are counted once, as the kernel divides them (Pss).
func (s Snapshot) Memory(pid int) (int64, error) {
	tree := s.Tree(pid)
	if len(tree) == 0 {
		return 0, fmt.Errorf("process %d is gone", pid)
	}
	file, name := "status", "VmRSS:" // much cheaper, and the same for one process
	if len(tree) > 1 {
		file, name = "smaps_rollup", "Pss:"
	}
	var sum int64
	for _, p := range tree {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p, file))
		if err != nil {
			continue // it has ended meanwhile
		}
		if n, err := kilobytes(string(b), name); err == nil { // one that is ending has none any more
			sum += n
		}
	}
	return sum, nil
}

// CPUOf returns the CPU time of processes and all their children.
func CPUOf(pids ...int) (time.Duration, error) {
	s, err := Look()
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, pid := range pids {
		cpu, err := s.CPU(pid)
		if err != nil {
			return 0, err
		}
		sum += cpu
	}
	return sum, nil
}

// processes reads all that run on this machine.
func processes() (map[int]procStat, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	all := map[int]procStat{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended meanwhile
		}
		s, err := parseStat(string(b))
		if err != nil {
			return nil, err
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		all[pid] = s
	}
	return all, nil
}

func descends(all map[int]procStat, pid, root int) bool {
	for range 16 {
		s, ok := all[pid]
		if !ok || s.parent == 0 {
			return false
		}
		if s.parent == root {
			return true
		}
		pid = s.parent
	}
	return false
}

// MachineBusy returns the time that all cores were busy, other guests' included: what the whole
// machine did beside the benchmark is told with the figures.
func MachineBusy() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseBusy(string(b))
}

func parseBusy(text string) (time.Duration, error) {
	line, _, _ := strings.Cut(text, "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, fmt.Errorf("not the machine's stat: %q", line)
	}
	var sum int64
	for i, text := range f[1:9] {
		if i == 3 || i == 4 { // idle, and waiting for a disk
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return time.Duration(sum) * tick, nil
}

// ResidentAnon returns the anonymous memory of a process in bytes: heap and stacks, no files.
func ResidentAnon(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	return kilobytes(string(b), "RssAnon:")
}

func kilobytes(text, name string) (int64, error) {
	for line := range strings.SplitSeq(text, "\n") {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no %s", name)
}
