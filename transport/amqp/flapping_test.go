package amqp_test

import (
	"bytes"
	"context"
	"errors"
	"flashsale/testenv"
	"flashsale/transport"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// frail is a way to RabbitMQ that can be cut.
type frail struct {
	addr  string
	mu    sync.Mutex
	conns []net.Conn
	after atomic.Pointer[string] // the next connection that says this is cut behind it
}

// said takes what the program says on a connection.
type said struct {
	f       *frail
	in, out net.Conn
}

// Write implements io.Writer.
func (w said) Write(b []byte) (int, error) {
	n, err := w.out.Write(b)
	if after := w.f.after.Load(); after != nil && bytes.Contains(b, []byte(*after)) && w.f.after.CompareAndSwap(after, nil) {
		_ = w.in.Close() // its answer will not arrive
	}
	return n, err
}

func newFrail(t *testing.T, server string) *frail {
	t.Helper()
	f := &frail{}
	f.addr = testenv.Between(t, server, func(in, out *net.TCPConn) {
		f.mu.Lock()
		f.conns = append(f.conns, in, out)
		f.mu.Unlock()
		go func() { _, _ = io.Copy(said{f, in, out}, in); _ = out.Close() }()
		_, _ = io.Copy(in, out)
	})
	return f
}

// cut closes whatever is connected.
func (f *frail) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		_ = c.Close()
	}
	f.conns = nil
}

// TestFlapping: a connection that breaks with every message, for eight seconds, does not use up the message's deliveries:
// it is handled when the connection holds, and is no dead letter.
func TestFlapping(t *testing.T) {
	t.Parallel()
	at, err := url.Parse(testenv.RabbitMQ(t))
	if err != nil {
		t.Fatal(err)
	}
	way := newFrail(t, at.Host)
	at.Host = way.addr
	began, handled, cuts := time.Now(), make(chan int, 1), 0
	tr := start(t, options(at.String()), func(context.Context, transport.Envelope) ([]transport.Envelope, error) {
		if time.Since(began) < 8*time.Second {
			cuts++ // deliveries of one message come one after the other
			way.cut()
		} else {
			select {
			case handled <- cuts:
			default:
			}
		}
		return nil, nil
	})
	for _, err := range together(t, tr, transport.Inventory, []transport.Envelope{event(1)}) {
		if err != nil {
			t.Logf("not confirmed: %v", err) // it is stored: that is cut too
		}
	}
	select {
	case n := <-handled:
		t.Logf("cut %d times", n)
		if n < 5 {
			t.Errorf("cut %d times only", n)
		}
	case <-time.After(40 * time.Second):
		t.Fatal("never handled")
	}
	if _, dead, err := tr.Depths(t.Context()); err != nil || dead != 0 {
		t.Errorf("%d dead letters, %v", dead, err)
	}
}

// TestLostAndThenRefused: a message whose confirm was lost is published again, and the queue is full by then. That says
// nothing of the first time: it may be stored.
func TestLostAndThenRefused(t *testing.T) {
	t.Parallel()
	o := options(testenv.RabbitMQ(t))
	o.Depth = 5
	direct := start(t, o, nil) // nobody consumes
	until(t, "the queue is full", func() bool {
		_, err := direct.Send(t.Context(), transport.Inventory, event(1))
		return errors.Is(err, transport.ErrOverloaded)
	})
	at, err := url.Parse(o.URL)
	if err != nil {
		t.Fatal(err)
	}
	way := newFrail(t, at.Host)
	at.Host = way.addr
	o.URL = at.String()
	tr := start(t, o, nil)
	if _, err := tr.Send(t.Context(), transport.Inventory, event(2)); !errors.Is(err, transport.ErrOverloaded) {
		t.Fatalf("a full queue: %v", err)
	}
	mark := event(3).Type
	way.after.Store(&mark)
	until(t, "a message has been cut off", func() bool {
		if _, err = tr.Send(t.Context(), transport.Inventory, event(3)); way.after.Load() != nil {
			t.Logf("not sent: %v", err)
		}
		return way.after.Load() == nil
	})
	if err == nil || transport.NothingHandled(err) || !strings.Contains(err.Error(), "the queue is full") {
		t.Errorf("lost and then refused: %v", err)
	}
}
