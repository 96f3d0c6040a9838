package main

import (
	"encoding/json"
	"flashsale/testenv"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSumsHaveEveryProcess: added up over processes that sample at moments of their own and write every few seconds, the line is
// all of them in every window that Grafana may ask for, in the newest one too.
func TestSumsHaveEveryProcess(t *testing.T) {
	t.Parallel()
	db := testenv.Influx(t)
	now := time.Now()
	const processes, each = 4, 0.5
	var lines strings.Builder
	for i := range processes {
		last := now.Add(-time.Duration(i) * 5 * time.Second / processes) // when it has written
		for at := now.Add(-6 * time.Minute).Add(time.Duration(i) * 230 * time.Millisecond); at.Before(last); at = at.Add(time.Second) {
			fmt.Fprintf(&lines, "process,service=s%d,instance=a,wiring=sync cpu_cores=%g %d\n", i, each, at.UnixNano())
		}
	}
	into := db.URL + "/api/v2/write?bucket=" + url.QueryEscape(db.Bucket)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, into, strings.NewReader(lines.String()))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Fatalf("InfluxDB answers %s", resp.Status)
	}
	for _, wide := range []time.Duration{time.Minute, 5 * time.Minute} {
		window := windowOf(t, wide)
		query := strings.NewReplacer("v.timeRangeStart", fmt.Sprintf("-%ds", int(wide.Seconds())), "v.timeRangeStop", "now()",
			"v.windowPeriod", fmt.Sprintf("%dms", window.Milliseconds()), "v.defaultBucket", strconv.Quote(db.Bucket)).
			Replace(process("cpu_cores", "sync", true)[0].flux)
		rows, err := db.Flux(query)
		if err != nil {
			t.Fatal(err)
		}
		if least := int((wide-15*time.Second)/window) - 1; len(rows) < least {
			t.Errorf("the last %s in windows of %s: %d sums, want %d", wide, window, len(rows), least)
		}
		for i, r := range rows {
			if got, err := strconv.ParseFloat(r["_value"], 64); i > 0 && (err != nil || got != processes*each) { // the first window is cut off
				t.Errorf("the last %s in windows of %s: sum %d of %d is %s, want %g", wide, window, i+1, len(rows), r["_value"], processes*each)
				break
			}
		}
	}
}

// windowOf is how wide a window Grafana asks for: a pixel of a panel, and no less than the panel says.
func windowOf(t *testing.T, shown time.Duration) time.Duration {
	t.Helper()
	text, err := resources().json()
	if err != nil {
		t.Fatal(err)
	}
	var b struct {
		Panels []struct{ Type, Interval string }
	}
	if err := json.Unmarshal(text, &b); err != nil {
		t.Fatal(err)
	}
	least := time.Duration(0)
	for _, p := range b.Panels {
		if d, err := time.ParseDuration(p.Interval); err == nil && (least == 0 || d < least) {
			least = d
		} else if p.Type != "row" && err != nil {
			return shown / 900
		}
	}
	return max(least, shown/900)
}
