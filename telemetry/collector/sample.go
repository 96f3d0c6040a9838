package collector

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"time"

	"github.com/influxdata/influxdb-client-go/v2/api/write"
	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/shirou/gopsutil/v3/load"
	"github.com/shirou/gopsutil/v3/mem"
	"github.com/shirou/gopsutil/v3/process"
)

// sample is what was read at one moment. It is small, for many are kept while InfluxDB is away.
type sample struct {
	at time.Time

	cpuSeconds float64 // used by the process since it began
	cores      float64 // used by the process, on average since the sample before
	coreLimit  float64 // what the process may use: the host's, or what its control group allows
	rss        int64   // bytes
	memLimit   int64   // bytes
	threads    int32
	goroutines int

	hostCores    int
	hostBusy     float64 // share of the host's CPU time that was not idle since the sample before, 0 to 1
	hostLoad     float64 // average over a minute
	hostUsed     int64   // bytes that cannot be had without swapping
	hostMemory   int64   // bytes
	droppedSoFar int64   // samples that were never written
}

// sampler reads this process and its host.
type sampler struct {
	proc  *process.Process
	root  fs.FS
	clock func() time.Time
	cores int

	last     sample
	hostBusy float64 // seconds, summed over the cores
	hostAll  float64
}

// newSampler reads once, so that the first sample has a time to compare with.
func newSampler(ctx context.Context, root fs.FS, clock func() time.Time) (*sampler, error) {
	p, err := process.NewProcessWithContext(ctx, int32(os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("collector: this process: %w", err)
	}
	cores, err := cpu.CountsWithContext(ctx, true)
	if err != nil || cores < 1 {
		cores = runtime.NumCPU()
	}
	s := &sampler{proc: p, root: root, clock: clock, cores: cores}
	_, err = s.read(ctx)
	return s, err
}

// read returns a sample. The limits are read each time: they can be changed while a container runs.
func (s *sampler) read(ctx context.Context) (sample, error) {
	v := sample{at: s.clock(), hostCores: s.cores, goroutines: runtime.NumGoroutine()}
	used, err := s.proc.TimesWithContext(ctx)
	if err != nil {
		return v, fmt.Errorf("collector: CPU of the process: %w", err)
	}
	memory, err := s.proc.MemoryInfoWithContext(ctx)
	if err != nil {
		return v, fmt.Errorf("collector: memory of the process: %w", err)
	}
	host, err := mem.VirtualMemoryWithContext(ctx)
	if err != nil {
		return v, fmt.Errorf("collector: memory of the host: %w", err)
	}
	all, err := cpu.TimesWithContext(ctx, false)
	if err != nil || len(all) == 0 {
		return v, fmt.Errorf("collector: CPU of the host: %w", err)
	}
	if v.threads, err = s.proc.NumThreadsWithContext(ctx); err != nil {
		return v, fmt.Errorf("collector: threads of the process: %w", err)
	}
	if avg, err := load.AvgWithContext(ctx); err == nil { // not every system has one
		v.hostLoad = avg.Load1
	}
	v.cpuSeconds, v.rss = used.User+used.System, int64(memory.RSS)
	v.hostMemory, v.hostUsed = int64(host.Total), int64(host.Total-host.Available)

	limit := cgroupBounds(s.root)
	limit.tighten(bounds{cores: float64(s.cores), memory: v.hostMemory})
	v.coreLimit, v.memLimit = limit.cores, limit.memory

	t := all[0]
	idle := t.Idle + t.Iowait
	busy := t.User + t.System + t.Nice + t.Irq + t.Softirq + t.Steal
	if took := v.at.Sub(s.last.at).Seconds(); took > 0 {
		v.cores = max(v.cpuSeconds-s.last.cpuSeconds, 0) / took
	}
	if d := busy + idle - s.hostAll; d > 0 {
		v.hostBusy = min(max((busy-s.hostBusy)/d, 0), 1)
	}
	s.last, s.hostBusy, s.hostAll = v, busy, busy+idle
	return v, nil
}

// The measurements. A float or an integer stays one: InfluxDB refuses a field of another type.
const (
	measureProcess = "process"
	measureHost    = "host"
)

// points writes a sample as InfluxDB keeps it.
func (v sample) points(tags map[string]string) []*write.Point {
	return []*write.Point{
		write.NewPoint(measureProcess, tags, map[string]any{
			"cpu_seconds": v.cpuSeconds, "cpu_cores": v.cores, "cpu_limit_cores": v.coreLimit, "cpu_percent": 100 * v.cores / v.coreLimit,
			"memory_bytes": v.rss, "memory_limit_bytes": v.memLimit, "memory_percent": 100 * float64(v.rss) / float64(v.memLimit),
			"threads": int64(v.threads), "goroutines": int64(v.goroutines), "dropped_samples": v.droppedSoFar,
		}, v.at),
		write.NewPoint(measureHost, tags, map[string]any{
			"cpu_count": int64(v.hostCores), "cpu_cores": v.hostBusy * float64(v.hostCores), "cpu_percent": 100 * v.hostBusy, "load1": v.hostLoad,
			"memory_bytes": v.hostUsed, "memory_total_bytes": v.hostMemory, "memory_percent": 100 * float64(v.hostUsed) / float64(v.hostMemory),
		}, v.at),
	}
}
