// Package console is the storefront and the operators' console: pages rendered on the server, a client of the public
// API like any other. The session is in the browser's cookies, so any number of instances can serve the same shopper. What
// an instance remembers lasts for moments (memo): two refreshes of one token, or two clicks on "create sale", are one
// only where they meet in the same instance.
package console

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Config is what the console needs.
type Config struct {
	API     string           // base URL of the public API, such as http://127.0.0.1:8080
	Client  *http.Client     // for the API; nil for one of the console's own. Redirects are never followed.
	Timeout time.Duration    // of one page with all its calls of the API; 0 for 15 seconds, more than the API gives itself
	Clock   func() time.Time // nil for time.Now
	Log     *slog.Logger     // nil for none
}

// Console is the http.Handler. It is safe for concurrent use.
type Console struct {
	cfg    Config
	base   string
	client *http.Client
	mux    *http.ServeMux
	pages  map[string]*template.Template
	assets map[string]asset
	origin *http.CrossOriginProtection

	sales     *memo[sale]        // by id: a thousand shoppers who watch a sale are two requests a second
	products  *memo[product]     // by id
	refreshes *memo[tokens]      // by hash of the refresh token
	created   *memo[createdSale] // by hash of the form's secret and key
}

//go:embed templates static
var files embed.FS

const (
	maxForm      = 64 << 10 // bytes of a posted form
	stockAge     = 500 * time.Millisecond
	productAge   = time.Minute
	refreshAge   = time.Minute // tabs that were open keep sending the old cookie for as long
	createdAge   = 10 * time.Minute
	maxRemember  = 10_000
	pageTimeout  = 15 * time.Second
	contentRules = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
		"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

// New returns the console. It fails when the API's address is none, or an embedded template is broken.
func New(cfg Config) (*Console, error) {
	base, err := url.Parse(cfg.API)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("console: %q is no address of an API; use one such as http://127.0.0.1:8080", cfg.API)
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = pageTimeout
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	client := http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute}}
	if cfg.Client != nil {
		client = *cfg.Client
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c := &Console{
		cfg: cfg, base: strings.TrimSuffix(base.String(), "/"), client: &client, mux: http.NewServeMux(), origin: http.NewCrossOriginProtection(),
		sales:     newMemo[sale](stockAge, maxRemember, cfg.Timeout, cfg.Clock),
		products:  newMemo[product](productAge, maxRemember, cfg.Timeout, cfg.Clock),
		refreshes: newMemo[tokens](refreshAge, maxRemember, cfg.Timeout, cfg.Clock),
		created:   newMemo[createdSale](createdAge, maxRemember, cfg.Timeout, cfg.Clock),
	}
	if c.assets, err = loadAssets(files); err != nil {
		return nil, err
	}
	if c.pages, err = parsePages(files); err != nil {
		return nil, err
	}
	c.routes()
	return c, nil
}

// Paths are where the pages are, a star for everything below: what a server in front hands on.
func Paths() []string {
	return []string{
		"/", "/sales/*", "/products", "/products/*", "/register", "/login", "/logout", "/reservations/*", "/payments/*",
		"/orders", "/orders/*", "/operator", "/operator/*", "/static/*",
	}
}

