// Package httpapi is the public HTTP API: routes, strict decoding, and one form for every error.
// Handlers are thin: they read the request, call a use case, and write the answer.
package httpapi

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flashsale/account"
	"flashsale/hangup"
	"flashsale/id"
	"flashsale/telemetry/logs"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
)

// Verifier checks an access token. account.ErrTokenInvalid, account.ErrTokenExpired.
type Verifier func(token string) (user id.ID, role account.Role, err error)

// Config is what the API needs besides its use cases.
type Config struct {
	Verify      Verifier
	Timeout     time.Duration // of one request
	MaxRequests int           // under way at the same time; beyond it 503
	ShopperRate int           // requests a second of one shopper; beyond it 429; 0 for any number
	Clock       func() time.Time
	Log         *slog.Logger
	// Away tells an error of a database that does not answer, which is 503, from a mistake, which is 500. It may be nil.
	Away func(error) bool
	// Observe is told of every answer, the route being its pattern; it must not block. It may be nil.
	Observe func(method, route string, status int, took time.Duration)
	// Trace follows a request to the API, nil for none: it returns the context and the W3C trace context
	// of what happens in the request, and what is called with the route's pattern and the answer's status.
	Trace func(context.Context, Incoming) (context.Context, string, func(route string, status int))
}

// Incoming is a request as it arrives.
type Incoming struct {
	Method, Path string
	Request      string // its id
	TraceParent  string // W3C trace context; only its trace counts unless Remote
	Remote       bool   // the caller sent it
}

// API is the server. Mount what the process runs, then Serve.
type API struct {
	cfg      Config
	app      *fiber.App
	slots    chan struct{}
	streams  chan struct{}
	listener atomic.Pointer[hangup.Listener] // nil before Serve
	draining atomic.Bool
	inFlight inFlight
	ready    []func(context.Context) error
	kinds    []mapping
	rates    *rates // nil: no limit
	paces    *paces
}

// New returns an API with health, problems and the OpenAPI document mounted.
func New(cfg Config) *API {
	a := &API{cfg: cfg, slots: make(chan struct{}, cfg.MaxRequests), streams: make(chan struct{}, maxStreams), inFlight: inFlight{keys: map[string]struct{}{}}, kinds: mappings(), paces: newPaces(cfg.Clock)}
	if cfg.ShopperRate > 0 {
		a.rates = newRates(cfg.ShopperRate, cfg.Clock)
	}
	a.app = fiber.New(fiber.Config{
		AppName: "flashsale", DisableStartupMessage: true, BodyLimit: maxRead, ReadBufferSize: 8 << 10,
		ReadTimeout: 15 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		Immutable:    true, // what is read from a request may outlive it, in a group commit or a queue
		ErrorHandler: a.fail,
		// The server's own choice of name tells nobody anything.
		ServerHeader: "", StrictRouting: true, CaseSensitive: true,
	})
	a.app.Use(a.frame)
	a.app.Get("/healthz", func(c *fiber.Ctx) error { return c.JSON(fiber.Map{"status": "ok"}) })
	a.app.Get("/readyz", a.readyz)
	a.app.Get("/openapi.json", a.openAPI)
	a.app.Get("/problems/:name", describeProblem)
	return a
}

// ReadyWhen adds a condition of /readyz, before Serve.
func (a *API) ReadyWhen(check func(context.Context) error) { a.ready = append(a.ready, check) }

func (a *API) readyz(c *fiber.Ctx) error {
	if a.draining.Load() {
		return errDraining
	}
	for _, check := range a.ready {
		if err := check(c.UserContext()); err != nil {
			a.cfg.Log.WarnContext(c.UserContext(), "not ready", "error", err)
			return errNotReady
		}
	}
	return c.JSON(fiber.Map{"status": "ready"})
}

// Serve answers on a listener until Stop.
func (a *API) Serve(l net.Listener) error {
	served := hangup.New(l)
	a.listener.Store(served)
	return a.app.Listener(served)
}

