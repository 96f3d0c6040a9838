package notification_test

import (
	"context"
	"errors"
	"flashsale/database/sqlite"
	"flashsale/id"
	"flashsale/notification"
	"flashsale/notification/sqlitenotification"
	"flashsale/notification/webhookchannel"
	"flashsale/testenv/databases"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// office is a worker with its store, whose clock stands still until it is moved, and the server
// that it sends to.
type office struct {
	t     *testing.T
	store *sqlitenotification.Store
	db    *sqlite.DB
	url   string
	now   time.Time

	mu     sync.Mutex
	answer func(message string) int
	got    []string // the messages that came, however they were answered
}

func open(t *testing.T) *office {
	t.Helper()
	o := &office{t: t, now: noon, answer: func(string) int { return http.StatusNoContent }}
	o.db = databases.SQLite(t, sqlitenotification.Migrations)
	o.store = sqlitenotification.New(o.db, o.clock)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		defer o.mu.Unlock()
		m := r.Header.Get("Idempotency-Key")
		o.got = append(o.got, m)
		w.WriteHeader(o.answer(m))
	}))
	t.Cleanup(server.Close)
	o.url = server.URL
	return o
}

func (o *office) clock() time.Time { return o.now }

func (o *office) worker(jitter float64) *notification.Worker {
	channel := webhookchannel.New(o.url, "", o.clock)
	return notification.NewWorker(o.store, channel, o.clock, func() float64 { return jitter }, slog.New(slog.DiscardHandler))
}

func user() id.ID { return id.Derive("shopper") }

// add stores n messages, due one after the other.
func (o *office) add(n int) {
	o.t.Helper()
	for i := range n {
		must(o.t, o.store.Add(o.t.Context(), notification.Message{
			ID: id.Derive("event", fmt.Sprint(i)), User: user(), To: "ann@example.org", Kind: notification.OrderConfirmed, Subject: "Hello",
			Text: "Text", CreatedAt: noon.Add(time.Duration(i)), NextAt: noon.Add(-time.Hour + time.Duration(i)*time.Millisecond),
		}))
	}
}

func (o *office) run(w *notification.Worker, want int) {
	o.t.Helper()
	if n, err := w.RunOnce(o.t.Context()); n != want || err != nil {
		o.t.Fatalf("handled %d, %v; want %d", n, err, want)
	}
}

func (o *office) messages() []notification.Message {
	o.t.Helper()
	ms, err := o.store.Of(o.t.Context(), user(), 1000)
	must(o.t, err)
	return ms
}

func (o *office) count(s notification.State) int {
	o.t.Helper()
	n := 0
	for _, m := range o.messages() {
		if m.State == s {
			n++
		}
	}
	return n
}

func TestFailsThenSucceeds(t *testing.T) {
	t.Parallel()
	o := open(t)
	o.add(1)
	answers := []int{503, 429, 204}
	o.answer = func(string) int {
		a := answers[0]
		answers = answers[1:]
		return a
	}
	w := o.worker(1)
	for n, delay := range []time.Duration{time.Second, 2 * time.Second} {
		o.run(w, 1)
		m := o.messages()[0]
		if m.State != notification.Pending || m.Attempts != n+1 || !m.NextAt.Equal(o.now.Add(delay)) || !strings.Contains(m.LastError, fmt.Sprint([]int{503, 429}[n])) {
			t.Fatalf("after attempt %d: %+v", n+1, m)
		}
		o.now = o.now.Add(delay - time.Microsecond)
		o.run(w, 0) // not before its time
		o.now = o.now.Add(time.Microsecond)
	}
	o.run(w, 1)
	if m := o.messages()[0]; m.State != notification.Sent || m.Attempts != 3 || m.LastError != "" {
		t.Fatalf("%+v", m)
	}
	o.now = o.now.Add(time.Hour)
	o.run(w, 0)
	want := id.Derive("event", "0").String()
	if !slices.Equal(o.got, []string{want, want, want}) {
		t.Fatalf("sent %v", o.got)
	}
}

func TestPermanentFailure(t *testing.T) {
	t.Parallel()
	o := open(t)
	o.add(1)
	o.answer = func(string) int { return http.StatusGone }
	o.run(o.worker(0), 1)
	if m := o.messages()[0]; m.State != notification.Failed || m.Attempts != 1 || !strings.Contains(m.LastError, "410") {
		t.Fatalf("%+v", m)
	}
	o.now = o.now.Add(24 * time.Hour)
	o.run(o.worker(0), 0)
}

// TestAttemptsAreBounded: eight attempts, each wait twice the one before; jitter takes away at
// most half of it.
func TestAttemptsAreBounded(t *testing.T) {
	t.Parallel()
	for _, jitter := range []float64{0, 0.5, 1} {
		o := open(t)
		o.add(1)
		o.answer = func(string) int { return http.StatusInternalServerError }
		w := o.worker(jitter)
		for n := range 15 {
			o.run(w, 1)
			m := o.messages()[0]
			full := min(time.Second<<n, 10*time.Minute)
			want := full/2 + time.Duration(jitter*float64(full/2))
			if m.State != notification.Pending || m.Attempts != n+1 || m.NextAt.Sub(o.now) != want {
				t.Fatalf("jitter %v, after attempt %d: %+v, wait %s, want %s", jitter, n+1, m, m.NextAt.Sub(o.now), want)
			}
			o.now = m.NextAt
		}
		o.run(w, 1)
		if m := o.messages()[0]; m.State != notification.Failed || m.Attempts != 16 || m.LastError != "webhook: answered 500" {
			t.Fatalf("%+v", m)
		}
		o.now = o.now.Add(24 * time.Hour)
		o.run(w, 0)
		if len(o.got) != 16 {
			t.Fatalf("sent %d times", len(o.got))
		}
	}
}

