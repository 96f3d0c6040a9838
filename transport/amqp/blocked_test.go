package amqp_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flashsale/testenv"
	"flashsale/transport"
	"io"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// alarm stands between a program and its broker, and does to its publishing connection what a broker with
// a memory alarm does: says that it is blocked, and reads no more from it until the alarm is over. (A real
// alarm would stop every other test on the same server.)
type alarm struct {
	addr string
	gate atomic.Pointer[chan struct{}] // open: what is published passes
	held atomic.Int64                  // bytes that came while it was shut
	mu   sync.Mutex
	subs []*guarded
}

// guarded writes whole frames to the program.
type guarded struct {
	mu         sync.Mutex
	to         net.Conn
	publishing atomic.Bool
}

func (g *guarded) write(b []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, err := g.to.Write(b)
	return err
}

// frame is a method of the class connection on channel 0.
func frame(method uint16, arguments string) []byte {
	payload := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, 10), method)
	if arguments != "" {
		payload = append(append(payload, byte(len(arguments))), arguments...)
	}
	b := binary.BigEndian.AppendUint32([]byte{1, 0, 0}, uint32(len(payload)))
	return append(append(b, payload...), 0xCE)
}

func newAlarm(t *testing.T, server string) *alarm {
	t.Helper()
	a := &alarm{}
	open := make(chan struct{})
	close(open)
	a.gate.Store(&open)
	ended := make(chan struct{})
	a.addr = testenv.Between(t, server, func(in, out *net.TCPConn) {
		g := &guarded{to: in}
		a.mu.Lock()
		a.subs = append(a.subs, g)
		a.mu.Unlock()
		go func() { a.up(in, out, g, ended); _ = out.Close() }()
		down(out, g)
	})
	t.Cleanup(func() { close(ended) })
	return a
}

// up passes on what the program says, while the gate is open or it is not the one that publishes.
func (a *alarm) up(in io.Reader, out io.Writer, g *guarded, ended chan struct{}) {
	buf := make([]byte, 64<<10)
	for {
		n, err := in.Read(buf)
		if err != nil {
			return
		}
		if bytes.Contains(buf[:n], []byte("flashsale publishing")) {
			g.publishing.Store(true)
		}
		if g.publishing.Load() {
			gate := *a.gate.Load()
			select {
			case <-gate:
			default:
				a.held.Add(int64(n))
			}
			select {
			case <-gate:
			case <-ended:
				return
			}
		}
		if _, err := out.Write(buf[:n]); err != nil {
			return
		}
	}
}

// down passes whole frames on.
func down(out io.Reader, g *guarded) {
	for {
		head := make([]byte, 7)
		if _, err := io.ReadFull(out, head); err != nil {
			return
		}
		rest := make([]byte, binary.BigEndian.Uint32(head[3:])+1)
		if _, err := io.ReadFull(out, rest); err != nil || g.write(append(head, rest...)) != nil {
			return
		}
	}
}

func (a *alarm) shut() (open func()) {
	gate := make(chan struct{})
	a.gate.Store(&gate)
	return func() { close(gate) }
}

// say tells the publishing connections.
func (a *alarm) say(t *testing.T, b []byte) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	told := 0
	for _, g := range a.subs {
		if g.publishing.Load() && g.write(b) == nil {
			told++
		}
	}
	if told == 0 {
		t.Fatal("nobody publishes")
	}
}

// counting counts the lines that say something.
type counting struct {
	slog.Handler
	what string
	n    *atomic.Int64
}

// Enabled implements slog.Handler.
func (c counting) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (c counting) Handle(_ context.Context, r slog.Record) error {
	if r.Message == c.what {
		c.n.Add(1)
	}
	return nil
}

// TestBlocked: while the broker has an alarm, sending answers at once that nothing was stored; what was
// on its way answers soon that nobody knows; consuming goes on; a message whose handler fails is held, not
// thrown from hand to hand; and when the alarm is over everything goes its way.
func TestBlocked(t *testing.T) {
	t.Parallel()
	o := options(testenv.RabbitMQ(t))
	server := o.URL
	u, err := url.Parse(o.URL)
	if err != nil {
		t.Fatal(err)
	}
	a := newAlarm(t, u.Host)
	u.Host = a.addr
	o.URL = u.String()
	o.DeliveryLimit = 3
	var refusals atomic.Int64
	o.Log = slog.New(counting{slog.DiscardHandler, "message cannot be moved on yet", &refusals})
	r := newRecord()
	failing := event(50)
	var mended atomic.Bool
	r.fail = func(e transport.Envelope, _ int) error {
		if e.ID == failing.ID && !mended.Load() {
			return errors.New("not yet")
		}
		return nil
	}
	tr := start(t, o, r.handle)
	if _, err := tr.Send(t.Context(), transport.Inventory, event(1)); err != nil {
		t.Fatal(err)
	}

	open := a.shut()
	onItsWay := make(chan error, 1)
	go func() {
		_, err := tr.Send(t.Context(), transport.Inventory, event(2))
		onItsWay <- err
	}()
	until(t, "it is published", func() bool { return a.held.Load() > 100 }) // more than a heartbeat
	a.say(t, frame(60, "low on memory"))
	var refused transport.Envelope
	n := 100
	until(t, "refused", func() bool { // those before the program has heard of it are on their way
		n++
		refused = event(n)
		began := time.Now()
		_, err := tr.Send(t.Context(), transport.Inventory, refused)
		if err == nil || time.Since(began) > 3*time.Second {
			t.Fatalf("%v after %s", err, time.Since(began))
		}
		return errors.Is(err, transport.ErrOverloaded)
	})
	select {
	case err := <-onItsWay:
		if err == nil || transport.NothingHandled(err) {
			t.Errorf("what was on its way: %v; want one that says unknown", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("what was on its way still hangs")
	}

	ch := channel(t, server)
	bodies, _ := wire(t, failing, event(51))
	for _, body := range bodies {
		publish(t, ch, "flashsale.events", "inventory.thing.happened", body)
	}
	until(t, "consuming goes on", func() bool { _, done := r.times(event(51)); return done == 1 })
	until(t, "tried", func() bool { seen, _ := r.times(failing); return seen > 0 })
	until(t, "it could not be moved on, again and again", func() bool { return refusals.Load() >= 3 })
	if seen, _ := r.times(failing); seen != 1 {
		t.Errorf("handled %d times while it could not be moved on", seen)
	}
	mended.Store(true)
	open()
	a.say(t, frame(61, ""))
	until(t, "sent again", func() bool { _, err := tr.Send(t.Context(), transport.Inventory, event(4)); return err == nil })
	until(t, "all handled", func() bool {
		_, failed := r.times(failing)
		_, sent := r.times(event(4))
		_, before := r.times(event(2)) // it was stored after all
		return failed == 1 && sent >= 1 && before == 1
	})
	if seen, _ := r.times(refused); seen != 0 {
		t.Error("what was refused is handled")
	}
	if _, dead, err := tr.Depths(t.Context()); err != nil || dead != 0 {
		t.Errorf("%d dead letters, %v", dead, err)
	}
}