// Routes returns the methods and patterns of all routes, once they are mounted, as Observe is told of them.
func (a *API) Routes() (all [][2]string) {
	for _, r := range a.app.GetRoutes(true) {
		if r.Method != fiber.MethodHead { // comes with every GET
			all = append(all, [2]string{r.Method, r.Path})
		}
	}
	return all
}

// Busy returns how many requests are under way.
func (a *API) Busy() int { return len(a.slots) }

// Drain makes /readyz fail, so that whoever sends requests here sends them elsewhere.
func (a *API) Drain() { a.draining.Store(true) }

// Stop finishes the requests under way, or until ctx ends. Whoever has connected and asks nothing is hung up on.
func (a *API) Stop(ctx context.Context) error {
	a.Drain()
	if l := a.listener.Load(); l != nil {
		l.HangUp()
	}
	if err := a.app.ShutdownWithContext(ctx); err != nil {
		return fmt.Errorf("requests are still under way: %w", err)
	}
	return nil
}

// The names under which a request's facts are kept.
const (
	keyUser = "user"
	keyRole = "role"
)

// frame is around every request: ids, a slot, a deadline, the log line, and the guard against a
// handler that panics.
func (a *API) frame(c *fiber.Ctx) (err error) {
	began := a.cfg.Clock()
	facts := logs.Facts{Request: requestID(c, began)}
	parent, remote := traceParent(c, facts.Request)
	base, answered := context.Background(), func(string, int) {}
	facts.Trace = parent
	api := strings.HasPrefix(c.Path(), "/api/")
	if api && a.cfg.Trace != nil {
		base, facts.Trace, answered = a.cfg.Trace(base, Incoming{c.Method(), c.Path(), facts.Request, parent, remote})
	}
	c.SetUserContext(logs.With(base, facts))
	c.Set("X-Request-Id", facts.Request)
	c.Set("X-Content-Type-Options", "nosniff")
	c.Set("Cache-Control", "no-store")
	defer func() {
		if p := recover(); p != nil {
			a.cfg.Log.ErrorContext(c.UserContext(), "handler panicked", "panic", p, "stack", string(debug.Stack()))
			err = errors.New("panic")
		}
		route := route(c)
		if err != nil {
			err = a.fail(c, err)
		} else {
			a.paces.note(c.Method()+route, false)
		}
		status := c.Response().StatusCode()
		if status > away {
			status = fiber.StatusServiceUnavailable
		}
		a.log(c, route, status, began)
		answered(route, status)
	}()
	if api { // health is answered under any load
		select {
		case a.slots <- struct{}{}:
			defer func() { <-a.slots }()
		default:
			return errOverloaded
		}
	}
	ctx, cancel := context.WithTimeout(c.UserContext(), a.cfg.Timeout)
	defer cancel()
	c.SetUserContext(ctx)
	return c.Next()
}

// route is the pattern: ids in paths would make every line another route.
func route(c *fiber.Ctx) string {
	if p := c.Route().Path; p != "/" {
		return p
	}
	return "unmatched"
}

func (a *API) log(c *fiber.Ctx, route string, status int, began time.Time) {
	took := a.cfg.Clock().Sub(began)
	if a.cfg.Observe != nil {
		a.cfg.Observe(c.Method(), route, status, took)
	}
	level := slog.LevelDebug
	if status >= 500 {
		level = slog.LevelWarn
	}
	if !a.cfg.Log.Enabled(c.UserContext(), level) {
		return
	}
	a.cfg.Log.Log(c.UserContext(), level, "request", "method", c.Method(), "route", route,
		"status", status, "ms", float64(took.Microseconds())/1000)
}

func request(c *fiber.Ctx) string { return logs.Of(c.UserContext()).Request }
func trace(c *fiber.Ctx) string   { return logs.Of(c.UserContext()).Trace }

// requestID takes the caller's id when it is a harmless one, and makes one otherwise.
func requestID(c *fiber.Ctx, now time.Time) string {
	given := c.Get("X-Request-Id")
	ok := given != "" && len(given) <= 64
	for i := range len(given) {
		b := given[i]
		ok = ok && (b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '.' || b == '_' || b == '-')
	}
	if ok {
		return given
	}
	return id.New(now).String()
}