func (c *Console) routes() {
	for pattern, h := range map[string]func(*visit) error{
		"GET /{$}":           c.showSales,
		"GET /sales/{id}":    c.showSale,
		"GET /products":      c.showProducts,
		"GET /products/{id}": c.showProduct,

		"GET /register":  c.showRegister,
		"POST /register": c.register,
		"GET /login":     c.showLogin,
		"POST /login":    c.login,
		"POST /logout":   c.logout,

		"POST /sales/{id}/reserve":       c.reserve,
		"GET /reservations/{id}":         c.showReservation,
		"POST /reservations/{id}/pay":    c.pay,
		"POST /reservations/{id}/cancel": c.cancel,
		"GET /payments/{id}":             c.showPayment,
		"GET /orders":                    c.showOrders,
		"GET /orders/{id}":               c.showOrder,

		"GET /operator":                         operatorOnly(c.showOperator),
		"GET /operator/sales/new":               operatorOnly(c.showNewSale),
		"POST /operator/sales":                  c.createSale,
		"GET /operator/sales/{id}":              operatorOnly(c.showOperatorSale),
		"POST /operator/sales/{id}/{verb}":      c.setStatus,
		"POST /operator/sales/{id}/items/{sku}": c.addStock,
		"GET /operator/products/new":            operatorOnly(c.showNewProduct),
		"POST /operator/products":               c.createProduct,
		"GET /operator/refund":                  operatorOnly(c.showRefund),
		"POST /operator/refund":                 c.refund,
		"GET /operator/audit":                   c.showAudit,

		// What a form's address shows when it is opened as a page, from a history or by Enter.
		"GET /sales/{id}/reserve":       back("/sales/"),
		"GET /reservations/{id}/pay":    back("/reservations/"),
		"GET /reservations/{id}/cancel": back("/reservations/"),
		"GET /operator/sales":           func(v *visit) error { return v.goTo("/operator/sales/new") },
		"GET /operator/products":        func(v *visit) error { return v.goTo("/operator/products/new") },

		"/": func(*visit) error { return errNoPage },
	} {
		c.mux.HandleFunc(pattern, c.page(h))
	}
	for pattern, h := range map[string]func(*visit) (any, error){
		"GET /sales/{id}/stock":        c.liveStock,
		"GET /reservations/{id}/state": c.liveState("reservations"),
		"GET /orders/{id}/state":       c.liveState("orders"),
		"GET /payments/{id}/state":     c.liveState("payments"),
	} {
		c.mux.HandleFunc(pattern, c.live(h))
	}
	c.mux.HandleFunc("GET /static/{name}", c.static)
}

// back leads to the page of the address's id.
func back(to string) func(*visit) error {
	return func(v *visit) error {
		id, err := v.pathID()
		if err != nil {
			return err
		}
		return v.goTo(to + id)
	}
}

// ServeHTTP implements http.Handler.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", contentRules)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin") // no-referrer would make the Origin of our own forms "null"
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store") // a form that comes back from a cache would have a used key
	own, err := ownMemory(r)
	if err != nil {
		http.Error(w, "This address cannot be read.", http.StatusBadRequest)
		return
	}
	// The context of an adaptor's request may be used for another request once this one is answered.
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.Timeout)
	defer cancel()
	defer context.AfterFunc(r.Context(), cancel)()
	c.mux.ServeHTTP(w, own.WithContext(ctx))
}

// ownMemory copies what the console reads of a request. Behind an adaptor (Fiber's) the strings of a request share a
// buffer that is used again once the handler has returned; a connection of the API's client may still read them then.
func ownMemory(r *http.Request) (*http.Request, error) {
	u, err := url.ParseRequestURI(strings.Clone(r.URL.RequestURI()))
	if err != nil {
		return nil, err
	}
	own := &http.Request{
		Method: strings.Clone(r.Method), URL: u, Host: strings.Clone(r.Host), Header: http.Header{}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: r.Body, ContentLength: r.ContentLength, TLS: r.TLS,
	}
	for name, values := range r.Header {
		for _, v := range values {
			own.Header.Add(strings.Clone(name), strings.Clone(v))
		}
	}
	return own, nil
}

// Errors of the console itself.
var (
	errNoPage = errors.New("console: no such page")
	errForged = errors.New("console: the form is not one of this session")
	errForm   = errors.New("console: the form cannot be read")
	errLogin  = errors.New("console: not logged in")
	errDown   = errors.New("console: the API does not answer")
)

// visit is one request and its session.
type visit struct {
	c       *Console
	w       http.ResponseWriter
	r       *http.Request
	session session
	was     session
	fresh   bool // the tokens were refreshed during this visit
}

func (c *Console) visit(w http.ResponseWriter, r *http.Request) *visit {
	s := readSession(r)
	return &visit{c: c, w: w, r: r, session: s, was: s}
}

// page runs a handler. What it returns as an error becomes a page too.
func (c *Console) page(h func(*visit) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := c.visit(w, r)
		err := v.checkForm()
		if err == nil {
			err = h(v)
		}
		if err != nil {
			v.fail(err)
		}
	}
}

// checkForm reads a posted form and refuses one that was not rendered for this session.
func (v *visit) checkForm() error {
	if v.r.Method != http.MethodPost {
		return nil
	}
	if v.c.origin.Check(v.r) != nil {
		return errForged
	}
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxForm)
	if err := v.r.ParseForm(); err != nil {
		return fmt.Errorf("%w: %w", errForm, err)
	}
	if !v.session.mayPost(v.r.PostForm.Get("csrf")) {
		return errForged
	}
	return nil
}

