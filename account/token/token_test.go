package token

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flashsale/account"
	"flashsale/id"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	secret = "a secret of at least thirty-two bytes"
	old    = "an older secret, of thirty-two bytes too"
	ttl    = 15 * time.Minute
)

var (
	start = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	ann   = id.Derive("ann")
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error %v, want %v", got, want)
	}
}

// clock is a time that a test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) set(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = at
}

func open(t testing.TB, secrets ...string) (*Tokens, *clock) {
	t.Helper()
	c := &clock{at: start}
	tokens, err := New(secrets, ttl, c.now)
	must(t, err)
	return tokens, c
}

func sign(t testing.TB, tokens *Tokens, role account.Role) string {
	t.Helper()
	s, valid, err := tokens.Sign(ann, role)
	must(t, err)
	if valid != ttl {
		t.Fatalf("valid for %s", valid)
	}
	return s
}

func TestNew(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		secrets []string
		ttl     time.Duration
		ok      bool
	}{
		"one":         {[]string{secret}, ttl, true},
		"two":         {[]string{secret, old}, ttl, true},
		"none":        {nil, ttl, false},
		"short":       {[]string{secret[:31]}, ttl, false},
		"an old one":  {[]string{secret, "short"}, ttl, false},
		"no time":     {[]string{secret}, 0, false},
		"less than 0": {[]string{secret}, -time.Second, false},
	} {
		_, err := New(c.secrets, c.ttl, time.Now)
		if (err == nil) != c.ok || err != nil && strings.Contains(err.Error(), secret[9:31]) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	for _, role := range []account.Role{account.Shopper, account.Operator} {
		tokens, at := open(t, secret)
		s := sign(t, tokens, role)
		for range 2 { // verified anew each time
			if c, err := tokens.Verify(s); err != nil || c.User != ann || c.Role != role || !c.ExpiresAt.Equal(start.Add(ttl)) {
				t.Fatalf("%+v, %v", c, err)
			}
		}
		fresh, freshAt := open(t, secret) // has not seen it
		for _, c := range []struct {
			at   time.Time
			want error
		}{{start.Add(-ahead - time.Second), account.ErrTokenInvalid}, {start.Add(-ahead), nil}, {start.Add(-5 * time.Minute), nil}, {start.Add(ttl - time.Second), nil}, {start.Add(ttl), account.ErrTokenExpired}, {start.Add(24 * time.Hour), account.ErrTokenExpired}} {
			at.set(c.at)
			_, err := tokens.Verify(s)
			wantErr(t, err, c.want)
			freshAt.set(c.at)
			_, err = fresh.Verify(s)
			wantErr(t, err, c.want)
		}
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	before, _ := open(t, old)
	during, _ := open(t, secret, old)
	after, _ := open(t, secret)
	ofOld, ofNew := sign(t, before, account.Shopper), sign(t, during, account.Shopper)
	for name, c := range map[string]struct {
		tokens *Tokens
		s      string
		want   error
	}{
		"the old one still verifies":    {during, ofOld, nil},
		"the new one signs":             {after, ofNew, nil},
		"the old one is taken out":      {after, ofOld, account.ErrTokenInvalid},
		"who has not the new one":       {before, ofNew, account.ErrTokenInvalid},
		"the other's key id is no help": {during, swapHeader(ofOld, ofNew), account.ErrTokenInvalid},
	} {
		if _, err := c.tokens.Verify(c.s); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func swapHeader(to, from string) string {
	_, rest, _ := strings.Cut(to, ".")
	head, _, _ := strings.Cut(from, ".")
	return head + "." + rest
}

// forge signs what a real token says, changed, with any method and key.
func forge(t testing.TB, real string, method jwt.SigningMethod, key any, change func(head, claims map[string]any)) string {
	t.Helper()
	claims := jwt.MapClaims{}
	parsed, _, err := jwt.NewParser().ParseUnverified(real, claims)
	must(t, err)
	tok := jwt.NewWithClaims(method, claims)
	tok.Header["kid"] = parsed.Header["kid"]
	if change != nil {
		change(tok.Header, claims)
	}
	s, err := tok.SignedString(key)
	must(t, err)
	return s
}

// publicKey is a key pair whose public half, as text, is the tokens' secret: the bait of RS/HS confusion.
func publicKey(t testing.TB) (*rsa.PrivateKey, string) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	must(t, err)
	return private, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func TestForged(t *testing.T) {
	t.Parallel()
	private, public := publicKey(t)
	tokens, _ := open(t, secret, public)
	ofPublic, _ := open(t, public)
	real, key, hs256 := sign(t, tokens, account.Shopper), []byte(secret), jwt.SigningMethodHS256
	if _, err := tokens.Verify(forge(t, real, hs256, key, nil)); err != nil {
		t.Fatalf("the forger's own tool does not work: %v", err)
	}
	set := func(name string, value any) func(head, claims map[string]any) {
		return func(_, claims map[string]any) { claims[name] = value }
	}
	without := func(name string) func(head, claims map[string]any) {
		return func(_, claims map[string]any) { delete(claims, name) }
	}
	kid := func(value any) func(head, claims map[string]any) {
		return func(head, _ map[string]any) { head["kid"] = value }
	}
	unix := func(d time.Duration) int64 { return start.Add(d).Unix() }
	for name, c := range map[string]struct {
		s    string
		want error
	}{
		"alg none":                {forge(t, real, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil), account.ErrTokenInvalid},
		"alg none, operator":      {forge(t, real, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, set("role", "operator")), account.ErrTokenInvalid},
		"no key id, alg none":     {forge(t, real, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, kid(nil)), account.ErrTokenInvalid},
		"alg NONE in the header":  {forge(t, real, hs256, key, func(head, _ map[string]any) { head["alg"] = "NONE" }), account.ErrTokenInvalid},
		"HS384 of the secret":     {forge(t, real, jwt.SigningMethodHS384, key, nil), account.ErrTokenInvalid},
		"HS512 of the secret":     {forge(t, real, jwt.SigningMethodHS512, key, nil), account.ErrTokenInvalid},
		"RS256 of a private key":  {forge(t, sign(t, ofPublic, account.Shopper), jwt.SigningMethodRS256, private, nil), account.ErrTokenInvalid},
		"PS256 of a private key":  {forge(t, sign(t, ofPublic, account.Shopper), jwt.SigningMethodPS256, private, nil), account.ErrTokenInvalid},
		"HS256 that says RS256":   {forge(t, real, hs256, key, func(head, _ map[string]any) { head["alg"] = "RS256" }), account.ErrTokenInvalid},
		"another secret":          {forge(t, real, hs256, []byte(old), nil), account.ErrTokenInvalid},
		"an empty secret":         {forge(t, real, hs256, []byte{}, nil), account.ErrTokenInvalid},
		"the key id as secret":    {forge(t, real, hs256, []byte("kid:"+secret), nil), account.ErrTokenInvalid},
		"no key id":               {forge(t, real, hs256, key, func(head, _ map[string]any) { delete(head, "kid") }), account.ErrTokenInvalid},
		"an unknown key id":       {forge(t, real, hs256, key, kid("../../etc/passwd")), account.ErrTokenInvalid},
		"a key id that is a list": {forge(t, real, hs256, key, kid([]string{"x"})), account.ErrTokenInvalid},
		"another audience":        {forge(t, real, hs256, key, set("aud", []string{"flashsale-console"})), account.ErrTokenInvalid},
		"no audience":             {forge(t, real, hs256, key, without("aud")), account.ErrTokenInvalid},
		"another issuer":          {forge(t, real, hs256, key, set("iss", "flashsale-api")), account.ErrTokenInvalid},
		"no issuer":               {forge(t, real, hs256, key, without("iss")), account.ErrTokenInvalid},
		"expired":                 {forge(t, real, hs256, key, set("exp", unix(-time.Second))), account.ErrTokenExpired},
		"expires this second":     {forge(t, real, hs256, key, set("exp", unix(0))), account.ErrTokenExpired},
		"expired, wrong key":      {forge(t, real, hs256, []byte(old), set("exp", unix(-time.Second))), account.ErrTokenInvalid},
		"never expires":           {forge(t, real, hs256, key, without("exp")), account.ErrTokenInvalid},
		"an end that is text":     {forge(t, real, hs256, key, set("exp", "tomorrow")), account.ErrTokenInvalid},
		"not yet valid":           {forge(t, real, hs256, key, set("nbf", unix(time.Second))), account.ErrTokenInvalid},
		"nobody":                  {forge(t, real, hs256, key, without("sub")), account.ErrTokenInvalid},
		"not an id":               {forge(t, real, hs256, key, set("sub", "ann")), account.ErrTokenInvalid},
		"no role":                 {forge(t, real, hs256, key, without("role")), account.ErrTokenInvalid},
		"a role of its own":       {forge(t, real, hs256, key, set("role", "root")), account.ErrTokenInvalid},
		"roles":                   {forge(t, real, hs256, key, set("role", []string{"operator"})), account.ErrTokenInvalid},
	} {
		for range 2 { // a refusal is not remembered as anything else
			if got, err := tokens.Verify(c.s); !errors.Is(err, c.want) || got != (Claims{}) {
				t.Errorf("%s: %+v, %v; want %v", name, got, err, c.want)
			}
			if _, err := tokens.parse(c.s); !errors.Is(err, c.want) {
				t.Errorf("%s: the library says %v; want %v", name, err, c.want)
			}
		}
	}
	if _, err := tokens.Verify(real); err != nil {
		t.Errorf("the real one afterwards: %v", err)
	}
}

// TestTampered changes every character of a token: not one of them may be changed.
func TestTampered(t *testing.T) {
	t.Parallel()
	tokens, _ := open(t, secret)
	s := sign(t, tokens, account.Shopper)
	for i := range s {
		for _, c := range []byte{'A', 'B', '.', s[i] ^ 1} {
			if c == s[i] {
				continue
			}
			if got, err := tokens.Verify(s[:i] + string(c) + s[i+1:]); !errors.Is(err, account.ErrTokenInvalid) {
				t.Fatalf("character %d is now %q: %+v, %v", i, c, got, err)
			}
		}
	}
	parts := strings.Split(s, ".")
	for name, bad := range map[string]string{
		"empty": "", "dots": "..", "one part": parts[0], "unsigned": parts[0] + "." + parts[1] + ".", "no signature": parts[0] + "." + parts[1],
		"a part more": s + ".x", "bearer": "Bearer " + s, "a space": s + " ", "padded": s + "=", "cut": s[:len(s)-1], "twice": s + s,
		"not base64": "!.!.!", "not JSON": "AAAA.AAAA.AAAA", "JSON null": "bnVsbA.bnVsbA.bnVsbA", "zeros": strings.Repeat("\x00", 200),
		"signature of something else": parts[1] + "." + parts[0] + "." + parts[2], "dots for ever": strings.Repeat(".", 100_000),
	} {
		if got, err := tokens.Verify(bad); !errors.Is(err, account.ErrTokenInvalid) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// TestManyAtOnce: each token says its own.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	tokens, _ := open(t, secret)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for n := range 50 {
				user := id.Derive(fmt.Sprint(w, n))
				s, _, err := tokens.Sign(user, account.Shopper)
				if err != nil {
					t.Error(err)
				}
				if c, err := tokens.Verify(s); err != nil || c.User != user {
					t.Errorf("%+v, %v", c, err)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkVerify(b *testing.B) {
	tokens, _ := open(b, secret)
	s := sign(b, tokens, account.Shopper)
	for name, verify := range map[string]func(string) (Claims, error){"own": tokens.Verify, "library": tokens.parse} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := verify(s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// FuzzVerify: nothing panics, and nothing is accepted but what was signed.
func FuzzVerify(f *testing.F) {
	tokens, _ := open(f, secret, old)
	real := sign(f, tokens, account.Shopper)
	f.Add(real)
	f.Add(real[:len(real)-1])
	f.Add(forge(f, real, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil))
	f.Add(forge(f, real, jwt.SigningMethodHS512, []byte(secret), nil))
	f.Add(forge(f, real, jwt.SigningMethodHS256, []byte(old), nil))
	f.Add("..")
	signed := real[:strings.LastIndexByte(real, '.')]
	f.Fuzz(func(t *testing.T, s string) {
		c, err := tokens.Verify(s)
		if same, sameErr := tokens.parse(s); same != c || !errors.Is(sameErr, err) {
			t.Fatalf("%q: %+v, %v; the library says %+v, %v", s, c, err, same, sameErr)
		}
		switch {
		case err != nil && !errors.Is(err, account.ErrTokenInvalid) && !errors.Is(err, account.ErrTokenExpired):
			t.Fatalf("%q: %v", s, err)
		case err != nil && c != Claims{}:
			t.Fatalf("%q: %+v, %v", s, c, err)
		case err == nil && (!strings.HasPrefix(s, signed+".") || c.User != ann || c.Role != account.Shopper):
			t.Fatalf("%q is accepted: %+v", s, c)
		}
	})
}
