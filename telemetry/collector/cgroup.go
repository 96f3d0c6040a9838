package collector

import (
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// bounds are what a control group lets its processes use; zero means that it says nothing.
type bounds struct {
	cores  float64
	memory int64 // bytes
}

// tighten takes over what is stricter.
func (b *bounds) tighten(o bounds) {
	if o.cores > 0 && (b.cores == 0 || o.cores < b.cores) {
		b.cores = o.cores
	}
	if o.memory > 0 && (b.memory == 0 || o.memory < b.memory) {
		b.memory = o.memory
	}
}

// cgroupBounds reads the limits of this process's control groups, version 1 or 2, from the file system
// at root. A limit of a group above holds too. Inside a container the path that the kernel names may be
// the host's, which is not mounted there: what is there, up to the mount itself, is what counts.
func cgroupBounds(root fs.FS) bounds {
	var b bounds
	for _, line := range strings.Split(text(root, "proc/self/cgroup"), "\n") {
		number, rest, _ := strings.Cut(line, ":")
		controllers, group, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		for _, mount := range mounts(number, controllers) {
			for dir := path.Join(mount, group); strings.HasPrefix(dir, mount); dir = path.Dir(dir) {
				b.tighten(groupBounds(root, dir))
			}
		}
	}
	return b
}

// mounts returns where a hierarchy may be mounted.
func mounts(number, controllers string) []string {
	const base = "sys/fs/cgroup"
	if number == "0" && controllers == "" { // version 2, alone or beside version 1
		return []string{base, base + "/unified"}
	}
	var at []string
	for _, c := range strings.Split(controllers, ",") {
		if c == "cpu" || c == "memory" {
			at = append(at, base+"/"+controllers)
			if c != controllers {
				at = append(at, base+"/"+c)
			}
		}
	}
	return at
}

func groupBounds(root fs.FS, dir string) bounds {
	var b bounds
	if quota, period, ok := strings.Cut(text(root, dir+"/cpu.max"), " "); ok {
		b.tighten(bounds{cores: ratio(quota, period)}) // "max 100000" has no quota
	}
	b.tighten(bounds{cores: ratio(text(root, dir+"/cpu.cfs_quota_us"), text(root, dir+"/cpu.cfs_period_us"))})
	for _, name := range []string{"memory.max", "memory.limit_in_bytes"} {
		if n, err := strconv.ParseInt(text(root, dir+"/"+name), 10, 64); err == nil && n > 0 && n < noLimit {
			b.tighten(bounds{memory: n})
		}
	}
	return b
}

// noLimit is about what version 1 says when there is no limit: the largest multiple of a page.
const noLimit = 1 << 60

func ratio(quota, period string) float64 {
	q, err := strconv.ParseFloat(quota, 64)
	p, perr := strconv.ParseFloat(period, 64)
	if err != nil || perr != nil || q <= 0 || p <= 0 {
		return 0
	}
	return q / p
}

func text(root fs.FS, name string) string {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return "" // not this version, or not limited here
	}
	return strings.TrimSpace(string(b))
}