// traceParent takes the caller's W3C trace context when it is well formed. Otherwise it starts a trace,
// with the request's id as the trace's where that has its form: nginx's $request_id has, and so have
// ours without their hyphens. Who has one of them then finds the other.
func traceParent(c *fiber.Ctx, request string) (parent string, remote bool) {
	if given, ok := parseTraceParent(c.Get("traceparent")); ok {
		return given, true
	}
	var r [24]byte
	_, _ = rand.Read(r[:]) // never fails (Go 1.24)
	var b [55]byte
	copy(b[:], "00-")
	if _, err := id.Parse(request); err == nil {
		request = strings.ReplaceAll(request, "-", "")
	}
	if request = strings.ToLower(request); hexes(request, 32) {
		copy(b[3:], request)
	} else {
		hex.Encode(b[3:], r[:16])
	}
	b[35] = '-'
	hex.Encode(b[36:], r[16:])
	copy(b[52:], "-00")
	return string(b[:]), false
}

func parseTraceParent(given string) (string, bool) {
	parts := strings.Split(given, "-")
	ok := len(given) == 55 && len(parts) == 4 && parts[0] == "00" && hexes(parts[1], 32) && hexes(parts[2], 16) && hexes(parts[3], 2)
	return given, ok
}

func hexes(s string, n int) bool {
	if len(s) != n || strings.Trim(s, "0") == "" && n > 2 {
		return false
	}
	return strings.Trim(s, "0123456789abcdef") == ""
}

// auth lets in who has a valid token, and for operators only, who is one.
func (a *API) auth(role account.Role) fiber.Handler {
	return func(c *fiber.Ctx) error {
		scheme, token, _ := strings.Cut(c.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") || token == "" {
			return errNoToken
		}
		user, has, err := a.cfg.Verify(token)
		if err != nil {
			return err
		}
		if role == account.Operator && has != account.Operator {
			return errForbidden
		}
		if has != account.Operator && !a.spend(c, user) {
			return errTooFast
		}
		c.Locals(keyUser, user)
		c.Locals(keyRole, has)
		return c.Next()
	}
}

// spend takes the request off the shopper's quota, and says how much of that is left.
func (a *API) spend(c *fiber.Ctx, shopper id.ID) bool {
	if a.rates == nil {
		return true
	}
	ok, left, reset := a.rates.spend(shopper)
	c.Set("RateLimit-Policy", a.rates.policy)
	c.Set("RateLimit", `"shopper";r=`+strconv.Itoa(left)+`;t=`+strconv.Itoa(reset))
	return ok
}

func user(c *fiber.Ctx) id.ID { v, _ := c.Locals(keyUser).(id.ID); return v }

// inFlight are the idempotency keys being handled in this process. It is bounded by the slots.
type inFlight struct {
	mu   sync.Mutex
	keys map[string]struct{}
}

// enter claims a key of a shopper on a route, or returns errInFlight.
func (f *inFlight) enter(user id.ID, route, key string) (leave func(), err error) {
	k := user.String() + " " + route + " " + key
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, busy := f.keys[k]; busy {
		return nil, errInFlight
	}
	f.keys[k] = struct{}{}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.keys, k)
	}, nil
}

// idempotencyKey returns the request's key: 1 to 128 visible ASCII characters.
func idempotencyKey(c *fiber.Ctx) (string, error) {
	k := c.Get("Idempotency-Key")
	ok := len(k) >= 1 && len(k) <= 128 && len(c.Request().Header.PeekAll("Idempotency-Key")) == 1
	for i := range len(k) {
		ok = ok && k[i] > ' ' && k[i] < 0x7f
	}
	if !ok {
		return "", errKey
	}
	return k, nil
}

// pathID reads an id from the path. A malformed one is not found, like any other that is not there.
func pathID(c *fiber.Ctx) (id.ID, error) {
	v, err := id.Parse(c.Params("id"))
	if err != nil {
		return v, fiber.ErrNotFound
	}
	return v, nil
}
