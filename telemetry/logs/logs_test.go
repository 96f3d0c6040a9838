package logs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flashsale/telemetry/logs"
	"log/slog"
	"testing"
	"time"
)

const parent = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"

// TestLinesCarryTheRequest: a line of a request names request and trace once, whoever writes it and
// however its context was wrapped since.
func TestLinesCarryTheRequest(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(logs.Handler(slog.NewJSONHandler(&out, &slog.HandlerOptions{ReplaceAttr: logs.TraceID})))
	of := logs.With(t.Context(), logs.Facts{Request: "r-1", Trace: parent})
	inner, cancel := context.WithTimeout(of, time.Minute)
	defer cancel()
	for name, c := range map[string]struct {
		say            func()
		request, trace string
	}{
		"in the request":   {func() { log.WarnContext(of, "x") }, "r-1", parent[3:35]},
		"below a deadline": {func() { log.With("a", 1).WarnContext(inner, "x") }, "r-1", parent[3:35]},
		"naming another trace": {func() {
			log.WarnContext(inner, "x", "trace", "00-1123456789abcdef0123456789abcdef-0123456789abcdef-00")
		}, "r-1", "1123456789abcdef0123456789abcdef"},
		"naming the request":       {func() { log.WarnContext(inner, "x", "request", "r-2") }, "r-2", parent[3:35]},
		"a step of another":        {func() { log.WarnContext(logs.With(t.Context(), logs.Facts{Trace: parent}), "x") }, "", parent[3:35]},
		"no request":               {func() { log.WarnContext(t.Context(), "x") }, "", ""},
		"a trace that is no trace": {func() { log.WarnContext(t.Context(), "x", "trace", "none") }, "", "none"},
	} {
		out.Reset()
		c.say()
		var line struct{ Request, Trace string }
		if err := json.Unmarshal(out.Bytes(), &line); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out.Bytes())
		}
		if line.Request != c.request || line.Trace != c.trace {
			t.Errorf("%s: %s", name, out.Bytes())
		}
		for _, key := range []string{`"request":`, `"trace":`} {
			if bytes.Count(out.Bytes(), []byte(key)) > 1 {
				t.Errorf("%s: %s twice: %s", name, key, out.Bytes())
			}
		}
	}
}
