// Package httptransport carries envelopes and questions between processes over HTTP: it posts an
// envelope and waits for what the other service decided.
package httptransport

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"flashsale/hangup"
	"flashsale/transport"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/gofiber/fiber/v2"
)

// Options are what a Transport needs. Listen and Token must be set; zero bounds mean their default.
type Options struct {
	Listen  string                       // host:port
	Token   string                       // what services show each other
	Peers   map[transport.Service]string // base URLs
	Timeout time.Duration                // of one call without a deadline of its own; 10 s
	Calls   int                          // under way per peer, beyond which ErrOverloaded; 512
	Log     *slog.Logger
}

// Transport implements transport.Transport and transport.Asker.
type Transport struct {
	opts    Options
	app     *fiber.App
	client  *client
	peers   map[transport.Service]*peer
	stopped atomic.Bool

	mu       sync.RWMutex
	handlers map[transport.Service]transport.Handler
	answers  map[transport.Service]transport.Answerer
	listener *hangup.Listener
	served   chan error
}

// peer is one callee: its address, what it may take of this process, and whether it answers.
type peer struct {
	url     string
	slots   bulkhead.Bulkhead[any]
	breaker circuitbreaker.CircuitBreaker[any]
	calls   atomic.Int64 // under way
}

// Peers returns the services that are called over HTTP.
func (t *Transport) Peers() []transport.Service { return slices.Sorted(maps.Keys(t.peers)) }

// Calls returns how many calls to a peer are under way, and how many may be.
func (t *Transport) Calls(to transport.Service) (now, most int) {
	return int(t.peers[to].calls.Load()), t.opts.Calls
}

// BreakerOpen returns the state of a peer's circuit breaker: 0 closed, 0.5 half open, 1 open.
func (t *Transport) BreakerOpen(to transport.Service) float64 {
	switch t.peers[to].breaker.State() {
	case circuitbreaker.OpenState:
		return 1
	case circuitbreaker.HalfOpenState:
		return 0.5
	default:
		return 0
	}
}

const (
	eventsPath  = "/internal/v1/events/"
	askPath     = "/internal/v1/ask/"
	deadlineKey = "X-Deadline-Ms" // how long the caller still waits
	reasonKey   = "X-Reason"      // of a permanent error, as a dead letter would have it
	maxAnswer   = 8 << 20
)

// New returns a Transport that is not listening yet.
func New(opts Options) *Transport {
	if opts.Timeout == 0 {
		opts.Timeout = 10 * time.Second
	}
	if opts.Calls == 0 {
		opts.Calls = 512
	}
	t := &Transport{
		opts: opts, client: newClient(opts.Token, opts.Timeout), peers: map[transport.Service]*peer{},
		handlers: map[transport.Service]transport.Handler{}, answers: map[transport.Service]transport.Answerer{},
	}
	for service, url := range opts.Peers {
		t.peers[service] = &peer{
			url: strings.TrimSuffix(url, "/"), slots: bulkhead.New[any](uint(opts.Calls)),
			breaker: circuitbreaker.NewBuilder[any]().WithFailureThreshold(10).WithDelay(time.Second).Build(),
		}
	}
	t.app = fiber.New(fiber.Config{
		DisableStartupMessage: true, BodyLimit: transport.MaxEnvelope, Immutable: true,
		ReadTimeout: 15 * time.Second, WriteTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorHandler: func(c *fiber.Ctx, err error) error {
			if errors.Is(err, fiber.ErrRequestTimeout) { // of a caller who dialled and had no use for it: an answer would be taken for that to the next call
				return c.Context().Conn().Close()
			}
			var f *fiber.Error
			if errors.As(err, &f) {
				return c.Status(f.Code).SendString(f.Message)
			}
			if transport.IsPermanent(err) {
				c.Set(reasonKey, string(transport.ReasonOf(err)))
			}
			return c.Status(status(err)).SendString(err.Error())
		},
	})
	t.app.Use(t.admit)
	t.app.Post(eventsPath+":service", t.receive)
	t.app.Post(askPath+":service", t.reply)
	return t
}

// Handle implements transport.Transport.
func (t *Transport) Handle(to transport.Service, h transport.Handler) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.handlers[to] = h
}

// Answer registers the answerer of a service, before Start.
func (t *Transport) Answer(to transport.Service, a transport.Answerer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answers[to] = a
}