// live runs a handler that answers with JSON, for the script.
func (c *Console) live(h func(*visit) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := c.visit(w, r)
		out, err := h(v)
		status := http.StatusOK
		if err != nil {
			n := v.explain(err)
			status, out = n.Status, map[string]string{"error": n.Title}
		}
		b, err := json.Marshal(out)
		if err != nil {
			v.c.cfg.Log.Error("console: live answer", "path", r.URL.Path, "error", err)
			status = http.StatusInternalServerError
		}
		v.saveSession()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write(b)
	}
}

// view is what a template sees.
type view struct {
	Title    string
	Section  string // of the menu
	CSRF     string
	LoggedIn bool
	Operator bool // for the menu; whether somebody is one is decided by the API
	Style    string
	Script   string
	Icon     string
	Now      time.Time
	Notice   *notice
	Poll     *poll
	D        any
}

// poll says where the script asks for news, what it knows, and where to go when that changes.
type poll struct {
	URL, Self, State string
	Undecided        bool // without the script the page reloads itself
}

// render writes a page. Nothing is written before all of it could be rendered.
func (v *visit) render(status int, name string, p view) error {
	v.session.ensureCSRF()
	p.CSRF, p.LoggedIn, p.Operator, p.Now = v.session.csrf, v.session.loggedIn(), v.session.operator(), v.c.cfg.Clock().UTC()
	p.Style, p.Script, p.Icon = v.c.assets["console.css"].url, v.c.assets["console.js"].url, v.c.assets["icon.svg"].url
	if p.Notice == nil {
		p.Notice = said(v.r.URL.Query().Get("said"))
	}
	var b bytes.Buffer
	if err := v.c.pages[name].ExecuteTemplate(&b, "layout", p); err != nil {
		return fmt.Errorf("console: page %s: %w", name, err)
	}
	v.saveSession()
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(status)
	_, _ = b.WriteTo(v.w)
	return nil
}

// goTo answers a form with another page, so that reloading it sends nothing again.
func (v *visit) goTo(path string) error {
	v.saveSession()
	v.w.Header().Set("Location", path)
	v.w.WriteHeader(http.StatusSeeOther)
	return nil
}

// problemView is an error's page. A form that may have been handled can be sent again as it was, with its key.
type problemView struct {
	notice
	Retry  string // address of the form, or empty
	Fields []link
}

// fail shows an error as a page.
func (v *visit) fail(err error) {
	if errors.Is(err, errLogin) {
		_ = v.goTo("/login?next=" + url.QueryEscape(v.returnTo()))
		return
	}
	n := v.explain(err)
	if n.Status >= http.StatusInternalServerError {
		v.c.cfg.Log.Warn("console: page failed", "method", v.r.Method, "path", v.r.URL.Path, "status", n.Status, "error", err)
	}
	if n.Status == http.StatusServiceUnavailable {
		v.w.Header().Set("Retry-After", "2")
	}
	out := problemView{notice: n}
	if v.r.Method == http.MethodPost && !errors.Is(err, errForged) {
		if to := localPath(v.r.PostForm.Get("back")); to != "/" {
			out.Actions = append([]link{{to, "Go back"}}, out.Actions...)
		}
		if n.Again.Any() && !v.r.PostForm.Has("password") {
			out.Retry = v.r.URL.Path
			for name, values := range v.r.PostForm {
				for _, value := range values {
					if name != "csrf" {
						out.Fields = append(out.Fields, link{name, value})
					}
				}
			}
		}
	}
	if err := v.render(n.Status, "problem", view{Title: n.Title, D: out}); err != nil {
		v.c.cfg.Log.Error("console: page of an error", "error", err)
		http.Error(v.w, "Something went wrong here.", http.StatusInternalServerError)
	}
}

// returnTo is where somebody goes on after the login: the page they asked for, or the one whose form they sent.
func (v *visit) returnTo() string {
	if v.r.Method == http.MethodGet {
		return v.r.URL.RequestURI()
	}
	return localPath(v.r.PostForm.Get("back"))
}

// localPath returns a path of this site, or / for anything that could lead elsewhere.
func localPath(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") || strings.ContainsAny(s, "\\\r\n\t") {
		return "/"
	}
	return s
}
