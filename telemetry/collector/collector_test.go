package collector

import (
	"compress/gzip"
	"context"
	"flashsale/testenv"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"
)

// lines is a log that can be read while it is written.
type lines struct{ testenv.Text }

func (l *lines) all() []string {
	text := strings.TrimSpace(l.String())
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// run starts a collector, a sample every 10 ms, and returns it with what it logs and how to stop it.
func run(t *testing.T, change func(*Options)) (*Collector, *lines, func()) {
	t.Helper()
	log := &lines{}
	o := Options{
		Service: "order+payment", Instance: "box:1", Wiring: "async", Every: 10 * time.Millisecond,
		Flush: 20 * time.Millisecond, Root: os.DirFS("/"), Clock: time.Now, Log: slog.New(slog.NewTextHandler(log, nil)),
	}
	change(&o)
	c, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-ended:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(10 * time.Second):
				t.Error("the collector does not stop")
			}
		})
	}
	t.Cleanup(stop)
	return c, log, stop
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// rows returns what InfluxDB has of a measurement, a map from field to its values' texts.
func rows(t *testing.T, db testenv.InfluxDB, measurement string) (fields map[string][]string, all []map[string]string) {
	t.Helper()
	all, err := db.Flux(fmt.Sprintf(`from(bucket:%q) |> range(start:-1h) |> filter(fn:(r) => r._measurement == %q)`, db.Bucket, measurement))
	if err != nil {
		t.Fatal(err)
	}
	fields = map[string][]string{}
	for _, r := range all {
		fields[r["_field"]] = append(fields[r["_field"]], r["_value"])
	}
	return fields, all
}

// TestAway: InfluxDB is not there, comes, goes and comes back. The log has one line for each change, the service
// starts without it, and every sample arrives.
func TestAway(t *testing.T) {
	t.Parallel()
	db := testenv.Influx(t)
	target, err := url.Parse(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t)))
	open := func() (closed func()) { // the way to InfluxDB
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: httputil.NewSingleHostReverseProxy(target)}
		go func() { _ = s.Serve(l) }()
		return func() { _ = s.Close() }
	}
	c, log, stop := run(t, func(o *Options) { o.URL, o.Bucket, o.Batch = "http://"+addr, db.Bucket, 7 })
	until(t, "samples wait", func() bool { s := c.Stats(); return s.Away && s.Waiting >= 20 })
	if got := log.all(); len(got) != 1 || !strings.Contains(got[0], "level=WARN") || !strings.Contains(got[0], addr) {
		t.Fatalf("while it is away the log says:\n%s", strings.Join(got, "\n"))
	}
	closed := open()
	until(t, "what waited is written", func() bool { s := c.Stats(); return !s.Away && s.Written >= 30 })
	if got := log.all(); len(got) != 2 || !strings.Contains(got[1], "level=INFO") {
		t.Fatalf("after it came the log says:\n%s", strings.Join(got, "\n"))
	}
	closed()
	until(t, "it is missed", func() bool { s := c.Stats(); return s.Away && s.Waiting >= 10 })
	closed = open()
	defer func() { closed() }()
	until(t, "it is found again", func() bool { return !c.Stats().Away })
	stop()
	s := c.Stats()
	if got := log.all(); len(got) != 4 {
		t.Errorf("four changes, and the log says:\n%s", strings.Join(got, "\n"))
	}
	fields, all := rows(t, db, "process")
	// A write that was cut off may have arrived: it is repeated, and a point that is there is overwritten.
	if n := int64(len(fields["cpu_seconds"])); n != s.Written || s.Written != s.Read || s.Dropped != 0 || s.Waiting != 0 {
		t.Errorf("InfluxDB has %d samples, the collector says %+v", n, s)
	}
	for _, r := range all {
		if r["service"] != "order+payment" || r["instance"] != "box:1" || r["wiring"] != "async" {
			t.Fatalf("tags of %v", r)
		}
	}
}

