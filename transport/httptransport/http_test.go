package httptransport_test

import (
	"context"
	"encoding/json"
	"errors"
	"flashsale/id"
	"flashsale/testenv"
	"flashsale/transport"
	"flashsale/transport/httptransport"
	"flashsale/transport/transporttest"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

const token = "a token that only the services of this test know"

func pair(t *testing.T) (sender, receiver *httptransport.Transport) {
	t.Helper()
	port := testenv.FreePort(t)
	addr := net.JoinHostPort("127.0.0.1", itoa(port))
	log := slog.New(slog.DiscardHandler)
	receiver = httptransport.New(httptransport.Options{Listen: addr, Token: token, Log: log})
	sender = httptransport.New(httptransport.Options{
		Listen: "127.0.0.1:0", Token: token, Log: log, Peers: map[transport.Service]string{transport.Inventory: "http://" + addr},
	})
	return sender, receiver
}

func anEnvelope() transport.Envelope {
	return transport.New("x", transport.Order, id.Derive("x"), time.Now(), "", struct{}{})
}

// caller is a transport that calls inventory, and is not called.
func caller(url, token string) *httptransport.Transport {
	return httptransport.New(httptransport.Options{Token: token, Peers: map[transport.Service]string{transport.Inventory: url}, Log: slog.New(slog.DiscardHandler)})
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

func TestTransport(t *testing.T) {
	t.Parallel()
	transporttest.Exercise(t, transporttest.Features{Decides: true}, func(t *testing.T) (transport.Transport, transport.Transport) {
		s, r := pair(t)
		return s, r
	})
}

// TestSilence: a connection on which nothing came is closed without an answer, which would be taken for that to the next
// call, although that was not handled.
func TestSilence(t *testing.T) {
	t.Parallel()
	_, r := pair(t)
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Stop(context.Background()) })
	c, err := net.Dial("tcp", r.URL()[len("http://"):])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(60 * time.Second))
	if got, err := io.ReadAll(c); err != nil || len(got) > 0 {
		t.Errorf("answered %q, %v", got, err)
	}
}

// TestStopBesideUnusedConnections: a peer's connection that was dialled and not used, as Go's client has them, is no call
// under way that a stop waits for.
func TestStopBesideUnusedConnections(t *testing.T) {
	t.Parallel()
	_, r := pair(t)
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c, err := net.Dial("tcp", r.URL()[len("http://"):])
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
	}
	resp, err := http.Get(r.URL()) // once this one is answered, those before it are accepted
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	began := time.Now()
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 10*time.Second { // it was the 15 s in which a request has to come
		t.Errorf("stopped after %s", took)
	}
}

func TestAsk(t *testing.T) {
	t.Parallel()
	s, r := pair(t)
	r.Answer(transport.Inventory, func(_ context.Context, q transport.Question) (json.RawMessage, error) {
		if q.Name != "double" {
			return nil, transport.Permanent(errors.New("unknown question"))
		}
		return json.RawMessage(`{"twice":` + string(q.Data) + `}`), nil
	})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := s.Ask(t.Context(), transport.Inventory, transport.Question{Name: "double", Data: json.RawMessage(`7`)})
	if err != nil || string(got) != `{"twice":7}` {
		t.Fatalf("%s, %v", got, err)
	}
	if _, err := s.Ask(t.Context(), transport.Inventory, transport.Question{Name: "other", Data: json.RawMessage(`7`)}); !transport.IsPermanent(err) {
		t.Fatalf("unknown question: %v", err)
	}
	if _, err := s.Ask(t.Context(), transport.Order, transport.Question{}); !errors.Is(err, transport.ErrUnavailable) {
		t.Fatalf("no such peer: %v", err)
	}
	if err := r.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ask(t.Context(), transport.Inventory, transport.Question{Name: "double", Data: json.RawMessage(`7`)}); !errors.Is(err, transport.ErrUnavailable) {
		t.Fatalf("nobody listens: %v", err)
	}
}