func TestABatchIsBoundedAndInOrder(t *testing.T) {
	t.Parallel()
	o := open(t)
	o.add(60)
	w := o.worker(0)
	for _, n := range []int{50, 10, 0} {
		o.run(w, n)
	}
	var want []string
	for i := range 60 {
		want = append(want, id.Derive("event", fmt.Sprint(i)).String())
	}
	if !slices.Equal(o.got, want) || o.count(notification.Sent) != 60 {
		t.Fatalf("sent %v", o.got)
	}
}

// TestOneBadMessageHoldsUpNobody: between others, one is refused for good and one for now.
func TestOneBadMessageHoldsUpNobody(t *testing.T) {
	t.Parallel()
	o := open(t)
	o.add(5)
	o.answer = func(m string) int {
		switch m {
		case id.Derive("event", "1").String():
			return http.StatusBadRequest
		case id.Derive("event", "3").String():
			return http.StatusBadGateway
		}
		return http.StatusOK
	}
	o.run(o.worker(0), 5)
	if s, f, p := o.count(notification.Sent), o.count(notification.Failed), o.count(notification.Pending); s != 3 || f != 1 || p != 1 {
		t.Fatalf("sent %d, failed %d, pending %d", s, f, p)
	}
}

// TestStopping: what is under way is finished and recorded; the rest of the batch waits for the
// end of its lease.
func TestStopping(t *testing.T) {
	t.Parallel()
	o := open(t)
	o.add(3)
	ctx, stop := context.WithCancel(t.Context())
	o.answer = func(string) int { stop(); return http.StatusOK }
	if n, err := o.worker(0).RunOnce(ctx); n != 1 || err != nil {
		t.Fatalf("handled %d, %v", n, err)
	}
	if o.count(notification.Sent) != 1 || len(o.got) != 1 {
		t.Fatalf("%+v, sent %v", o.messages(), o.got)
	}
	o.now = o.now.Add(2*time.Minute - time.Microsecond)
	o.run(o.worker(0), 0)
	o.now = o.now.Add(time.Microsecond)
	o.run(o.worker(0), 2)
	if o.count(notification.Sent) != 3 || len(o.got) != 3 {
		t.Fatalf("%+v, sent %v", o.messages(), o.got)
	}
}

// TestAStoreThatIsAway: what was sent and cannot be recorded is sent again, and is no more than a batch.
func TestAStoreThatIsAway(t *testing.T) {
	t.Parallel()
	o := open(t)
	o.add(2)
	o.answer = func(string) int { _ = o.db.Close(); return http.StatusOK }
	if n, err := o.worker(0).RunOnce(t.Context()); n != 0 || err == nil { // sent, and not recorded
		t.Fatalf("handled %d, %v", n, err)
	}
	if n, err := o.worker(0).RunOnce(t.Context()); n != 0 || err == nil {
		t.Fatalf("handled %d, %v", n, err)
	}
	if len(o.got) != 2 {
		t.Fatalf("sent %v", o.got)
	}
}

// TestRecordedInTime: what was sent waits for its record no longer than the bound, however long the batch takes.
func TestRecordedInTime(t *testing.T) {
	t.Parallel()
	o := open(t)
	o.add(9)
	o.answer = func(string) int {
		if sent := o.count(notification.Sent); sent != (len(o.got)-1)/3*3 {
			t.Errorf("at message %d, %d are recorded", len(o.got), sent)
		}
		o.now = o.now.Add(90 * time.Millisecond)
		return http.StatusOK
	}
	o.run(o.worker(0), 9)
	if o.count(notification.Sent) != 9 {
		t.Fatalf("%+v", o.messages())
	}
}

// endless is a channel that never answers by itself.
type endless struct{}

func (endless) Send(ctx context.Context, _ notification.Message) error {
	<-ctx.Done()
	return ctx.Err()
}

// only is a store of one message.
type only struct {
	notification.Store
	m notification.Message
}

func (o *only) Lease(context.Context, int, time.Duration) ([]notification.Message, error) {
	return []notification.Message{o.m}, nil
}

func (o *only) Record(ctx context.Context, ms []notification.Message) error {
	o.m = ms[0]
	return ctx.Err()
}

// TestSendingHasAnEnd: a batch of fifty that nobody answers is over before its lease is.
func TestSendingHasAnEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &only{m: notification.Message{ID: id.Derive("event"), State: notification.Pending}}
		w := notification.NewWorker(store, endless{}, time.Now, func() float64 { return 0 }, slog.New(slog.DiscardHandler))
		start := time.Now()
		if n, err := w.RunOnce(t.Context()); n != 1 || err != nil {
			t.Fatalf("handled %d, %v", n, err)
		}
		if took := time.Since(start); 50*took >= 2*time.Minute {
			t.Fatalf("one message took %s", took)
		}
		if store.m.State != notification.Pending || store.m.Attempts != 1 || store.m.LastError != context.DeadlineExceeded.Error() {
			t.Fatalf("%+v", store.m)
		}
	})
}

func TestUndeliverable(t *testing.T) {
	t.Parallel()
	cause := errors.New("no such mailbox")
	err := notification.Undeliverable(cause)
	if !errors.Is(err, notification.ErrUndeliverable) || !errors.Is(err, cause) {
		t.Fatalf("%v", err)
	}
}
