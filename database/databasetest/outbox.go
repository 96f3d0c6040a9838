// Package databasetest holds the suite that the outbox of every database passes.
package databasetest

import (
	"flashsale/id"
	"flashsale/transport"
	"flashsale/transport/transporttest"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// OutboxUnderTest is a fresh outbox with what the suite needs to try it.
type OutboxUnderTest struct {
	transport.Outbox
	// Enqueue writes envelopes in one transaction, which is rolled back unless commit is true.
	Enqueue func(t *testing.T, commit bool, es ...transport.Envelope)
	// After moves the outbox's clock on by d.
	After func(t *testing.T, d time.Duration)
}

// ExerciseOutbox runs the suite; open returns an empty outbox.
func ExerciseOutbox(t *testing.T, open func(t *testing.T) OutboxUnderTest) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, *box){
		"an envelope comes out as it went in":     outboxKeeps,
		"what is rolled back was not said":        outboxRollback,
		"the oldest first, a bounded batch":       outboxOrder,
		"what is sent is gone, the rest is not":   outboxSent,
		"an envelope is there once":               outboxOnce,
		"only what is old enough":                 outboxAge,
		"a lease ends by itself":                  outboxLease,
		"the backlog has a count and an age":      outboxBacklog,
		"relays at the same time share, each one": outboxRelays,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, &box{open(t), t})
		})
	}
}

// lease is what transport.Outbox says.
const lease = 10 * time.Second

// box is an outbox, and words for what the suite does to it.
type box struct {
	OutboxUnderTest
	t *testing.T
}

func envelope(n int) transport.Envelope {
	return transport.New("thing.happened", transport.Order, id.Derive(fmt.Sprint(n)), time.Date(2026, 11, 21, 10, 0, n, 123456000, time.UTC), "", map[string]int{"n": n})
}

// say writes envelopes from first to last, each in a transaction of its own, a second apart.
func (b *box) say(first, last int) {
	b.t.Helper()
	for n := first; n <= last; n++ {
		b.Enqueue(b.t, true, envelope(n))
		b.After(b.t, time.Second)
	}
}

func (b *box) unsent(age time.Duration, limit int) []transport.Envelope {
	b.t.Helper()
	es, err := b.Unsent(b.t.Context(), age, limit)
	must(b.t, err)
	return es
}

// wantUnsent: these are leased now, in this order.
func (b *box) wantUnsent(age time.Duration, limit int, want ...int) {
	b.t.Helper()
	got, ids := b.unsent(age, limit), make([]id.ID, len(want))
	for i, n := range want {
		ids[i] = envelope(n).ID
	}
	if !slices.EqualFunc(got, ids, func(e transport.Envelope, want id.ID) bool { return e.ID == want }) {
		b.t.Fatalf("unsent %v\nwant %v: %v", got, want, ids)
	}
}

func (b *box) sent(ns ...int) {
	b.t.Helper()
	var ids []id.ID
	for _, n := range ns {
		ids = append(ids, envelope(n).ID)
	}
	must(b.t, b.MarkSent(b.t.Context(), ids))
}

