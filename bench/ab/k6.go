package ab

import (
	"bufio"
	"context"
	"encoding/json"
	"flashsale/bench/testbed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// summary is what a script's handleSummary writes.
type summary struct {
	State struct {
		Milliseconds float64 `json:"testRunDurationMs"`
	} `json:"state"`
	Early   float64 `json:"early"` // seconds before the doors opened
	Metrics map[string]struct {
		Values map[string]float64 `json:"values"`
	} `json:"metrics"`
}

func (s summary) value(metric, name string) float64 { return s.Metrics[metric].Values[name] }

// latency reads a trend. One without values has none: k6 writes zeros for it.
func (s summary) latency(metric string) Latency {
	v := s.Metrics[metric].Values
	return Latency{Count: v["count"], Average: v["avg"], P90: v["p(90)"], P95: v["p(95)"], P99: v["p(99)"], Max: v["max"]}
}

func parseSummary(b []byte) (summary, error) {
	var s summary
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("k6's summary: %w", err)
	}
	if _, ok := s.Metrics["http_reqs"]; !ok || s.State.Milliseconds <= 1000*s.Early {
		return s, fmt.Errorf("k6's summary has no requests in it")
	}
	return s, nil
}

// run makes a Run of a summary.
func (s summary) run() Run {
	r := Run{
		Seconds: s.State.Milliseconds/1000 - s.Early, Requests: s.value("http_reqs", "count"), Journeys: s.value("confirmed", "count"),
		All: s.latency("http_req_duration"), Journey: s.latency("journey"), Decision: s.latency("time_to_decision"),
		Confirm: s.latency("time_to_confirmation"), Failed: s.value("http_req_failed", "rate"),
		Unexpected: s.value("unexpected_answers", "count"), SoldOut: s.value("sold_out", "count"), Steps: map[string]Latency{},
	}
	r.Stock.Acknowledged = int64(s.value("acknowledged", "count"))
	for _, step := range journeySteps() {
		if l := s.latency("http_req_duration{name:" + step + "}"); l.Count > 0 {
			r.Steps[step] = l
		}
	}
	if s.Early > 0 { // the logins were before the time that is counted
		r.Requests -= r.Steps["login"].Count
	}
	return r
}

// ladder reads the steps of the spike.
func (s summary) ladder(rates []float64) []Step {
	var out []Step
	for _, rate := range rates {
		at := fmt.Sprintf("{scenario:rate_%.0f", rate)
		out = append(out, Step{
			Rate: rate, P95: s.value("http_req_duration"+at+",name:reserve}", "p(95)"),
			Dropped: s.value("dropped_iterations"+at+"}", "count"), Failed: s.value("http_req_failed"+at+"}", "rate"),
		})
	}
	return out
}

// holds reports whether an arrival rate was sustained: every arrival found a virtual user, none failed, and 95 of 100
// answers came within 100 ms.
func (s Step) holds() bool { return s.P95 > 0 && s.P95 < 100 && s.Dropped == 0 && s.Failed == 0 }

// sustained is the highest rate up to which every rate held.
func sustained(system string, steps []Step) Sustained {
	out := Sustained{System: system, Steps: steps}
	slices.SortFunc(steps, func(a, b Step) int { return int(a.Rate - b.Rate) })
	for _, s := range steps {
		if !s.holds() {
			break
		}
		out.Rate, out.P95 = s.Rate, s.P95
	}
	return out
}

// load is k6: where it is, and where its scripts are.
type load struct {
	bin   string
	dir   string // of the scripts, and of what k6 writes
	parts *parts
	n     int
}

// findK6 returns the program of the tools module, building it when that was not done before: a minute or two.
func findK6(ctx context.Context, root, given string, say *testbed.Progress) (string, error) {
	if given != "" {
		return exec.LookPath(given)
	}
	say.Step("building k6 (minutes the first time)")
	cmd := exec.CommandContext(ctx, "go", "tool", "-modfile=tools/go.mod", "-n", "k6")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go tool -modfile=tools/go.mod k6: %w; run it in the checkout, or name a k6 1.x with --k6", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// errored is what k6 has logged as errors: the first few, without the rest.
func errored(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	var lines []string
	scan := bufio.NewScanner(f)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() && len(lines) < 5 {
		if text := scan.Text(); !strings.HasPrefix(text, "token ") && !strings.HasPrefix(text, "reserved ") && !strings.HasPrefix(text, "confirmed ") {
			lines = append(lines, text[:min(len(text), 300)])
		}
	}
	return strings.Join(lines, "\n")
}

// k6 ends with this status when a threshold was missed: the figures are there all the same.
const missedThresholds = 99

// run runs a script to its end and returns its summary and the file with its log.
func (l *load) run(ctx context.Context, script string, bound time.Duration, env map[string]string) (summary, string, error) {
	l.n++
	name := fmt.Sprintf("k6-%d", l.n)
	result, log := filepath.Join(l.dir, name+".json"), filepath.Join(l.dir, name+".txt")
	args := []string{
		"run", "--quiet", "--no-color", "--no-usage-report", "--address", "", "--log-format", "raw", "--console-output", log,
		"-e", "SUMMARY=" + result,
	}
	for k, v := range env {
		args = append(args, "-e", k+"="+v)
	}
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	p, err := testbed.Spawn(ctx, l.dir, name, syscall.SIGINT, append(testbed.BaseEnv(), "HOME="+l.dir), nil, l.bin, append(args, filepath.Join(l.dir, script))...)
	if err != nil {
		return summary{}, log, err
	}
	l.parts.add(loadGenerator, p.PID())
	status := p.Wait()
	l.parts.remove(loadGenerator)
	switch {
	case ctx.Err() != nil:
		return summary{}, log, fmt.Errorf("k6 %s: %w", script, ctx.Err())
	case status != 0 && status != missedThresholds:
		return summary{}, log, fmt.Errorf("k6 %s ended with status %d:\n%s\n%s", script, status, p.Log(), errored(log))
	}
	b, err := os.ReadFile(result)
	if err != nil {
		return summary{}, log, fmt.Errorf("k6 %s has written no summary: %w\n%s", script, err, p.Log())
	}
	s, err := parseSummary(b)
	return s, log, err
}
