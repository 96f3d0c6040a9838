// Package notificationtest holds the suite that every store of messages passes.
package notificationtest

import (
	"context"
	"errors"
	"flashsale/audit"
	"flashsale/id"
	"flashsale/notification"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// StoreUnderTest is an empty store with what the suite needs to try it.
type StoreUnderTest struct {
	notification.Store
	// After returns once the store's clock has moved on by at least d.
	After func(d time.Duration)
}

// moment is how long short leases last in the suite, short enough to wait for.
const moment = 20 * time.Millisecond

// ExerciseStore runs the suite; open returns an empty store.
func ExerciseStore(t *testing.T, open func(t *testing.T) StoreUnderTest) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, *box){
		"a message is kept":                storeKept,
		"an event is told once":            storeOnce,
		"events without a message":         storeMissing,
		"the longest due come first":       storeDue,
		"a lease is one worker's":          storeLease,
		"sent and failed are the end":      storeDone,
		"tried again when its time comes":  storeAgain,
		"a shopper's messages":             storeOf,
		"a crowd of workers shares":        storeCrowd,
		"the audit finds what waits":       storeAudit,
		"any error can be recorded":        storeOddError,
		"what is not there, and emptiness": storeNothing,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, &box{StoreUnderTest: open(t), t: t})
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantSame(t testing.TB, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("is   %+v\nwant %+v", got, want)
	}
}

// box is a store, and words for what the suite does to it.
type box struct {
	StoreUnderTest
	t     *testing.T
	n     int
	start time.Time
}

func shopper(n int) id.ID { return id.Derive("shopper", fmt.Sprint(n)) }

// message is a fresh message to shopper 1 that has been due for so long.
func (b *box) message(due time.Duration) notification.Message {
	if b.n++; b.n == 1 {
		b.start = time.Now().UTC().Truncate(time.Microsecond)
	}
	return notification.Message{
		ID: id.Derive("event", fmt.Sprint(b.n)), User: shopper(1), To: "ann@example.org", Kind: notification.OrderConfirmed,
		Subject: fmt.Sprintf("Subject %d", b.n), Text: "Text", State: notification.Pending,
		CreatedAt: b.start.Add(time.Duration(b.n) * time.Microsecond), NextAt: b.start.Add(-due),
	}
}

func (b *box) add(m notification.Message) notification.Message {
	b.t.Helper()
	must(b.t, b.Add(b.t.Context(), m))
	return m
}

func (b *box) lease(limit int, d time.Duration) []notification.Message {
	b.t.Helper()
	ms, err := b.Lease(b.t.Context(), limit, d)
	must(b.t, err)
	return ms
}

// only returns the one message of shopper 1.
func (b *box) only() notification.Message {
	b.t.Helper()
	ms, err := b.Of(b.t.Context(), shopper(1), 10)
	if err != nil || len(ms) != 1 {
		b.t.Fatalf("messages %+v, %v", ms, err)
	}
	return ms[0]
}

func ids(ms []notification.Message) []id.ID {
	out := []id.ID{}
	for _, m := range ms {
		out = append(out, m.ID)
	}
	return out
}

func storeKept(t *testing.T, b *box) {
	m := b.message(time.Minute)
	m.To, m.Subject, m.Text = "o'neil+a@example.org", "Ihre Bestellung 椅子", "line one\nline two %s \\ 'x'"
	given := m
	east := time.FixedZone("east", 5*3600)
	given.State, given.Attempts, given.LastError = notification.Sent, 7, "odd" // whatever it says, it is new
	given.CreatedAt, given.NextAt = m.CreatedAt.Add(999*time.Nanosecond).In(east), m.NextAt.In(east)
	b.add(given)
	wantSame(t, b.only(), m)
}

func storeOnce(t *testing.T, b *box) {
	m := b.add(b.message(time.Minute))
	again := m
	again.To, again.Text, again.NextAt = "eve@example.org", "Other", m.NextAt.Add(-time.Hour)
	b.add(again)
	wantSame(t, b.only(), m)
	leased := b.lease(5, time.Hour)
	wantSame(t, ids(leased), []id.ID{m.ID})
	sent := leased[0]
	sent.State, sent.Attempts = notification.Sent, 1
	must(t, b.Record(t.Context(), []notification.Message{sent}))
	b.add(again) // the event comes once more, long after
	wantSame(t, b.only(), sent)
	if got := b.lease(5, time.Hour); len(got) != 0 {
		t.Fatalf("told twice: %+v", got)
	}
}

