package amqp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flashsale/id"
	"flashsale/testenv"
	"flashsale/transport"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	rabbit "github.com/rabbitmq/amqp091-go"
)

const batchType = "application/cloudevents-batch+json; charset=utf-8"

// record is a handler that notes how often it has handled which envelope.
type record struct {
	mu   sync.Mutex
	done map[id.ID]int
	fail func(transport.Envelope, int) error // with how often it was called before; nil for never
	seen map[id.ID]int
}

func newRecord() *record { return &record{done: map[id.ID]int{}, seen: map[id.ID]int{}} }

func (r *record) handle(_ context.Context, e transport.Envelope) ([]transport.Envelope, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[e.ID]++
	if r.fail != nil {
		if err := r.fail(e, r.seen[e.ID]-1); err != nil {
			return nil, err
		}
	}
	r.done[e.ID]++
	return nil, nil
}

func (r *record) times(e transport.Envelope) (seen, done int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[e.ID], r.done[e.ID]
}

func wire(t *testing.T, es ...transport.Envelope) (bodies [][]byte, batch []byte) {
	t.Helper()
	for _, e := range es {
		b, err := transport.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, b)
	}
	return bodies, slices.Concat([]byte("["), bytes.Join(bodies, []byte(",")), []byte("]"))
}

func publishBatch(t *testing.T, ch *rabbit.Channel, body []byte) {
	t.Helper()
	done, err := ch.PublishWithDeferredConfirmWithContext(t.Context(), "flashsale.events", "inventory.thing.happened", true, false,
		rabbit.Publishing{Body: body, DeliveryMode: rabbit.Persistent, ContentType: batchType, Type: "thing.happened", Headers: rabbit.Table{"x-attempts": int32(0), "traceparent": ""}})
	if err != nil || !done.Wait() {
		t.Fatalf("not stored: %v", err)
	}
}

// together sends envelopes at the same time, and returns the errors in their order.
func together(t *testing.T, tr transport.Sender, to transport.Service, es []transport.Envelope) []error {
	t.Helper()
	errs := make([]error, len(es))
	var wg sync.WaitGroup
	for i, e := range es {
		wg.Go(func() { _, errs[i] = tr.Send(t.Context(), to, e) })
	}
	wg.Wait()
	return errs
}

