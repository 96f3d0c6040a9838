package amqp_test

import (
	"context"
	"encoding/json"
	"errors"
	"flashsale/id"
	"flashsale/testenv"
	"flashsale/transport"
	"flashsale/transport/amqp"
	"flashsale/transport/transporttest"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	rabbit "github.com/rabbitmq/amqp091-go"
)

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	transporttest.ExerciseDeadLetters(t, func(t *testing.T, r transporttest.Rules) transporttest.Mail {
		o := options(testenv.RabbitMQ(t))
		o.Services = []transport.Service{transport.Inventory, transport.Order}
		o.Attempts = r.Attempts
		if r.Pauses != nil {
			o.Pauses = r.Pauses
		}
		// The letters are read by an object that is never started, as the command line does.
		return transporttest.Mail{Transport: amqp.New(o), Letters: amqp.New(o), Put: func(t *testing.T, to transport.Service, body []byte) {
			t.Helper()
			ch := channel(t, o.URL)
			publish(t, ch, "flashsale.events", string(to)+".strange", body)
		}}
	})
}

// channel is a channel of its own, in confirm mode.
func channel(t *testing.T, url string) *rabbit.Channel {
	t.Helper()
	c, err := rabbit.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	ch, err := c.Channel()
	if err == nil {
		err = ch.Confirm(false)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func publish(t *testing.T, ch *rabbit.Channel, exchange, key string, body []byte) {
	t.Helper()
	done, err := ch.PublishWithDeferredConfirmWithContext(t.Context(), exchange, key, true, false, rabbit.Publishing{Body: body, DeliveryMode: rabbit.Persistent})
	if err != nil || !done.Wait() {
		t.Fatalf("not stored: %v", err)
	}
}

// until asks again and again: there is no event to wait for.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestNoDeliveryLimitOnLetters: looking is a delivery, and RabbitMQ 4 drops after 20 of them unless
// the queue says otherwise. The server of this test may be older, so the arguments are looked at.
func TestNoDeliveryLimitOnLetters(t *testing.T) {
	t.Parallel()
	o := options(testenv.RabbitMQ(t))
	o.Pauses = []time.Duration{time.Minute}
	start(t, o, nil)
	vhost := o.URL[strings.LastIndex(o.URL, "/")+1:]
	for _, queue := range []string{"flashsale.inventory.dead", "flashsale.inventory.dead.60000"} {
		var q struct {
			Type      string
			Arguments map[string]any
		}
		until(t, "the management API knows "+queue, func() bool {
			list := testenv.RabbitAPI(t, http.MethodGet, "/api/queues/"+vhost+"?columns=name", "")
			return strings.Contains(list, `"`+queue+`"`)
		})
		if err := json.Unmarshal([]byte(testenv.RabbitAPI(t, http.MethodGet, "/api/queues/"+vhost+"/"+queue, "")), &q); err != nil {
			t.Fatal(err)
		}
		if q.Type != "quorum" || q.Arguments["x-delivery-limit"] != float64(math.MaxInt32) {
			t.Errorf("%s: %+v", queue, q)
		}
	}
}

// TestCrashedConsumers: a message whose consumers go away again and again without an answer becomes a
// dead letter of the broker's making, which has none of our headers and is shown all the same.
func TestCrashedConsumers(t *testing.T) {
	t.Parallel()
	o := options(testenv.RabbitMQ(t))
	o.DeliveryLimit = 3
	tr := start(t, o, nil)
	if _, err := tr.Send(t.Context(), transport.Inventory, event(1)); err != nil {
		t.Fatal(err)
	}
	ch := channel(t, o.URL)
	began := time.Now()
	var page transport.LetterPage
	until(t, "a letter", func() bool {
		if d, ok, err := ch.Get("flashsale.inventory", false); err != nil {
			t.Fatal(err)
		} else if ok {
			if err := d.Nack(false, true); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if page, err = tr.List(t.Context(), transport.Filter{Reason: transport.ReasonAttempts}); err != nil {
			t.Fatal(err)
		}
		return len(page.Letters) == 1
	})
	l := page.Letters[0]
	if l.ID != event(1).ID || l.Attempts != 4 || !strings.Contains(l.Error, "crashed") || l.Route != "inventory.thing.happened" || l.Queue != "flashsale.inventory" {
		t.Errorf("letter %+v", l)
	}
	if l.Died.Before(began.Add(-2*time.Second)) || l.Died.After(time.Now().Add(2*time.Second)) || l.FirstFailed.IsZero() {
		t.Errorf("died %s, first failed %s", l.Died, l.FirstFailed)
	}
	if n, err := tr.Replay(t.Context(), transport.Filter{}, 0); err != nil || n.Done != 1 {
		t.Fatalf("%+v, %v", n, err)
	}
	if d, ok, err := ch.Get("flashsale.inventory", false); err != nil || !ok || d.MessageId == "" {
		t.Errorf("not replayed: %v %v", ok, err)
	}
}

// cutter passes connections through to a server, and cuts each after it has let so many bytes out.
func cutter(t *testing.T, server string, after func(n int) int64) (addr string) {
	t.Helper()
	var conns atomic.Int64
	return testenv.Between(t, server, func(in, out *net.TCPConn) {
		n := int(conns.Add(1)) - 1
		go func() { _, _ = io.CopyN(out, in, after(n)); _ = out.Close() }()
		_, _ = io.Copy(in, out)
	})
}

// TestReplayCut: connections break again and again while letters are replayed, at every point between
// publish, confirm and acknowledgement. A letter may be replayed twice; none is lost.
func TestReplayCut(t *testing.T) {
	t.Parallel()
	const letters = 100
	o := options(testenv.RabbitMQ(t))
	start(t, o, nil) // nobody consumes: what is replayed stays to be seen
	ch := channel(t, o.URL)
	want := map[string]bool{}
	for n := range letters {
		body, err := transport.Marshal(event(n))
		if err != nil {
			t.Fatal(err)
		}
		want[event(n).ID.String()] = true
		publish(t, ch, "flashsale.dead", "inventory", body)
	}
	at, err := url.Parse(o.URL)
	if err != nil {
		t.Fatal(err)
	}
	at.Host = cutter(t, at.Host, func(n int) int64 { return 6000 + 37*int64(n) }) // some letters each
	o.URL = at.String()
	tool := amqp.New(o)
	cuts, done := 0, 0
	until(t, "all replayed", func() bool {
		n, err := tool.Replay(t.Context(), transport.Filter{}, 10_000)
		done += n.Done
		if err != nil {
			if cuts++; !errors.Is(err, transport.ErrUnavailable) || !n.More {
				t.Errorf("%+v, %v", n, err)
			}
		}
		return err == nil && !n.More
	})
	if cuts < 3 || done < letters {
		t.Errorf("%d replayed, %d replays were cut; want %d or more, and 3 or more", done, cuts, letters)
	}
	got := map[string]bool{}
	n := 0
	until(t, "every letter is in the queue", func() bool {
		for ; ; n++ {
			d, ok, err := ch.Get("flashsale.inventory", true)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			e, err := transport.Unmarshal(d.Body)
			if err != nil {
				t.Fatal(err)
			}
			got[e.ID.String()] = true
		}
		return len(got) == len(want)
	})
	t.Logf("%d cuts, %d messages of %d letters", cuts, n, letters)
	if page, err := tool.List(t.Context(), transport.Filter{}); err == nil && len(page.Letters) != 0 {
		t.Errorf("%d letters are left", len(page.Letters))
	}
}

// TestReplayIntoAFullQueue: what does not fit stays a letter.
func TestReplayIntoAFullQueue(t *testing.T) {
	t.Parallel()
	o := options(testenv.RabbitMQ(t))
	o.Depth = 5
	tr := start(t, o, nil)
	ch := channel(t, o.URL)
	const letters = 40
	for n := range letters {
		body, err := transport.Marshal(event(n))
		if err != nil {
			t.Fatal(err)
		}
		publish(t, ch, "flashsale.dead", "inventory", body)
	}
	n, err := tr.Replay(t.Context(), transport.Filter{}, 1000)
	if !errors.Is(err, transport.ErrOverloaded) || !n.More || n.Done == 0 || n.Done == letters {
		t.Fatalf("%+v, %v", n, err)
	}
	page, err := tr.List(t.Context(), transport.Filter{Limit: 100})
	if err != nil || len(page.Letters) != letters-n.Done {
		t.Errorf("%d letters after %+v, %v", len(page.Letters), n, err)
	}
}

// TestWindow: a queue of more letters than one look can hold says so, and is emptied all the same.
func TestWindow(t *testing.T) {
	t.Parallel()
	for _, window := range []int{10, 70} { // below and above where streaming begins
		o := options(testenv.RabbitMQ(t))
		o.Window = window
		tr := start(t, o, nil)
		ch := channel(t, o.URL)
		const letters = 100
		for n := range letters {
			body, err := transport.Marshal(event(n))
			if err != nil {
				t.Fatal(err)
			}
			publish(t, ch, "flashsale.dead", "inventory", body)
		}
		page, err := tr.List(t.Context(), transport.Filter{Limit: 100})
		if err != nil || !page.Partial || len(page.Letters) != window {
			t.Errorf("window %d: %d letters, partial %v, %v", window, len(page.Letters), page.Partial, err)
		}
		if n, err := tr.Purge(t.Context(), transport.Filter{Service: transport.Order}); err != nil || n.Done != 0 {
			t.Errorf("another service: %+v, %v", n, err)
		}
		if n, err := tr.Purge(t.Context(), transport.Filter{Reason: transport.ReasonMalformed}); err != nil || n.Done != 0 || !n.More {
			t.Errorf("none within the window: %+v, %v", n, err)
		}
		if n, err := tr.Replay(t.Context(), transport.Filter{Limit: 25}, 10_000); err != nil || n.Done != 25 || !n.More {
			t.Errorf("some: %+v, %v", n, err)
		}
		if n, err := tr.Purge(t.Context(), transport.Filter{}); err != nil || n.Done != letters-25 || n.More {
			t.Errorf("the rest: %+v, %v", n, err)
		}
	}
}

// TestLookIsExclusive: who cannot get the letters in time is told to come again, and gets them when the
// other has gone, however it went.
func TestLookIsExclusive(t *testing.T) {
	t.Parallel()
	o := options(testenv.RabbitMQ(t))
	tr := start(t, o, nil)
	other, err := rabbit.Dial(o.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	ch, err := other.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("flashsale.inventory.dead.lock", false, false, true, false, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := tr.List(ctx, transport.Filter{}); !errors.Is(err, transport.ErrOverloaded) {
		t.Errorf("while another looks: %v", err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.List(t.Context(), transport.Filter{}); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// TestNoQueuesYet: on a broker where no service has run there are no letters.
func TestNoQueuesYet(t *testing.T) {
	t.Parallel()
	tool := amqp.New(options(testenv.RabbitMQ(t)))
	if page, err := tool.List(t.Context(), transport.Filter{}); err != nil || len(page.Letters) != 0 {
		t.Errorf("%+v, %v", page, err)
	}
	if _, err := tool.Show(t.Context(), transport.Inventory, id.Derive("x")); !errors.Is(err, transport.ErrNoLetter) {
		t.Error(err)
	}
	away := amqp.New(options("amqp://guest:guest@127.0.0.1:1/"))
	if _, err := away.List(t.Context(), transport.Filter{}); !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("no broker: %v", err)
	}
}