// TestRequest: a write is what the API of InfluxDB 2 says: organisation, bucket, precision and token, and the points of a sample as
// lines, each with the tags and its time in nanoseconds.
func TestRequest(t *testing.T) {
	t.Parallel()
	type written struct {
		method, path, token, body string
		query                     url.Values
	}
	said := make(chan written, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			body = z
		}
		b, err := io.ReadAll(body)
		if err != nil {
			t.Error(err)
		}
		select {
		case said <- written{r.Method, r.URL.Path, r.Header.Get("Authorization"), string(b), r.URL.Query()}:
		default: // one is enough
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(server.Close)
	began := time.Now()
	_, _, stop := run(t, func(o *Options) {
		o.URL, o.Org, o.Bucket, o.Token = server.URL, "a shop", "watched", "a-token-of-2.7=="
	})
	got := <-said
	stop()
	if got.method != "POST" || got.path != "/api/v2/write" || got.token != "Token a-token-of-2.7==" ||
		got.query.Get("org") != "a shop" || got.query.Get("bucket") != "watched" || got.query.Get("precision") != "ns" {
		t.Errorf("%s %s %v %s", got.method, got.path, got.query, got.token)
	}
	lines := strings.Split(strings.TrimSpace(got.body), "\n")
	if len(lines) < 2 || len(lines)%2 != 0 {
		t.Fatalf("%d lines:\n%s", len(lines), got.body)
	}
	for i, line := range lines {
		const tags = ",instance=box:1,service=order+payment,wiring=async "
		if want := []string{"process", "host"}[i%2]; !strings.HasPrefix(line, want+tags) {
			t.Errorf("the line %q is not of %s%s", line, want, tags)
		}
		at, err := strconv.ParseInt(line[strings.LastIndexByte(line, ' ')+1:], 10, 64)
		if when := time.Unix(0, at); err != nil || when.Before(began) || when.After(time.Now()) {
			t.Errorf("the line %q is of %s (%v)", line, when, err)
		}
	}
}

// TestPassword: InfluxDB 1.8 takes user:password for a token, and with a wrong one samples are kept, not lost.
func TestPassword(t *testing.T) {
	t.Parallel()
	db := testenv.InfluxOf(t, "flashsale", "a-secret")
	c, _, stop := run(t, func(o *Options) { o.URL, o.Bucket, o.Token = db.URL, db.Bucket, "flashsale:a-secret" })
	until(t, "samples are written", func() bool { return c.Stats().Written >= 5 })
	stop()
	fields, _ := rows(t, db, "process")
	if s := c.Stats(); int64(len(fields["cpu_seconds"])) != s.Written || s.Dropped != 0 {
		t.Errorf("InfluxDB has %d samples, the collector says %+v", len(fields["cpu_seconds"]), s)
	}
	c, log, _ := run(t, func(o *Options) { o.URL, o.Bucket, o.Token = db.URL, db.Bucket, "flashsale:another" })
	until(t, "they are refused", func() bool { s := c.Stats(); return s.Away && s.Waiting >= 10 })
	if s := c.Stats(); s.Written != 0 || s.Dropped != 0 || !strings.Contains(strings.Join(log.all(), ""), "Check its URL, token") {
		t.Errorf("%+v, and the log says %v", s, log.all())
	}
}

// TestFigures: what was read is what this process has used, against the limits of its control group.
func TestFigures(t *testing.T) {
	t.Parallel()
	db := testenv.Influx(t)
	root := fstest.MapFS{
		"proc/self/cgroup":         {Data: []byte("0::/\n")},
		"sys/fs/cgroup/cpu.max":    {Data: []byte("50000 100000\n")},
		"sys/fs/cgroup/memory.max": {Data: []byte("4294967296\n")},
	}
	c, _, stop := run(t, func(o *Options) { o.URL, o.Bucket, o.Root, o.Every = db.URL, db.Bucket, root, 100*time.Millisecond })
	for began := time.Now(); time.Since(began) < 500*time.Millisecond; { // work
	}
	until(t, "samples are written", func() bool { return c.Stats().Written >= 6 })
	stop()
	process, _ := rows(t, db, "process")
	host, _ := rows(t, db, "host")
	most := func(values []string) (m float64) {
		for _, v := range values {
			f, err := strconv.ParseFloat(v, 64)
			if err != nil {
				t.Fatal(err)
			}
			m = max(m, f)
		}
		return m
	}
	within := func(name string, values []string, low, high float64) {
		if got := most(values); !(got >= low && got <= high) {
			t.Errorf("%s is at most %g, want %g to %g", name, got, low, high)
		}
	}
	within("cpu_limit_cores", process["cpu_limit_cores"], 0.5, 0.5)
	within("memory_limit_bytes", process["memory_limit_bytes"], 4<<30, 4<<30)
	within("cpu_seconds", process["cpu_seconds"], 0.05, 600)
	within("cpu_cores", process["cpu_cores"], 0.05, 128)
	within("memory_bytes", process["memory_bytes"], 1<<20, 4<<30)
	within("threads", process["threads"], 2, 10_000)
	within("goroutines", process["goroutines"], 2, 10_000)
	if cores, percent := most(process["cpu_cores"]), most(process["cpu_percent"]); percent < 199.9*cores || percent > 200.1*cores {
		t.Errorf("%g cores of half a core are %g %%", cores, percent)
	}
	if rss, percent := most(process["memory_bytes"]), most(process["memory_percent"]); percent < 99.9*rss/(4<<30) || percent > 100.1*rss/(4<<30) {
		t.Errorf("%g bytes of 4 GiB are %g %%", rss, percent)
	}
	within("host cpu_percent", host["cpu_percent"], 1, 100)
	within("host cpu_count", host["cpu_count"], 1, 4096)
	within("host cpu_cores", host["cpu_cores"], 0.01, most(host["cpu_count"]))
	within("host memory_bytes", host["memory_bytes"], 1<<20, most(host["memory_total_bytes"]))
	within("host memory_percent", host["memory_percent"], 0.1, 100)
	if len(process) != 10 || len(host) != 7 || len(host["load1"]) == 0 {
		t.Errorf("fields of process %d, of host %d", len(process), len(host))
	}
}

// TestBounded: the buffer keeps the newest samples and counts the others, and nothing waits for InfluxDB.
func TestBounded(t *testing.T) {
	t.Parallel()
	var hold sync.RWMutex
	hold.Lock()
	var release sync.Once
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		hold.RLock()
		defer hold.RUnlock()
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { release.Do(hold.Unlock) })
	c, _, stop := run(t, func(o *Options) { o.URL, o.Buffer, o.Batch = server.URL, 10, 4 })
	until(t, "samples are dropped", func() bool { return c.Stats().Dropped >= 20 }) // InfluxDB hangs: sampling goes on
	if n := c.Stats().Waiting; n != 10 {
		t.Errorf("%d samples wait, the bound is 10", n)
	}
	release.Do(hold.Unlock)
	until(t, "it goes on", func() bool { return c.Stats().Written >= 20 })
	stop()
}

