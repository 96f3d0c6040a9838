package testenv

import (
	"context"
	"encoding/json"
	"flashsale/bench/testbed"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// Jaeger is built from its Go module, like InfluxDB. It takes some six minutes of CPU the first time.
const (
	JaegerModule  = "github.com/jaegertracing/jaeger"
	JaegerVersion = "v1.76.0"
	JaegerPackage = "./cmd/all-in-one"
)

// JaegerServer is a Jaeger of one test's own, with its traces in memory.
type JaegerServer struct {
	OTLP string // base URL of the OTLP receiver over HTTP
	api  string
	t    testing.TB
}

// Jaeger starts a server. It ends with the test.
func Jaeger(t testing.TB) *JaegerServer {
	t.Helper()
	bin, err := testbed.Build(t.Context(), JaegerModule, JaegerVersion, JaegerPackage)
	if err != nil {
		t.Fatalf("Jaeger: %v", err)
	}
	addr := func() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(t))) }
	otlp, api, admin := addr(), addr(), addr()
	log, err := os.Create(filepath.Join(t.TempDir(), "jaeger.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "--collector.otlp.enabled=true", "--collector.otlp.http.host-port="+otlp, "--query.http-server.host-port="+api,
		"--admin.http.host-port="+admin, "--collector.otlp.grpc.host-port="+addr(), "--collector.grpc-server.host-port="+addr(),
		"--collector.http-server.host-port="+addr(), "--query.grpc-server.host-port="+addr(), "--memory.max-traces=20000", "--log-level=warn")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("Jaeger: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
	})
	j := &JaegerServer{OTLP: "http://" + otlp, api: "http://" + api, t: t}
	for deadline := time.Now().Add(30 * time.Second); ; {
		if err := j.get("/api/services", &struct{}{}); err == nil {
			return j
		} else if time.Now().After(deadline) {
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("Jaeger does not answer: %v\n%s", err, said)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (j *JaegerServer) get(path string, into any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.api+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %d", path, resp.StatusCode)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// JaegerSpan is a span as Jaeger's API shows it.
type JaegerSpan struct {
	Trace    string // its trace's id
	ID       string
	Parent   string   // of the same trace; empty for the first
	Links    []string // trace/span, of any trace
	Service  string
	Name     string
	Took     time.Duration
	Tags     map[string]any
	Instance string
}

type jaegerTraces struct {
	Data []struct {
		Spans []struct {
			TraceID, SpanID, OperationName, ProcessID string
			Duration                                  int64
			References                                []struct{ RefType, TraceID, SpanID string }
			Tags                                      []struct {
				Key   string
				Value any
			}
		}
		Processes map[string]struct {
			ServiceName string
			Tags        []struct {
				Key   string
				Value any
			}
		}
	}
}

func (a jaegerTraces) spans() []JaegerSpan {
	var all []JaegerSpan
	for _, t := range a.Data {
		for _, s := range t.Spans {
			v := JaegerSpan{
				Trace: s.TraceID, ID: s.SpanID, Service: t.Processes[s.ProcessID].ServiceName, Name: s.OperationName,
				Took: time.Duration(s.Duration) * time.Microsecond, Tags: map[string]any{},
			}
			for _, r := range s.References {
				if r.RefType == "CHILD_OF" && r.TraceID == s.TraceID && v.Parent == "" {
					v.Parent = r.SpanID
				} else {
					v.Links = append(v.Links, r.TraceID+"/"+r.SpanID)
				}
			}
			for _, tag := range s.Tags {
				v.Tags[tag.Key] = tag.Value
			}
			for _, tag := range t.Processes[s.ProcessID].Tags {
				if tag.Key == "service.instance.id" {
					v.Instance, _ = tag.Value.(string)
				}
			}
			all = append(all, v)
		}
	}
	return all
}

// Trace returns the spans of a trace, none when Jaeger does not have it.
func (j *JaegerServer) Trace(id string) []JaegerSpan {
	j.t.Helper()
	var found jaegerTraces
	if err := j.get("/api/traces/"+id, &found); err != nil {
		return nil // it answers 404 for a trace that it does not have
	}
	return found.spans()
}

// Search returns the spans of the traces in which a span of the service has these tags.
func (j *JaegerServer) Search(service string, tags map[string]string) []JaegerSpan {
	j.t.Helper()
	b, err := json.Marshal(tags)
	if err != nil {
		j.t.Fatal(err)
	}
	var found jaegerTraces
	q := url.Values{"service": {service}, "tags": {string(b)}, "limit": {"100"}, "lookback": {"1h"}}
	if err := j.get("/api/traces?"+q.Encode(), &found); err != nil {
		j.t.Fatalf("Jaeger's API: %v", err)
	}
	return found.spans()
}