func TestWithoutTheTokenNothingIsHandled(t *testing.T) {
	t.Parallel()
	_, r := pair(t)
	r.Handle(transport.Inventory, func(context.Context, transport.Envelope) ([]transport.Envelope, error) {
		t.Error("handled")
		return nil, nil
	})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := caller(r.URL(), "wrong")
	_, err := s.Send(t.Context(), transport.Inventory, anEnvelope())
	if !errors.Is(err, transport.ErrUnavailable) {
		t.Fatalf("%v", err)
	}
	if err := r.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// TestCutAfterSend: a callee that takes the request and dies may have handled it, so the caller is
// told "unknown", never "nothing was handled".
func TestCutAfterSend(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = c.Close()
		}
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	s := caller("http://"+l.Addr().String(), token)
	_, err = s.Send(t.Context(), transport.Inventory, anEnvelope())
	if err == nil || transport.NothingHandled(err) {
		t.Fatalf("%v; want unknown", err)
	}
}

// TestPeerStartedAgain: of many connections that were open to a peer none is of use when it has been started again: no
// call of a crowd fails for that. When it is gone, every one knows that it was not handled.
func TestPeerStartedAgain(t *testing.T) {
	t.Parallel()
	const many = 40
	s, r := pair(t)
	gather := func() transport.Handler { // each call has a connection of its own
		var here sync.WaitGroup
		here.Add(many)
		return func(context.Context, transport.Envelope) ([]transport.Envelope, error) {
			here.Done()
			here.Wait()
			return nil, nil
		}
	}
	crowd := func(fine func(error) bool) {
		t.Helper()
		var all sync.WaitGroup
		for range many {
			all.Go(func() {
				if _, err := s.Send(t.Context(), transport.Inventory, anEnvelope()); !fine(err) {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	sent := func(err error) bool { return err == nil }
	r.Handle(transport.Inventory, gather())
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	crowd(sent)
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := httptransport.New(httptransport.Options{Listen: r.URL()[len("http://"):], Token: token, Log: slog.New(slog.DiscardHandler)})
	again.Handle(transport.Inventory, gather())
	if err := again.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	crowd(sent)
	if err := again.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	crowd(transport.NothingHandled)
}

// TestNoTimeLeft: many callers whose time is over say nothing of the peer; the next one reaches it.
func TestNoTimeLeft(t *testing.T) {
	t.Parallel()
	s, r := pair(t)
	r.Handle(transport.Inventory, func(context.Context, transport.Envelope) ([]transport.Envelope, error) { return nil, nil })
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Stop(context.Background()) })
	over, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	for range 100 {
		if _, err := s.Send(over, transport.Inventory, anEnvelope()); !transport.NothingHandled(err) {
			t.Fatalf("sent without time: %v", err)
		}
	}
	if _, err := s.Send(t.Context(), transport.Inventory, anEnvelope()); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

// TestStopEndsCalls: a stop does not wait for a peer that hangs, and the call is not known to be unhandled.
func TestStopEndsCalls(t *testing.T) {
	t.Parallel()
	s, r := pair(t)
	came, leave := make(chan struct{}), make(chan struct{})
	r.Handle(transport.Inventory, func(context.Context, transport.Envelope) ([]transport.Envelope, error) {
		close(came)
		<-leave
		return nil, nil
	})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_, err := s.Send(ctx, transport.Inventory, anEnvelope())
		ended <- err
	}()
	<-came
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil || transport.NothingHandled(err) {
			t.Errorf("%v; want unknown", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the call goes on behind the stop")
	}
	close(leave)
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestCutWithinAnswer: an answer of which only the beginning came is none.
func TestCutWithinAnswer(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}")
			_ = c.(*net.TCPConn).SetLinger(0) // a reset, behind the bytes before it
			_ = c.Close()
		}
	}()
	s := caller("http://"+l.Addr().String(), token)
	if b, err := s.Ask(t.Context(), transport.Inventory, transport.Question{Name: "x", Data: json.RawMessage(`{}`)}); !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("%q, %v", b, err)
	}
}
