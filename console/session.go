package console

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
)

// session is what the browser keeps: the API's tokens and the secret of its forms.
type session struct{ access, refresh, csrf string }

const (
	accessCookie  = "flashsale_access"
	refreshCookie = "flashsale_refresh"
	csrfCookie    = "flashsale_csrf"
	maxCookie     = 3 << 10 // bytes; a browser keeps 4 KiB with the name
)

// secure reports whether the browser speaks https, to us or to the proxy in front. Who lies about it spoils their own
// cookies only.
func secure(r *http.Request) bool {
	return r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

// cookieName has a prefix under https that keeps other hosts of the domain from setting the cookie.
func cookieName(r *http.Request, name string) string {
	if secure(r) {
		return "__Host-" + name
	}
	return name
}

func readSession(r *http.Request) session {
	read := func(name string) string {
		c, err := r.Cookie(cookieName(r, name))
		if err != nil || len(c.Value) > maxCookie {
			return ""
		}
		return c.Value
	}
	return session{access: read(accessCookie), refresh: read(refreshCookie), csrf: read(csrfCookie)}
}

// saveSession sets the cookies that have changed, each at most once. They last as long as the browser runs.
func (v *visit) saveSession() {
	set := func(name, was, is string) {
		if was == is {
			return
		}
		c := &http.Cookie{
			Name: cookieName(v.r, name), Value: is, Path: "/", HttpOnly: true, Secure: true, SameSite: http.SameSiteStrictMode,
		}
		c.Secure = secure(v.r) // without https a browser would not keep it
		if is == "" {
			c.MaxAge = -1
		}
		http.SetCookie(v.w, c)
	}
	set(accessCookie, v.was.access, v.session.access)
	set(refreshCookie, v.was.refresh, v.session.refresh)
	set(csrfCookie, v.was.csrf, v.session.csrf)
	v.was = v.session
}

func (s *session) loggedIn() bool { return s.access != "" || s.refresh != "" }

func (s *session) ensureCSRF() {
	if s.csrf == "" {
		s.csrf = rand.Text()
	}
}

func (s *session) mayPost(token string) bool {
	return s.csrf != "" && subtle.ConstantTimeCompare([]byte(s.csrf), []byte(token)) == 1
}

// begin takes new tokens; at a login the forms get a new secret too.
func (s *session) begin(t tokens) {
	*s = session{access: t.Access, refresh: t.Refresh, csrf: rand.Text()}
}

func (s *session) end() { *s = session{csrf: rand.Text()} }

// operator reads the role that the token claims, unverified: it chooses what the menu shows. The API decides.
func (s *session) operator() bool {
	_, rest, _ := strings.Cut(s.access, ".")
	payload, _, ok := strings.Cut(rest, ".")
	if !ok {
		return false
	}
	b, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return false
	}
	var claims struct {
		Role string `json:"role"`
	}
	return json.Unmarshal(b, &claims) == nil && claims.Role == "operator"
}

// operatorOnly shows a page to operators. Its figures are public; every change is decided by the API.
func operatorOnly(h func(*visit) error) func(*visit) error {
	return func(v *visit) error {
		switch {
		case !v.session.loggedIn():
			return errLogin
		case !v.session.operator():
			return &problem{Type: "/problems/forbidden", Status: http.StatusForbidden, Title: "Operators only"}
		}
		return h(v)
	}
}

// authorized calls the API as the shopper. A token that is no longer valid is refreshed once; errLogin when that fails.
func (v *visit) authorized(q call) (answer, error) {
	if !v.session.loggedIn() {
		return answer{}, errLogin
	}
	if v.session.access == "" {
		if err := v.refreshOnce(); err != nil {
			return answer{}, err
		}
	}
	q.token = v.session.access
	a, err := v.c.do(v.r.Context(), v.r, q)
	if !unauthorized(err) {
		return a, err
	}
	if err := v.refreshOnce(); err != nil {
		return answer{}, err
	}
	q.token = v.session.access
	a, err = v.c.do(v.r.Context(), v.r, q)
	if unauthorized(err) {
		v.session.end()
		return answer{}, errLogin
	}
	return a, err
}

func unauthorized(err error) bool {
	var p *problem
	return errors.As(err, &p) && p.Status == http.StatusUnauthorized
}

// refreshOnce exchanges the refresh token. The API revokes the login of a refresh token that comes twice, so tabs that
// ask at the same time, or with a cookie that has just been replaced, share the one exchange.
func (v *visit) refreshOnce() error {
	if v.session.refresh == "" || v.fresh {
		v.session.end()
		return errLogin
	}
	v.fresh = true
	used := v.session.refresh
	t, err := v.c.refreshes.get(v.r.Context(), digest(used), func(ctx context.Context) (tokens, error) {
		return fetch[tokens](ctx, v.c, v.r, call{method: http.MethodPost, path: "/api/v1/auth/refresh", body: map[string]string{"refresh_token": used}})
	})
	switch {
	case unauthorized(err):
		v.session.end()
		return errLogin
	case err != nil:
		return err
	}
	v.session.access, v.session.refresh = t.Access, t.Refresh
	return nil
}

func digest(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:])
}