func (b *box) wantBacklog(count int, atLeast time.Duration) {
	b.t.Helper()
	n, age, err := b.Backlog(b.t.Context())
	must(b.t, err)
	if n != count || age < atLeast || age > atLeast+30*time.Second || count == 0 && age != 0 {
		b.t.Fatalf("backlog %d, %s old; want %d, %s", n, age, count, atLeast)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// same: to the last detail, that the time is in UTC included.
func same(a, b transport.Envelope) bool { return transporttest.Same(a, b) }

func outboxKeeps(t *testing.T, b *box) {
	e := transport.New("thing.happened", transport.Payment, id.Derive("x"), time.Date(2026, 11, 21, 10, 0, 0, 123456000, time.FixedZone("CET", 3600)),
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", map[string]string{"text": "ü 'quoted' <b> \u0000 \\", "long": string(make([]byte, 100_000))})
	b.Enqueue(t, true, e)
	newer := envelope(1)
	newer.Version = 2
	b.After(t, time.Second)
	b.Enqueue(t, true, newer)
	if got := b.unsent(0, 10); len(got) != 2 || !same(got[0], e) || !same(got[1], newer) || got[0].Version != 1 || got[1].Version != 2 {
		t.Fatalf("%+v\nwant %+v", got, e)
	}
}

func outboxRollback(t *testing.T, b *box) {
	b.Enqueue(t, false, envelope(1), envelope(2))
	b.wantUnsent(0, 10)
	b.wantBacklog(0, 0)
	b.Enqueue(t, true)
	b.wantBacklog(0, 0)
	b.Enqueue(t, true, envelope(2))
	b.wantUnsent(0, 10, 2)
}

func outboxOrder(t *testing.T, b *box) {
	b.say(3, 7) // the order of saying, not of what was said
	b.say(0, 2)
	for range 2 { // what was leased and not sent is still the oldest
		b.wantUnsent(0, 3, 3, 4, 5)
		b.After(t, lease+time.Second)
	}
	b.wantUnsent(0, 3, 3, 4, 5)
	b.wantUnsent(0, 3, 6, 7, 0)
	b.wantUnsent(0, 3, 1, 2)
	b.wantUnsent(0, 3)
}

func outboxSent(t *testing.T, b *box) {
	b.say(1, 4)
	b.wantUnsent(0, 2, 1, 2)
	b.sent(2, 3, 99) // one that is leased, one that is not, one that was never here
	b.sent(2)
	b.sent()
	b.wantBacklog(2, 4*time.Second)
	b.wantUnsent(0, 10, 4)
	b.After(t, lease+time.Second)
	b.wantUnsent(0, 10, 1, 4)
}

func outboxOnce(t *testing.T, b *box) {
	first, again := envelope(1), envelope(1)
	again.Data, again.TraceParent = []byte(`{"n":2}`), "another"
	b.Enqueue(t, true, first)
	b.Enqueue(t, true, again, envelope(2), again)
	got := b.unsent(0, 10)
	if len(got) != 2 || !same(got[slices.IndexFunc(got, func(e transport.Envelope) bool { return e.ID == first.ID })], first) {
		t.Fatalf("%+v", got)
	}
	b.Enqueue(t, true, first) // it stays leased
	b.wantUnsent(0, 10)
	b.sent(1)
	b.Enqueue(t, true, again) // sent and forgotten: said once more
	b.wantUnsent(0, 10, 1)
}

func outboxAge(t *testing.T, b *box) {
	b.Enqueue(t, true, envelope(1))
	b.After(t, time.Minute)
	b.Enqueue(t, true, envelope(2))
	b.wantUnsent(2*time.Minute, 10)
	b.wantUnsent(30*time.Second, 10, 1)
	b.After(t, time.Minute)
	b.wantUnsent(30*time.Second, 10, 1, 2)
}

func outboxLease(t *testing.T, b *box) {
	b.Enqueue(t, true, envelope(1))
	for range 3 {
		b.wantUnsent(0, 10, 1)
		b.wantUnsent(0, 10)
		b.After(t, lease-5*time.Second)
		b.wantUnsent(0, 10)
		b.After(t, 6*time.Second)
	}
}

func outboxBacklog(t *testing.T, b *box) {
	b.wantBacklog(0, 0)
	b.Enqueue(t, true, envelope(1))
	b.After(t, time.Hour)
	b.Enqueue(t, true, envelope(2))
	b.wantBacklog(2, time.Hour)
	b.wantUnsent(0, 1, 1)
	b.wantBacklog(2, time.Hour) // leased is not sent
	b.sent(1)
	b.wantBacklog(1, 0)
	b.sent(2)
	b.wantBacklog(0, 0)
}

func outboxRelays(t *testing.T, b *box) {
	const all = 60
	var es []transport.Envelope
	for n := range all {
		es = append(es, envelope(n))
	}
	b.Enqueue(t, true, es...)
	var mu sync.Mutex
	got := map[id.ID]int{}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for range 4 {
				es, err := b.Unsent(t.Context(), 0, 5)
				if err != nil || len(es) > 5 {
					t.Errorf("%d, %v", len(es), err)
				}
				mu.Lock()
				for _, e := range es {
					got[e.ID]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, e := range b.unsent(0, all) { // who found the others' rows locked had less than five
		got[e.ID]++
	}
	for _, e := range es {
		if got[e.ID] != 1 {
			t.Errorf("%s was leased %d times", e.ID, got[e.ID])
		}
	}
}