// TestSentTogether: what is sent at the same time by one route shares messages, of a bounded size, and
// every envelope is handled once. What is large travels alone.
func TestSentTogether(t *testing.T) {
	t.Parallel()
	o := options(testenv.RabbitMQ(t))
	r := newRecord()
	tr := start(t, o, r.handle)
	ch := channel(t, o.URL)
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	if err == nil {
		err = ch.QueueBind(q.Name, "#", "flashsale.events", false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	var es []transport.Envelope
	for n := range 600 {
		e := event(n)
		if n%3 == 0 {
			e.Type = "thing.ended"
		}
		if n%100 == 1 {
			e.Data, _ = json.Marshal(map[string]string{"text": strings.Repeat("x", 150_000)})
		}
		es = append(es, e)
	}
	if err := errors.Join(together(t, tr, transport.Inventory, es)...); err != nil {
		t.Fatal(err)
	}
	until(t, "all handled", func() bool {
		return !slices.ContainsFunc(es, func(e transport.Envelope) bool { _, done := r.times(e); return done == 0 })
	})
	for _, e := range es {
		if seen, done := r.times(e); seen != 1 || done != 1 {
			t.Errorf("%s was handled %d times, %d well", e.ID, seen, done)
		}
	}
	messages, carried := 0, 0
	for carried < len(es) {
		d, ok, err := ch.Get(q.Name, true)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			continue // the copy of what was handled already is on its way
		}
		messages++
		parts := []json.RawMessage{d.Body}
		if d.ContentType == batchType {
			if err := json.Unmarshal(d.Body, &parts); err != nil || len(parts) < 2 || len(parts) > 64 || len(d.Body) > 140_000 {
				t.Errorf("a batch of %d envelopes, %d bytes, %v", len(parts), len(d.Body), err)
			}
		}
		for _, part := range parts {
			e, err := transport.Unmarshal(part)
			if err != nil || d.RoutingKey != "inventory."+e.Type || d.Type != e.Type {
				t.Errorf("%s %s carries %s, %v", d.RoutingKey, d.Type, e.Type, err)
			}
		}
		carried += len(parts)
	}
	if carried != len(es) || messages > len(es)/2 {
		t.Errorf("%d messages carried %d of %d envelopes", messages, carried, len(es))
	}
}

// TestBatchIsSettledOneByOne: each envelope of a batch is handled, tried again and buried by itself.
func TestBatchIsSettledOneByOne(t *testing.T) {
	t.Parallel()
	o := options(testenv.RabbitMQ(t))
	o.Attempts = 3
	r := newRecord()
	well, never, later, hopeless := event(1), event(2), event(3), event(4)
	r.fail = func(e transport.Envelope, before int) error {
		switch {
		case e.ID == never.ID:
			return transport.Permanent(errors.New("never"))
		case e.ID == later.ID && before < 2, e.ID == hopeless.ID:
			return errors.New("not yet")
		}
		return nil
	}
	tr := start(t, o, r.handle)
	bodies, batch := wire(t, well, never, later, hopeless)
	batch = append(batch[:len(batch)-1], `,{"specversion":"1.0"},7]`...)
	ch := channel(t, o.URL)
	publishBatch(t, ch, batch)
	publishBatch(t, ch, []byte(`{"no":"batch"}`))
	publishBatch(t, ch, []byte(`[{"cut":`))
	publishBatch(t, ch, []byte(`[]`))
	var page transport.LetterPage
	until(t, "six letters, and one handled late", func() bool {
		var err error
		if page, err = tr.List(t.Context(), transport.Filter{Limit: 100}); err != nil {
			t.Fatal(err)
		}
		_, done := r.times(later)
		return len(page.Letters) == 6 && done == 1
	})
	want := map[string]transport.Reason{
		string(bodies[1]): transport.ReasonPermanent, string(bodies[3]): transport.ReasonAttempts, `{"specversion":"1.0"}`: transport.ReasonMalformed,
		"7": transport.ReasonMalformed, `{"no":"batch"}`: transport.ReasonMalformed, `[{"cut":`: transport.ReasonMalformed,
	}
	for _, l := range page.Letters {
		full, err := tr.Show(t.Context(), transport.Inventory, l.ID)
		if err != nil || want[string(full.Body)] != l.Reason || l.Route != "inventory.thing.happened" {
			t.Errorf("letter %+v %s, %v", l, full.Body, err)
		}
		delete(want, string(full.Body))
	}
	for body, why := range want {
		t.Errorf("no letter of %s for %s", body, why)
	}
	if seen, done := r.times(well); seen != 1 || done != 1 {
		t.Errorf("what was beside them was handled %d times, %d well", seen, done)
	}
	if waiting, _, err := tr.Depths(t.Context()); err != nil || waiting != 0 {
		t.Errorf("%d wait, %v", waiting, err)
	}
}

// TestBatchOfTheCrashed: a batch whose consumers went away twice without an answer is taken apart before
// anybody handles it, so that what kills its consumers dies alone.
func TestBatchOfTheCrashed(t *testing.T) {
	t.Parallel()
	o := options(testenv.RabbitMQ(t))
	o.Delays = []time.Duration{time.Hour}
	start(t, o, nil)
	bodies, batch := wire(t, event(1), event(2), event(3))
	ch := channel(t, o.URL)
	publishBatch(t, ch, batch)
	for range 2 {
		until(t, "a consumer that goes away", func() bool {
			d, ok, err := ch.Get("flashsale.inventory", false)
			if err != nil {
				t.Fatal(err)
			}
			return ok && d.Nack(false, true) == nil
		})
	}
	r := newRecord()
	start(t, o, r.handle)
	var got []string
	until(t, "three messages on the ladder", func() bool {
		d, ok, err := ch.Get("flashsale.inventory.retry.3600000", true)
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			if got = append(got, string(d.Body)); d.ContentType != transport.ContentType || d.Headers["x-attempts"] != int32(0) || d.Headers["x-original-route"] != "inventory.thing.happened" {
				t.Errorf("%s %v", d.ContentType, d.Headers)
			}
		}
		return len(got) == 3
	})
	slices.Sort(got)
	want := []string{string(bodies[0]), string(bodies[1]), string(bodies[2])}
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if seen, _ := r.times(event(1)); seen != 0 {
		t.Error("handled before it was taken apart")
	}
}

// TestRefusedTogether: an envelope is stored or refused, also in a full queue and together with others:
// what was confirmed is handled, what was refused never is.
func TestRefusedTogether(t *testing.T) {
	t.Parallel()
	for _, limit := range []string{"messages", "bytes"} {
		o := options(testenv.RabbitMQ(t))
		if limit == "bytes" {
			o.Bytes = 4000
		} else {
			o.Depth = 3
		}
		tr := start(t, o, nil)
		stored, refused := []transport.Envelope{}, []transport.Envelope{}
		for round := range 20 {
			var es []transport.Envelope
			for n := range 50 {
				es = append(es, event(100*round+n))
			}
			for i, err := range together(t, tr, transport.Inventory, es) {
				switch {
				case err == nil:
					stored = append(stored, es[i])
				case errors.Is(err, transport.ErrOverloaded):
					refused = append(refused, es[i])
				default:
					t.Errorf("%s: %v", limit, err)
				}
			}
		}
		if len(stored) == 0 || len(refused) == 0 {
			t.Errorf("%s: %d stored, %d refused", limit, len(stored), len(refused))
		}
		r := newRecord()
		start(t, o, r.handle)
		until(t, "what was stored is handled", func() bool {
			return !slices.ContainsFunc(stored, func(e transport.Envelope) bool { _, done := r.times(e); return done == 0 })
		})
		for _, e := range refused {
			if seen, _ := r.times(e); seen > 0 {
				t.Errorf("%s: %s was refused, and is handled", limit, e.ID)
			}
		}
		for _, err := range together(t, tr, "nobody", []transport.Envelope{event(1), event(2), event(3)}) {
			if !errors.Is(err, transport.ErrUnavailable) {
				t.Errorf("to nobody: %v", err)
			}
		}
	}
}
