package tracing

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestReceiverAway: while the receiver is away nothing waits and the log has one line; when it is back
// there is one more, and spans arrive at the path of the standard.
func TestReceiverAway(t *testing.T) {
	t.Parallel()
	var back atomic.Bool
	var got atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !back.Load():
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path == "/v1/traces":
			got.Add(1)
		}
	}))
	t.Cleanup(srv.Close)
	var log bytes.Buffer
	export, err := OTLP(t.Context(), srv.URL, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	tr, err := New(Options{Export: export, Ratio: 1, Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	say := func() {
		_, _, end := tr.Request(t.Context(), incoming(caller, true))
		end("/r", 200)
		if err := tr.batch.(interface{ ForceFlush(context.Context) error }).ForceFlush(t.Context()); err != nil {
			t.Error(err)
		}
	}
	say()
	say()
	back.Store(true)
	say()
	say()
	if err := tr.Close(t.Context()); err != nil {
		t.Error(err)
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "is the OTLP receiver running") || !strings.Contains(lines[1], "spans_lost=2") || got.Load() != 2 {
		t.Errorf("%d batches arrived; the log:\n%s", got.Load(), log.String())
	}
}