// Start implements transport.Transport.
func (t *Transport) Start(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", t.opts.Listen)
	if err != nil {
		return fmt.Errorf("httptransport: cannot listen on %s; is another process there? %w", t.opts.Listen, err)
	}
	t.listener, t.served = hangup.New(l), make(chan error, 1)
	go func() { t.served <- t.app.Listener(t.listener) }()
	return nil
}

// URL returns the base URL it listens on, after Start.
func (t *Transport) URL() string { return "http://" + t.listener.Addr().String() }

// Stop implements transport.Transport. Peers that have connected and ask nothing are hung up on.
func (t *Transport) Stop(ctx context.Context) error {
	if t.stopped.Swap(true) {
		return nil
	}
	defer t.client.close() // what else is under way is a loop's, which ends with the process
	if t.served == nil {
		return nil
	}
	t.listener.HangUp()
	if err := t.app.ShutdownWithContext(ctx); err != nil {
		return fmt.Errorf("httptransport: calls are still under way: %w", err)
	}
	_ = t.listener.Close() // a server that had not begun to accept is not stopped by Shutdown
	select {
	case err := <-t.served:
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// admit lets in who shows the token, and takes over the caller's deadline: nobody works for a
// caller who has gone.
func (t *Transport) admit(c *fiber.Ctx) error {
	given, _ := strings.CutPrefix(c.Get("Authorization"), "Bearer ")
	if subtle.ConstantTimeCompare([]byte(given), []byte(t.opts.Token)) != 1 {
		return fiber.ErrUnauthorized
	}
	wait := t.opts.Timeout
	if ms, err := strconv.ParseInt(c.Get(deadlineKey), 10, 32); err == nil && ms > 0 {
		wait = min(time.Duration(ms)*time.Millisecond, time.Minute)
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	c.SetUserContext(ctx)
	return c.Next()
}

func (t *Transport) receive(c *fiber.Ctx) error {
	e, err := transport.Unmarshal(c.Body())
	if err != nil {
		return err
	}
	t.mu.RLock()
	h := t.handlers[transport.Service(c.Params("service"))]
	t.mu.RUnlock()
	if h == nil {
		return fiber.ErrNotFound
	}
	events, err := h(c.UserContext(), e)
	if err != nil {
		return err
	}
	out := []byte("[")
	for i, e := range events {
		if i > 0 {
			out = append(out, ',')
		}
		if out, err = transport.AppendMarshal(out, e); err != nil {
			return err
		}
	}
	c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSON)
	return c.Send(append(out, ']'))
}

type question struct {
	Name string          `json:"name"`
	Data json.RawMessage `json:"data"`
}

func (t *Transport) reply(c *fiber.Ctx) error {
	var q question
	if err := json.Unmarshal(c.Body(), &q); err != nil {
		return transport.Permanent(err)
	}
	t.mu.RLock()
	answer := t.answers[transport.Service(c.Params("service"))]
	t.mu.RUnlock()
	if answer == nil {
		return fiber.ErrNotFound
	}
	b, err := answer(c.UserContext(), transport.Question{Name: q.Name, Data: q.Data, TraceParent: c.Get("traceparent")})
	if err != nil {
		return err
	}
	c.Set("Content-Type", "application/json")
	return c.Send(b)
}

// status says over the wire what kind of error a handler returned; verdict reads it.
func status(err error) int {
	switch {
	case transport.IsPermanent(err):
		return http.StatusUnprocessableEntity
	case transport.NothingHandled(err):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// verdict turns an answer that is not 200 into the error that the other side had.
func verdict(to transport.Service, code int, why transport.Reason, body []byte) error {
	said := fmt.Errorf("httptransport: %s answered %d: %s", to, code, bytes.TrimSpace(body[:min(len(body), 300)]))
	switch code {
	case http.StatusUnprocessableEntity:
		if !slices.Contains(transport.Reasons(), why) {
			why = transport.ReasonPermanent
		}
		return transport.PermanentAs(why, said)
	case http.StatusServiceUnavailable:
		return fmt.Errorf("%w: %w", transport.ErrOverloaded, said)
	case http.StatusUnauthorized, http.StatusNotFound, http.StatusRequestEntityTooLarge:
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, said) // refused before any handler
	}
	return said
}

// Send implements transport.Sender.
func (t *Transport) Send(ctx context.Context, to transport.Service, e transport.Envelope) (transport.Receipt, error) {
	body, err := transport.Marshal(e)
	if err != nil {
		return transport.Receipt{}, fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	b, err := t.call(ctx, to, eventsPath, transport.ContentType, body, e.TraceParent)
	if err != nil {
		return transport.Receipt{}, err
	}
	r := transport.Receipt{Decided: true}
	if r.Events, err = list(b); err != nil {
		return transport.Receipt{}, fmt.Errorf("httptransport: answer of %s: %w", to, err)
	}
	return r, nil
}

// list reads a JSON array of envelopes.
func list(b []byte) (es []transport.Envelope, err error) {
	d := jsontext.NewDecoder(bytes.NewReader(b))
	if t, err := d.ReadToken(); err != nil || t.Kind() != '[' {
		return nil, errors.Join(errors.New("it is no list of events"), err)
	}
	for d.PeekKind() != ']' {
		v, err := d.ReadValue()
		if err != nil {
			return nil, err
		}
		e, err := transport.Unmarshal(v)
		if err != nil {
			return nil, err
		}
		es = append(es, e)
	}
	return es, nil
}

// Ask implements transport.Asker.
func (t *Transport) Ask(ctx context.Context, to transport.Service, q transport.Question) (json.RawMessage, error) {
	body, err := json.Marshal(question{q.Name, q.Data})
	if err != nil {
		return nil, err
	}
	b, err := t.call(ctx, to, askPath, "application/json", body, q.TraceParent)
	if err != nil && !transport.IsPermanent(err) && !transport.NothingHandled(err) {
		err = fmt.Errorf("%w: %w", transport.ErrUnavailable, err) // asking changes nothing
	}
	return b, err
}

const maxTries = 3

// call is the one retrying layer. What was not sent is tried again; what was sent is tried again
// once, because handlers do nothing twice, but is "unknown" from then on.
func (t *Transport) call(ctx context.Context, to transport.Service, path, kind string, body []byte, trace string) ([]byte, error) {
	p := t.peers[to]
	switch {
	case t.stopped.Load():
		return nil, transport.ErrStopped
	case p == nil:
		return nil, fmt.Errorf("%w: no peer is named for the service %q", transport.ErrUnavailable, to)
	}
	if !p.slots.TryAcquirePermit() {
		return nil, fmt.Errorf("%w: %d calls to %s are under way", transport.ErrOverloaded, t.opts.Calls, to)
	}
	defer p.slots.ReleasePermit()
	p.calls.Add(1)
	defer p.calls.Add(-1)
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.opts.Timeout)
		defer cancel()
	}
	sent := false
	for try := 1; ; try++ {
		if err := ctx.Err(); err != nil { // whoever has no time left says nothing of the peer
			return nil, unknownIf(sent, err)
		}
		if !p.breaker.TryAcquirePermit() {
			return nil, unknownIf(sent, fmt.Errorf("%s has not been answering; it is asked again in a moment", to))
		}
		b, code, why, err := t.client.post(ctx, p.url+path+string(to), kind, body, trace)
		if err == nil {
			p.breaker.RecordSuccess()
			if code == http.StatusOK {
				return b, nil
			}
			err = verdict(to, code, why, b)
			if sent && transport.NothingHandled(err) {
				err = fmt.Errorf("httptransport: %s: not known whether the first try was handled; the second: %s", to, err.Error())
			}
			return nil, err
		}
		p.breaker.RecordFailure()
		if !errors.Is(err, errNotSent) {
			if sent {
				return nil, unknownIf(true, err)
			}
			sent = true
		}
		if try == maxTries || ctx.Err() != nil {
			return nil, unknownIf(sent, err)
		}
		select {
		case <-ctx.Done():
			return nil, unknownIf(sent, err)
		case <-time.After(time.Duration(try) * 20 * time.Millisecond):
		}
	}
}

// unknownIf keeps "cannot be reached" for what was certainly never handled, also when that is so of a second try.
func unknownIf(sent bool, err error) error {
	if sent && transport.NothingHandled(err) {
		return fmt.Errorf("httptransport: not known whether it was handled: %s", err.Error())
	}
	if sent {
		return fmt.Errorf("httptransport: not known whether it was handled: %w", err)
	}
	return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
}
