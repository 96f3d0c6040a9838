package ab

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"flashsale/bench/testbed"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// influx is an InfluxDB that takes writes and Flux queries by the 2.x API. The series are those of the
// services' collector: measurement process, tags service, instance and wiring, fields cpu_seconds and memory_bytes.
type influx struct {
	url, token, org, bucket string
}

const bucketName = "flashsale/autogen"

func (db influx) send(ctx context.Context, path string, query url.Values, kind, body string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, db.url+path+"?"+query.Encode(), strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("Accept", "application/csv")
	if db.token != "" {
		req.Header.Set("Authorization", "Token "+db.token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("InfluxDB: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("InfluxDB at %s answered %d: %.300s", db.url, resp.StatusCode, b)
	}
	return b, err
}

// reading is what a process had used at one moment.
type reading struct {
	service, instance string
	at                time.Time
	cpu               float64 // seconds since it began
	memory            float64 // bytes
}

// write adds readings to the series, as the collector of a service does.
func (db influx) write(ctx context.Context, wiring string, rs []reading) error {
	escape := strings.NewReplacer(" ", `\ `, ",", `\,`, "=", `\=`)
	var b strings.Builder
	for _, r := range rs {
		fmt.Fprintf(&b, "process,service=%s,instance=%s,wiring=%s cpu_seconds=%g,memory_bytes=%di %d\n",
			escape.Replace(r.service), escape.Replace(r.instance), escape.Replace(wiring), r.cpu, int64(r.memory), r.at.UnixNano())
	}
	_, err := db.send(ctx, "/api/v2/write", url.Values{"bucket": {db.bucket}, "org": {db.org}, "precision": {"ns"}}, "text/plain", b.String())
	return err
}

// read returns the readings between two moments, of the processes of a wiring.
func (db influx) read(ctx context.Context, wiring string, from, to time.Time) ([]reading, error) {
	flux := fmt.Sprintf(`from(bucket: %q) |> range(start: %s, stop: %s)
  |> filter(fn: (r) => r._measurement == "process" and r.wiring == %q and (r._field == "cpu_seconds" or r._field == "memory_bytes"))
  |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")`,
		db.bucket, from.UTC().Format(time.RFC3339Nano), to.UTC().Format(time.RFC3339Nano), wiring)
	b, err := db.send(ctx, "/api/v2/query", url.Values{"org": {db.org}}, "application/vnd.flux", flux)
	if err != nil {
		return nil, err
	}
	return parseReadings(b)
}

// late is how long the collectors may keep what they have read: they write every five seconds.
const late = 12 * time.Second

// complete is read, once everybody has written what belongs to the time: the services write now and then. Who has not
// written within that bound is taken as far as it goes.
func (db influx) complete(ctx context.Context, wiring string, from, to time.Time) ([]reading, error) {
	for deadline := time.Now().Add(late); ; {
		rs, err := db.read(ctx, wiring, from, to)
		if err != nil || covers(rs, to.Add(-2*lookEvery)) || time.Now().After(deadline) {
			return rs, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// covers reports whether every instance has a reading at or after a moment.
func covers(rs []reading, moment time.Time) bool {
	last := map[[2]string]time.Time{}
	for _, r := range rs {
		if k := [2]string{r.service, r.instance}; r.at.After(last[k]) {
			last[k] = r.at
		}
	}
	for _, at := range last {
		if at.Before(moment) {
			return false
		}
	}
	return len(last) > 0
}

// parseReadings reads InfluxDB's annotated CSV: a table after another, each with a line of names, an empty line between.
func parseReadings(b []byte) ([]reading, error) {
	var out []reading
	for table := range bytes.SplitSeq(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte("\n\n")) {
		r := csv.NewReader(bytes.NewReader(table))
		r.Comment, r.FieldsPerRecord = '#', -1
		lines, err := r.ReadAll()
		if err != nil {
			return nil, fmt.Errorf("InfluxDB's answer: %w", err)
		}
		if len(lines) == 0 {
			continue
		}
		at := map[string]int{}
		for i, name := range lines[0] {
			at[name] = i
		}
		if i, ok := at["error"]; ok && len(lines) > 1 {
			return nil, fmt.Errorf("InfluxDB: %s", lines[1][i])
		}
		for _, line := range lines[1:] {
			cell := func(name string) string {
				if i, ok := at[name]; ok && i < len(line) {
					return line[i]
				}
				return ""
			}
			v := reading{service: cell("service"), instance: cell("instance")}
			var errs [3]error
			v.at, errs[0] = time.Parse(time.RFC3339Nano, cell("_time"))
			v.cpu, errs[1] = strconv.ParseFloat(cell("cpu_seconds"), 64)
			v.memory, errs[2] = strconv.ParseFloat(cell("memory_bytes"), 64)
			if err := errors.Join(errs[:]...); err != nil {
				return nil, fmt.Errorf("InfluxDB's answer: %w", err)
			}
			out = append(out, v)
		}
	}
	return out, nil
}

// uses sums the readings up: CPU between the first and the last reading of each instance, and the most memory of each,
// the instances of a service together.
func uses(rs []reading) map[string]Use {
	type key struct{ service, instance string }
	by := map[key][]reading{}
	for _, r := range rs {
		k := key{r.service, r.instance}
		by[k] = append(by[k], r)
	}
	out := map[string]Use{}
	for k, list := range by {
		slices.SortFunc(list, func(a, b reading) int { return a.at.Compare(b.at) })
		u := out[k.service]
		first, last := list[0], list[len(list)-1]
		if took := last.at.Sub(first.at).Seconds(); took > 0 {
			u.Cores += (last.cpu - first.cpu) / took
		}
		most := 0.0
		for _, r := range list {
			most = max(most, r.memory)
		}
		u.Memory += most
		out[k.service] = u
	}
	return out
}

// parts are the processes that take part, by what they are called in the report.
type parts struct {
	mu     sync.Mutex
	pids   map[string][]int
	memory map[int]weighed // by process
}

// weighed is the memory that a process and its children had at a moment.
type weighed struct {
	at    time.Time
	bytes int64
}

func (p *parts) add(name string, pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pids == nil {
		p.pids = map[string][]int{}
	}
	p.pids[name] = append(p.pids[name], pid)
}

func (p *parts) remove(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pids, name)
}

func (p *parts) all() map[string][]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.pids)
}

// look reads every part that is there. One that has just ended is left out.
func (p *parts) look(now time.Time) ([]reading, error) {
	shot, err := testbed.Look()
	if err != nil {
		return nil, err
	}
	var out []reading
	for name, pids := range p.all() {
		for i, pid := range pids {
			cpu, err := shot.CPU(pid)
			if err != nil {
				continue
			}
			memory, err := p.weigh(shot, pid, now)
			if err != nil {
				continue
			}
			out = append(out, reading{service: name, instance: strconv.Itoa(i + 1), at: now, cpu: cpu.Seconds(), memory: float64(memory)})
		}
	}
	return out, nil
}

// weigh reads a process's memory, or remembers it: what PostgreSQL's backends share has to be counted page by page,
// which took 4 of 100 samples of the CPU in a profile when it was done at every look.
func (p *parts) weigh(shot testbed.Snapshot, pid int, now time.Time) (int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if was, ok := p.memory[pid]; ok && now.Sub(was.at) < weighEvery {
		return was.bytes, nil
	}
	bytes, err := shot.Memory(pid)
	if err == nil {
		if p.memory == nil {
			p.memory = map[int]weighed{}
		}
		p.memory[pid] = weighed{now, bytes}
	}
	return bytes, err
}

const (
	lookEvery  = 2 * time.Second
	weighEvery = 10 * time.Second
)

// watch writes what the parts use into the series until ctx ends, and once more then. It returns the first error: a
// run whose use is not known is not a run of record.
func (p *parts) watch(ctx context.Context, db influx, wiring string) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		rs, err := p.look(time.Now())
		if err != nil {
			return err
		}
		if len(rs) > 0 {
			if err := db.write(context.WithoutCancel(ctx), wiring, rs); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