func storeDue(t *testing.T, b *box) {
	young, old, middle := b.add(b.message(time.Second)), b.add(b.message(time.Hour)), b.add(b.message(time.Minute))
	b.add(b.message(-time.Hour)) // its time has not come
	if got := b.lease(0, time.Hour); len(got) != 0 {
		t.Fatalf("none were asked for: %+v", got)
	}
	wantSame(t, ids(b.lease(2, time.Hour)), []id.ID{old.ID, middle.ID})
	wantSame(t, ids(b.lease(2, time.Hour)), []id.ID{young.ID})
	if got := b.lease(2, time.Hour); len(got) != 0 {
		t.Fatalf("leased twice, or too early: %+v", got)
	}
}

func storeLease(t *testing.T, b *box) {
	m := b.add(b.message(time.Minute))
	before := time.Now()
	got := b.lease(5, moment)
	wantSame(t, got, []notification.Message{b.only()}) // a lease gives what is stored, its end included
	end := got[0].NextAt
	if end.Before(before.Add(moment).Truncate(time.Microsecond)) || end.After(time.Now().Add(moment)) {
		t.Fatalf("leased until %s, at %s", end, before)
	}
	m.NextAt = end
	wantSame(t, got[0], m)
	b.After(moment) // the worker has died
	got = b.lease(5, time.Hour)
	wantSame(t, ids(got), []id.ID{m.ID})
	if got[0].Attempts != 0 || got[0].State != notification.Pending {
		t.Fatalf("a lease is no attempt: %+v", got[0])
	}
}

func storeDone(t *testing.T, b *box) {
	b.add(b.message(2 * time.Minute))
	b.add(b.message(time.Minute))
	ms := b.lease(5, time.Hour)
	for i, state := range []notification.State{notification.Sent, notification.Failed} {
		ms[i].State, ms[i].Attempts, ms[i].LastError, ms[i].NextAt = state, 3+i, "why "+string(state), b.start.Add(-time.Hour)
	}
	must(t, b.Record(t.Context(), ms)) // both at once
	if got := b.lease(5, time.Hour); len(got) != 0 {
		t.Fatalf("after the end: %+v", got)
	}
	got, err := b.Of(t.Context(), shopper(1), 5)
	must(t, err)
	wantSame(t, got, []notification.Message{ms[1], ms[0]})
}

func storeAgain(t *testing.T, b *box) {
	b.add(b.message(time.Minute))
	m := b.lease(1, time.Hour)[0]
	m.Attempts, m.LastError, m.NextAt = 1, "busy", time.Now().UTC().Add(time.Hour).Truncate(time.Microsecond)
	must(t, b.Record(t.Context(), []notification.Message{m}))
	wantSame(t, b.only(), m)
	if got := b.lease(1, time.Hour); len(got) != 0 {
		t.Fatalf("before its time: %+v", got)
	}
	m.Attempts, m.NextAt = 2, time.Now().UTC().Add(moment).Truncate(time.Microsecond)
	must(t, b.Record(t.Context(), []notification.Message{m}))
	b.After(moment)
	got := b.lease(1, time.Hour)
	if len(got) != 1 || got[0].Attempts != 2 || got[0].LastError != "busy" {
		t.Fatalf("when its time has come: %+v", got)
	}
}

func storeOf(t *testing.T, b *box) {
	var want []notification.Message
	for n := range 6 {
		m := b.message(time.Minute)
		if m.User = shopper(n % 2); n%2 == 1 {
			want = append([]notification.Message{m}, want...)
		}
		b.add(m)
	}
	twin := want[0] // made at the same time: the smaller id first
	twin.ID = id.ID{}
	want = append([]notification.Message{b.add(twin)}, want...)
	for limit := range 6 {
		got, err := b.Of(t.Context(), shopper(1), limit)
		must(t, err)
		wantSame(t, got, want[:min(limit, 4)])
	}
}

