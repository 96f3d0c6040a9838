package collector

import (
	"testing"
	"testing/fstest"
)

func TestCgroupBounds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files map[string]string
		want  bounds
	}{
		"no cgroups": {nil, bounds{}},
		"version 2, a namespace of its own": {map[string]string{
			"proc/self/cgroup":         "0::/\n",
			"sys/fs/cgroup/cpu.max":    "150000 100000\n",
			"sys/fs/cgroup/memory.max": "536870912\n",
		}, bounds{1.5, 512 << 20}},
		"version 2, no limit": {map[string]string{
			"proc/self/cgroup":         "0::/\n",
			"sys/fs/cgroup/cpu.max":    "max 100000\n",
			"sys/fs/cgroup/memory.max": "max\n",
		}, bounds{}},
		"version 2, the group above is stricter": {map[string]string{
			"proc/self/cgroup":                                        "0::/system.slice/flashsale.service\n",
			"sys/fs/cgroup/system.slice/cpu.max":                      "50000 100000\n",
			"sys/fs/cgroup/system.slice/memory.max":                   "1073741824\n",
			"sys/fs/cgroup/system.slice/flashsale.service/cpu.max":    "200000 100000\n",
			"sys/fs/cgroup/system.slice/flashsale.service/memory.max": "268435456\n",
		}, bounds{0.5, 256 << 20}},
		"version 1, the host's path is not mounted here": {map[string]string{
			"proc/self/cgroup":                            "12:memory:/docker/0123\n4:cpu,cpuacct:/docker/0123\n1:name=systemd:/docker/0123\n",
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us":  "25000\n",
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":  "134217728\n",
		}, bounds{0.25, 128 << 20}},
		"version 1, no limit": {map[string]string{
			"proc/self/cgroup":                           "12:memory:/\n4:cpu,cpuacct:/\n",
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us":         "-1\n",
			"sys/fs/cgroup/cpu/cpu.cfs_period_us":        "100000\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, bounds{}},
		"both versions": {map[string]string{
			"proc/self/cgroup":                      "4:cpu:/a\n0::/b\n",
			"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us":  "300000\n",
			"sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
			"sys/fs/cgroup/unified/b/memory.max":    "4096\n",
		}, bounds{3, 4096}},
		"nonsense": {map[string]string{
			"proc/self/cgroup":         "0\n0::/\n::\nx:cpu\n",
			"sys/fs/cgroup/cpu.max":    "one two\n",
			"sys/fs/cgroup/memory.max": "-5\n",
		}, bounds{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := fstest.MapFS{}
			for path, text := range c.files {
				root[path] = &fstest.MapFile{Data: []byte(text)}
			}
			if got := cgroupBounds(root); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}
