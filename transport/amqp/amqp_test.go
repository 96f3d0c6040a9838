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
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	rabbit "github.com/rabbitmq/amqp091-go"
)

func options(url string) amqp.Options {
	return amqp.Options{
		URL: url, Services: []transport.Service{transport.Inventory}, Workers: 16, Log: slog.New(slog.DiscardHandler),
		Delays: []time.Duration{20 * time.Millisecond, 50 * time.Millisecond}, Pauses: []time.Duration{},
	}
}

func TestTransport(t *testing.T) {
	t.Parallel()
	transporttest.Exercise(t, transporttest.Features{Redelivers: true}, func(t *testing.T) (transport.Transport, transport.Transport) {
		tr := amqp.New(options(testenv.RabbitMQ(t)))
		return tr, tr
	})
}

func event(n int) transport.Envelope {
	return transport.New("thing.happened", transport.Order, id.Derive(strconv.Itoa(n)), time.Now(), "", map[string]int{"n": n})
}

func start(t *testing.T, o amqp.Options, h transport.Handler) *amqp.Transport {
	t.Helper()
	tr := amqp.New(o)
	if h != nil {
		tr.Handle(transport.Inventory, h)
	}
	if err := tr.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := tr.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return tr
}

// TestConnectionsClosed: connections are cut by the broker again and again while envelopes are
// sent; every one that was confirmed is handled.
func TestConnectionsClosed(t *testing.T) {
	t.Parallel()
	url := testenv.RabbitMQ(t)
	vhost := url[strings.LastIndex(url, "/")+1:]
	var mu sync.Mutex
	handled := map[id.ID]bool{}
	tr := start(t, options(url), func(_ context.Context, e transport.Envelope) ([]transport.Envelope, error) {
		mu.Lock()
		defer mu.Unlock()
		handled[e.ID] = true
		return nil, nil
	})
	cutting, endCutting := context.WithCancel(t.Context())
	var cuts atomic.Int32
	var cutter sync.WaitGroup
	cutter.Go(func() {
		for cutting.Err() == nil {
			var conns []struct{ Name, VHost string }
			if err := json.Unmarshal([]byte(testenv.RabbitAPI(t, http.MethodGet, "/api/vhosts/"+vhost+"/connections", "")), &conns); err != nil {
				t.Error(err)
				return
			}
			for _, c := range conns {
				req := "/api/connections/" + strings.NewReplacer(" ", "%20", ">", "%3E", ":", "%3A").Replace(c.Name)
				if closeConnection(t, req) {
					cuts.Add(1)
				}
			}
			select {
			case <-cutting.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
	var confirmed []id.ID
	for n := 0; len(confirmed) < 300 || cuts.Load() < 4; n++ {
		var es []transport.Envelope // sent together, they share messages
		for i := range 8 {
			es = append(es, event(8*n+i))
		}
		for i, err := range together(t, tr, transport.Inventory, es) {
			if err == nil {
				confirmed = append(confirmed, es[i].ID)
			} else if errors.Is(err, transport.ErrUnavailable) {
				time.Sleep(5 * time.Millisecond) // the connection is being made again
			}
		}
		if n > 50_000 {
			t.Fatalf("%d confirmed, %d cuts", len(confirmed), cuts.Load())
		}
	}
	endCutting()
	cutter.Wait()
	for deadline := time.Now().Add(30 * time.Second); ; {
		missing := 0
		mu.Lock()
		for _, v := range confirmed {
			if !handled[v] {
				missing++
			}
		}
		mu.Unlock()
		if missing == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d confirmed envelopes were never handled (%d cuts)", missing, len(confirmed), cuts.Load())
		}
		time.Sleep(20 * time.Millisecond) // polls a condition; there is no event to wait for
	}
}

// closeConnection asks the broker to cut a connection; it may be gone already.
func closeConnection(t *testing.T, path string) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodDelete, apiURL(t)+path, nil)
	if err != nil {
		t.Error(err)
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Error(err)
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusNoContent
}

func TestFullQueueIsOverload(t *testing.T) {
	t.Parallel()
	o := options(testenv.RabbitMQ(t))
	o.Depth = 5
	tr := start(t, o, nil) // nobody consumes
	var full error
	for n := range 50 { // a quorum queue counts a little late
		if _, err := tr.Send(t.Context(), transport.Inventory, event(n)); err != nil {
			full = err
			break
		}
	}
	if !errors.Is(full, transport.ErrOverloaded) {
		t.Fatalf("a full queue: %v, want %v", full, transport.ErrOverloaded)
	}
	var mu sync.Mutex
	n := 0
	start(t, o, func(context.Context, transport.Envelope) ([]transport.Envelope, error) {
		mu.Lock()
		defer mu.Unlock()
		n++
		return nil, nil
	})
	for deadline := time.Now().Add(20 * time.Second); ; {
		if _, err := tr.Send(t.Context(), transport.Inventory, event(1000)); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the queue was drained, but takes nothing")
		}
		time.Sleep(20 * time.Millisecond) // polls a condition; there is no event to wait for
	}
}

// TestPoison: what is no envelope goes to the dead letters with a reason, and nothing waits behind it.
func TestPoison(t *testing.T) {
	t.Parallel()
	url := testenv.RabbitMQ(t)
	handled := make(chan struct{}, 10)
	tr := start(t, options(url), func(context.Context, transport.Envelope) ([]transport.Envelope, error) {
		handled <- struct{}{}
		return nil, nil
	})
	c, err := rabbit.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ch, err := c.Channel()
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"", "not json", `{"specversion":"1.0","schemaversion":99}`} {
		if err := ch.PublishWithContext(t.Context(), "flashsale.events", "inventory.poison", true, false, rabbit.Publishing{Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tr.Send(t.Context(), transport.Inventory, event(1)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-handled:
	case <-time.After(20 * time.Second):
		t.Fatal("the envelope behind the poison was not handled")
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		_, dead, err := tr.Depths(t.Context())
		if err == nil && dead == 3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("dead letters %d, %v; want 3", dead, err)
		}
		time.Sleep(20 * time.Millisecond) // polls a condition; there is no event to wait for
	}
	all, err := tr.Queues(t.Context())
	if err != nil || len(all) != 1 || all[0] != (transport.QueueLevel{Service: transport.Inventory, Dead: 3}) {
		t.Errorf("queues: %+v %v", all, err)
	}
	d, ok, err := ch.Get("flashsale.inventory.dead", true)
	if err != nil || !ok {
		t.Fatalf("no dead letter: %v", err)
	}
	for _, h := range []string{"x-reason", "x-error", "x-original-route", "x-attempts"} {
		if d.Headers[h] == nil {
			t.Errorf("the dead letter has no %s: %v", h, d.Headers)
		}
	}
}

func TestNoBroker(t *testing.T) {
	t.Parallel()
	tr := amqp.New(amqp.Options{URL: "amqp://guest:guest@127.0.0.1:1/", Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := tr.Start(ctx); err == nil {
		t.Fatal("started without a broker")
	}
}

func apiURL(t *testing.T) string {
	t.Helper()
	v := os.Getenv(testenv.RabbitAPIVar)
	if v == "" {
		t.Fatalf("set %s", testenv.RabbitAPIVar)
	}
	return v
}
