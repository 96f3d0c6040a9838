// Package token signs and verifies access tokens: JWT, HS256, with method, issuer, audience and
// times checked.
package token

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flashsale/account"
	"flashsale/id"
	"fmt"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Claims are what a verified token says.
type Claims struct {
	User      id.ID
	Role      account.Role
	ExpiresAt time.Time
}

// Tokens signs with the first secret and verifies with all of them, so that secrets can be changed
// while tokens live.
type Tokens struct {
	secrets map[string][]byte // by key id
	first   string
	ttl     time.Duration
	clock   func() time.Time
	parser  *jwt.Parser

	mu       sync.RWMutex
	verified map[[32]byte]Claims // a hash of the token, never the token
}

const (
	issuer   = "flashsale"
	audience = "flashsale-api"
	maxKnown = 50_000
)

// New returns Tokens over one or more secrets of at least 32 bytes.
func New(secrets []string, ttl time.Duration, clock func() time.Time) (*Tokens, error) {
	if len(secrets) == 0 || ttl <= 0 {
		return nil, errors.New("token: a secret and a time to live above zero are needed")
	}
	t := &Tokens{secrets: map[string][]byte{}, ttl: ttl, clock: clock, verified: map[[32]byte]Claims{}}
	for i, s := range secrets {
		if len(s) < 32 {
			return nil, fmt.Errorf("token: secret %d has %d bytes; use at least 32", i+1, len(s))
		}
		sum := sha256.Sum256([]byte("kid:" + s))
		kid := hex.EncodeToString(sum[:4])
		t.secrets[kid] = []byte(s)
		if i == 0 {
			t.first = kid
		}
	}
	t.parser = jwt.NewParser(jwt.WithValidMethods([]string{"HS256"}), jwt.WithIssuer(issuer), jwt.WithAudience(audience),
		jwt.WithExpirationRequired(), jwt.WithTimeFunc(clock), jwt.WithStrictDecoding())
	return t, nil
}

type claims struct {
	Role account.Role `json:"role"`
	jwt.RegisteredClaims
}

// Sign implements account.Signer.
func (t *Tokens) Sign(user id.ID, role account.Role) (string, time.Duration, error) {
	now := t.clock()
	tok := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{Role: role, RegisteredClaims: jwt.RegisteredClaims{
		Issuer: issuer, Audience: jwt.ClaimStrings{audience}, Subject: user.String(),
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(t.ttl)),
	}})
	tok.Header["kid"] = t.first
	s, err := tok.SignedString(t.secrets[t.first])
	if err != nil {
		return "", 0, fmt.Errorf("token: %w", err)
	}
	return s, t.ttl, nil
}

// Verify returns what a token says. account.ErrTokenExpired, account.ErrTokenInvalid. A token that
// was verified is remembered by its hash until it expires.
func (t *Tokens) Verify(token string) (Claims, error) {
	sum := sha256.Sum256([]byte(token))
	t.mu.RLock()
	c, ok := t.verified[sum]
	t.mu.RUnlock()
	if ok {
		if !t.clock().Before(c.ExpiresAt) {
			return Claims{}, account.ErrTokenExpired
		}
		return c, nil
	}
	var raw claims
	_, err := t.parser.ParseWithClaims(token, &raw, func(tok *jwt.Token) (any, error) {
		kid, _ := tok.Header["kid"].(string)
		secret, ok := t.secrets[kid]
		if !ok {
			return nil, account.ErrTokenInvalid
		}
		return secret, nil
	})
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return Claims{}, account.ErrTokenExpired
	case err != nil:
		return Claims{}, account.ErrTokenInvalid
	}
	user, err := id.Parse(raw.Subject)
	if err != nil || raw.Role != account.Shopper && raw.Role != account.Operator {
		return Claims{}, account.ErrTokenInvalid
	}
	c = Claims{User: user, Role: raw.Role, ExpiresAt: raw.ExpiresAt.Time}
	t.mu.Lock()
	if len(t.verified) >= maxKnown {
		clear(t.verified)
	}
	t.verified[sum] = c
	t.mu.Unlock()
	return c, nil
}
