package inproc_test

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/transport"
	"flashsale/transport/inproc"
	"flashsale/transport/transporttest"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

func TestBus(t *testing.T) {
	t.Parallel()
	transporttest.Exercise(t, transporttest.Features{Decides: true}, func(*testing.T) (transport.Transport, transport.Transport) {
		b := inproc.New()
		return b, b
	})
}

func open(t *testing.T, path string, o inproc.Options) *inproc.Queue {
	t.Helper()
	q, err := inproc.OpenQueue(t.Context(), path, time.Now, slog.New(slog.DiscardHandler), o)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestQueue(t *testing.T) {
	t.Parallel()
	transporttest.Exercise(t, transporttest.Features{Redelivers: true}, func(t *testing.T) (transport.Transport, transport.Transport) {
		q := open(t, filepath.Join(t.TempDir(), "queue.db"), inproc.Options{Backoff: time.Millisecond})
		return q, q
	})
}

func event(n int) transport.Envelope {
	return transport.New("thing.happened", transport.Order, id.Derive(strconv.Itoa(n)), time.Now(), "", map[string]int{"n": n})
}

func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	q := open(t, filepath.Join(t.TempDir(), "queue.db"), inproc.Options{Workers: 1, Depth: 3})
	leave := make(chan struct{})
	q.Handle(transport.Order, func(context.Context, transport.Envelope) ([]transport.Envelope, error) {
		<-leave
		return nil, nil
	})
	if err := q.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if _, err := q.Send(t.Context(), transport.Order, event(n)); err != nil {
			t.Fatalf("%d: %v", n, err)
		}
	}
	if _, err := q.Send(t.Context(), transport.Order, event(3)); !errors.Is(err, transport.ErrOverloaded) {
		t.Fatalf("a fourth of three: %v", err)
	}
	close(leave)
	if err := q.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// TestQueueSurvivesKill: a child process accepts envelopes, handles none, and is killed with
// SIGKILL; whoever opens the file next handles every one that was accepted.
func TestQueueSurvivesKill(t *testing.T) {
	t.Parallel()
	const accepted = 50
	if path := os.Getenv("FLASHSALE_TEST_QUEUE_CHILD"); path != "" {
		q := open(t, path, inproc.Options{Workers: 1})
		q.Handle(transport.Order, func(context.Context, transport.Envelope) ([]transport.Envelope, error) { select {} })
		if err := q.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for n := range accepted {
			if _, err := q.Send(t.Context(), transport.Order, event(n)); err != nil {
				t.Fatal(err)
			}
		}
		p, _ := os.FindProcess(os.Getpid())
		_ = p.Kill()
		select {}
	}
	path := filepath.Join(t.TempDir(), "queue.db")
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestQueueSurvivesKill$")
	child.Env = append(os.Environ(), "FLASHSALE_TEST_QUEUE_CHILD="+path)
	out, err := child.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Exited() {
		t.Fatalf("the child was not killed: %v\n%s", err, out)
	}
	q := open(t, path, inproc.Options{})
	var handled atomic.Int32
	all := make(chan struct{})
	q.Handle(transport.Order, func(context.Context, transport.Envelope) ([]transport.Envelope, error) {
		if handled.Add(1) == accepted {
			close(all)
		}
		return nil, nil
	})
	if err := q.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-all:
	case <-time.After(20 * time.Second):
		t.Fatalf("%d of %d accepted envelopes were handled", handled.Load(), accepted)
	}
	if err := q.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
}