// TestRefused: what InfluxDB will never take does not keep the rest waiting; what it may take later is kept.
func TestRefused(t *testing.T) {
	t.Parallel()
	for code, dropped := range map[int]bool{400: true, 413: true, 422: true, 401: false, 404: false, 429: false, 500: false, 503: false} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			refuse := true
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				if refuse {
					w.WriteHeader(code)
					return
				}
				w.WriteHeader(http.StatusNoContent)
			}))
			t.Cleanup(server.Close)
			c, log, stop := run(t, func(o *Options) { o.URL = server.URL })
			until(t, "it is refused", func() bool { return c.Stats().Away })
			mu.Lock()
			before := c.Stats()
			refuse = false
			mu.Unlock()
			until(t, "it is taken", func() bool { s := c.Stats(); return !s.Away && s.Written > 0 })
			stop()
			if s := c.Stats(); (s.Dropped > 0) != dropped || dropped && before.Dropped == 0 {
				t.Errorf("after %d: %+v", code, s)
			}
			if got := log.all(); len(got) != 2 {
				t.Errorf("two changes, and the log says:\n%s", strings.Join(got, "\n"))
			}
		})
	}
}

// TestLimitsAtTheHost: without control groups the host's own size is the limit.
func TestLimitsAtTheHost(t *testing.T) {
	t.Parallel()
	s, err := newSampler(t.Context(), fstest.MapFS{}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.read(t.Context())
	if err != nil || v.coreLimit != float64(v.hostCores) || v.memLimit != v.hostMemory || v.hostCores < 1 || v.hostMemory < 1<<20 {
		t.Errorf("%+v %v", v, err)
	}
}