func storeCrowd(t *testing.T, b *box) {
	const messages = 150
	for n := range messages {
		b.add(b.message(time.Duration(n) * time.Second))
	}
	var mu sync.Mutex
	times := map[id.ID]int{}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for {
				ms, err := b.Lease(t.Context(), 2, time.Hour)
				if err != nil || len(ms) > 2 {
					t.Errorf("%d messages, %v", len(ms), err)
				}
				if len(ms) == 0 {
					return
				}
				mu.Lock()
				for _, m := range ms {
					times[m.ID]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, m := range b.lease(messages, time.Hour) { // passed over while another worker had them locked
		times[m.ID]++
	}
	for m, n := range times {
		if n != 1 {
			t.Errorf("%s was leased %d times", m, n)
		}
	}
	if len(times) != messages {
		t.Fatalf("%d of %d messages were leased", len(times), messages)
	}
}

func storeAudit(t *testing.T, b *box) {
	check := func(figures string, ok bool) {
		t.Helper()
		got, err := b.Audit(t.Context())
		must(t, err)
		wantSame(t, got, []audit.Check{{Equation: 7, Name: "no message unsent for long", Figures: figures, OK: ok}})
	}
	check("pending 0, overdue 0", true)
	now := time.Now()
	for _, age := range []time.Duration{0, notification.PendingBound - time.Minute, notification.PendingBound + time.Minute} {
		m := b.message(time.Minute)
		m.CreatedAt = now.Add(-age)
		b.add(m)
	}
	check("pending 3, overdue 1", false)
	for _, m := range b.lease(5, time.Hour) {
		if now.Sub(m.CreatedAt) > notification.PendingBound {
			m.State = notification.Failed // whoever gave it up has said so
			must(t, b.Record(t.Context(), []notification.Message{m}))
		}
	}
	check("pending 2, overdue 0", true)
}

// refusing is a channel whose far end answers with a text of its own making.
type refusing string

func (r refusing) Send(context.Context, notification.Message) error {
	return notification.Undeliverable(errors.New(string(r)))
}

// storeOddError: an error's text comes from a stranger's server. A store that does not take it
// would have the message sent for ever, and the ones behind it never.
func storeOddError(t *testing.T, b *box) {
	for _, text := range []string{"nul \x00 and ff \xff", strings.Repeat("é", 400) + "\x00", strings.Repeat("\x00", 400)} {
		b.add(b.message(time.Minute))
		w := notification.NewWorker(b, refusing(text), time.Now, func() float64 { return 0 }, slog.New(slog.DiscardHandler))
		if n, err := w.RunOnce(t.Context()); n != 1 || err != nil {
			t.Fatalf("%q: %d, %v", text, n, err)
		}
	}
	ms, err := b.Of(t.Context(), shopper(1), 5)
	if err != nil || len(ms) != 3 {
		t.Fatalf("%+v, %v", ms, err)
	}
	for _, m := range ms {
		if m.State != notification.Failed || m.Attempts != 1 || !utf8.ValidString(m.LastError) || len(m.LastError) > 300 ||
			!strings.HasPrefix(m.LastError, notification.ErrUndeliverable.Error()) || slices.Contains([]byte(m.LastError), 0) {
			t.Errorf("%+v", m)
		}
	}
}

func storeNothing(t *testing.T, b *box) {
	if got := b.lease(5, time.Hour); len(got) != 0 {
		t.Fatalf("leased %+v", got)
	}
	must(t, b.Record(t.Context(), []notification.Message{b.message(time.Minute)})) // of a message that is not there: it stays so
	got, err := b.Of(t.Context(), shopper(1), 5)
	must(t, err)
	wantSame(t, got, []notification.Message{})
}

func storeMissing(t *testing.T, b *box) {
	there, failed := b.add(b.message(0)), b.add(b.message(0))
	failed.State = notification.Failed
	must(t, b.Record(t.Context(), []notification.Message{failed}))
	one, two := id.Derive("one"), id.Derive("two")
	got, err := b.Missing(t.Context(), []id.ID{one, there.ID, two, failed.ID})
	must(t, err)
	slices.SortFunc(got, func(a, b id.ID) int { return slices.Compare(a[:], b[:]) })
	want := []id.ID{one, two}
	slices.SortFunc(want, func(a, b id.ID) int { return slices.Compare(a[:], b[:]) })
	wantSame(t, got, want)
	if got, err := b.Missing(t.Context(), []id.ID{there.ID}); err != nil || len(got) != 0 {
		t.Fatalf("of one that is there: %v, %v", got, err)
	}
}
