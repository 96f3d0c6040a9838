// Package token signs and verifies access tokens: JWT, HS256, with method, issuer, audience and
// times checked.
package token

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"flashsale/account"
	"flashsale/id"
	"fmt"
	"hash"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
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
	keys   []*key
	ttl    time.Duration
	clock  func() time.Time
	parser *jwt.Parser
	rules  *jwt.Validator
	base64 *base64.Encoding // strict: bits that say nothing are refused, so a token has one form
}

// key is a secret.
type key struct {
	kid    string
	secret []byte
	head   string    // the first part of every token that Sign makes with it, and the dot
	macs   sync.Pool // of hash.Hash, keyed
}

const (
	issuer   = "flashsale"
	audience = "flashsale-api"
	// ahead is how far the clock of whoever signs may be ahead of the clock of whoever verifies: a shopper who has just
	// logged in is not turned away for it.
	ahead = 10 * time.Minute
)

// New returns Tokens over one or more secrets of at least 32 bytes.
func New(secrets []string, ttl time.Duration, clock func() time.Time) (*Tokens, error) {
	if len(secrets) == 0 || ttl <= 0 {
		return nil, errors.New("token: a secret and a time to live above zero are needed")
	}
	rules := []jwt.ParserOption{
		jwt.WithIssuer(issuer), jwt.WithAudience(audience), jwt.WithExpirationRequired(), jwt.WithTimeFunc(clock),
	}
	t := &Tokens{
		ttl: ttl, clock: clock, rules: jwt.NewValidator(rules...), base64: base64.RawURLEncoding.Strict(),
		parser: jwt.NewParser(append(rules, jwt.WithValidMethods([]string{"HS256"}), jwt.WithStrictDecoding())...),
	}
	for i, s := range secrets {
		if len(s) < 32 {
			return nil, fmt.Errorf("token: secret %d has %d bytes; use at least 32", i+1, len(s))
		}
		sum := sha256.Sum256([]byte("kid:" + s))
		k := &key{kid: hex.EncodeToString(sum[:4]), secret: []byte(s)}
		k.macs.New = func() any { return hmac.New(sha256.New, k.secret) }
		signed, err := t.sign(k, claims{})
		if err != nil {
			return nil, err
		}
		head, _, _ := strings.Cut(signed, ".")
		k.head = head + "."
		t.keys = append(t.keys, k)
	}
	return t, nil
}

type claims struct {
	Role account.Role `json:"role"`
	jwt.RegisteredClaims
}

// Sign implements account.Signer.
func (t *Tokens) Sign(user id.ID, role account.Role) (string, time.Duration, error) {
	now := t.clock()
	s, err := t.sign(t.keys[0], claims{Role: role, RegisteredClaims: jwt.RegisteredClaims{
		Issuer: issuer, Audience: jwt.ClaimStrings{audience}, Subject: user.String(),
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now.Add(-ahead)), ExpiresAt: jwt.NewNumericDate(now.Add(t.ttl)),
	}})
	return s, t.ttl, err
}

func (t *Tokens) sign(k *key, c claims) (string, error) {
	tok := jwt.NewWithClaims(jwt.SigningMethodHS256, c)
	tok.Header["kid"] = k.kid
	s, err := tok.SignedString(k.secret)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	return s, nil
}

// Verify returns what a token says. account.ErrTokenExpired, account.ErrTokenInvalid.
//
// A token that begins as Sign begins them needs no look at its header: that says HS256 and names the
// key. Every other one goes through the library, which says the same of both and takes more than
// four times as long.
func (t *Tokens) Verify(token string) (Claims, error) {
	for _, k := range t.keys {
		if rest, ours := strings.CutPrefix(token, k.head); ours {
			return t.verify(k, token, rest)
		}
	}
	return t.parse(token)
}

// verify checks a token of key k; rest is what follows the header.
func (t *Tokens) verify(k *key, token, rest string) (Claims, error) {
	payload, signature, _ := strings.Cut(rest, ".")
	var room [512]byte
	decoded, err := t.base64.AppendDecode(room[:0], []byte(signature))
	if err != nil {
		return Claims{}, account.ErrTokenInvalid
	}
	mac := k.macs.Get().(hash.Hash)
	defer k.macs.Put(mac)
	mac.Reset()
	_, _ = io.WriteString(mac, token[:len(k.head)+len(payload)]) // a hash never fails
	var sum [sha256.Size]byte
	if !hmac.Equal(decoded, mac.Sum(sum[:0])) {
		return Claims{}, account.ErrTokenInvalid
	}
	var w written
	body, err := t.base64.AppendDecode(room[:0], []byte(payload))
	if err != nil || json.Unmarshal(body, &w, json.RejectUnknownMembers(true)) != nil || w.ExpiresAt == 0 || w.NotBefore == 0 || w.IssuedAt == 0 {
		return t.parse(token) // signed with our key, but not by Sign
	}
	raw := claims{Role: w.Role, RegisteredClaims: jwt.RegisteredClaims{
		Issuer: w.Issuer, Subject: w.Subject, Audience: w.Audience,
		ExpiresAt: jwt.NewNumericDate(time.Unix(w.ExpiresAt, 0)), NotBefore: jwt.NewNumericDate(time.Unix(w.NotBefore, 0)), IssuedAt: jwt.NewNumericDate(time.Unix(w.IssuedAt, 0)),
	}}
	return said(raw, t.rules.Validate(raw))
}

// written are the claims as Sign writes them, which is simpler than what a token may have.
type written struct {
	Role      account.Role `json:"role"`
	Issuer    string       `json:"iss"`
	Subject   string       `json:"sub"`
	Audience  []string     `json:"aud"`
	ExpiresAt int64        `json:"exp"` // s since 1970
	NotBefore int64        `json:"nbf"`
	IssuedAt  int64        `json:"iat"`
}

// parse is Verify by the library.
func (t *Tokens) parse(token string) (Claims, error) {
	var raw claims
	_, err := t.parser.ParseWithClaims(token, &raw, func(tok *jwt.Token) (any, error) {
		kid, _ := tok.Header["kid"].(string)
		for _, k := range t.keys {
			if k.kid == kid {
				return k.secret, nil
			}
		}
		return nil, account.ErrTokenInvalid
	})
	return said(raw, err)
}

// said returns what verified claims say; err is what is wrong with them.
func said(raw claims, err error) (Claims, error) {
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
	return Claims{User: user, Role: raw.Role, ExpiresAt: raw.ExpiresAt.Time}, nil
}
