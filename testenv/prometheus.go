package testenv

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// PrometheusServer is a Prometheus process of one test's own. It asks its targets every second.
type PrometheusServer struct{ URL string }

// Series is one series of an answer: its labels, and its values, the oldest first. What is no number is left out.
type Series struct {
	Labels map[string]string
	Values []float64
}

// Prometheus starts a server that scrapes targets (host:port) and evaluates the rules of a file, which may be
// empty. It ends with the test.
func Prometheus(t testing.TB, targets []string, rules string) PrometheusServer {
	t.Helper()
	bin, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatal("no prometheus on the PATH: run `make test`, or install Prometheus 2.42 or newer (Debian: apt-get install prometheus)")
	}
	dir := t.TempDir()
	quoted := make([]string, len(targets))
	for i, target := range targets {
		quoted[i] = strconv.Quote(target)
	}
	conf := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nscrape_configs:\n  - job_name: flashsale\n    static_configs: [{targets: [%s]}]\n",
		strings.Join(quoted, ", "))
	if rules != "" {
		path, err := filepath.Abs(rules)
		if err != nil {
			t.Fatal(err)
		}
		conf += fmt.Sprintf("rule_files: [%q]\n", path)
	}
	file, addr := filepath.Join(dir, "prometheus.yml"), fmt.Sprintf("127.0.0.1:%d", FreePort(t))
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	cmd := exec.Command(bin, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("prometheus: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p := PrometheusServer{"http://" + addr}
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var ready any
		err := p.get("/api/v1/status/runtimeinfo", nil, &ready)
		if err == nil {
			return p
		}
		if time.Now().After(deadline) {
			tail, _ := os.ReadFile(log.Name())
			t.Fatalf("prometheus on %s does not answer: %v\n%s", addr, err, tail)
		}
	}
}

// Names returns the names of all metrics.
func (p PrometheusServer) Names() (names []string, err error) {
	err = p.get("/api/v1/label/__name__/values", nil, &names)
	return names, err
}

// Query evaluates an expression now.
func (p PrometheusServer) Query(expr string) ([]Series, error) {
	var answer struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
		}
	}
	if err := p.get("/api/v1/query", url.Values{"query": {expr}}, &answer); err != nil {
		return nil, err
	}
	var all []Series
	for _, r := range answer.Result {
		all = append(all, Series{r.Metric, numbers(r.Value)})
	}
	return all, nil
}

// QueryRange evaluates an expression every second from a time until now.
func (p PrometheusServer) QueryRange(expr string, from time.Time) ([]Series, error) {
	var answer struct {
		Result []struct {
			Metric map[string]string
			Values [][2]any
		}
	}
	unix := func(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }
	err := p.get("/api/v1/query_range", url.Values{"query": {expr}, "start": {unix(from)}, "end": {unix(time.Now())}, "step": {"1"}}, &answer)
	if err != nil {
		return nil, err
	}
	var all []Series
	for _, r := range answer.Result {
		all = append(all, Series{r.Metric, numbers(r.Values...)})
	}
	return all, nil
}

func numbers(pairs ...[2]any) (values []float64) {
	for _, pair := range pairs {
		text, _ := pair[1].(string)
		if f, err := strconv.ParseFloat(text, 64); err == nil && f == f {
			values = append(values, f)
		}
	}
	return values
}

// get calls the HTTP API and decodes the data of the answer.
func (p PrometheusServer) get(path string, args url.Values, into any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+path+"?"+args.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("prometheus answered %d: %w", resp.StatusCode, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("prometheus: %s", answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}
