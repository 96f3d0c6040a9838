package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"flashsale/id"
	"fmt"
	"net/mail"
	"strings"
	"time"
	"unicode/utf8"
)

// Hasher makes and checks password hashes. Both are slow on purpose, and return ErrBusy rather than
// let a login storm take the machine.
type Hasher interface {
	Hash(ctx context.Context, password string) (string, error)
	// Verify returns ErrBadCredentials when the password is not the hash's. An empty hash costs as
	// much as any other and never matches.
	Verify(ctx context.Context, password, hash string) error
}

// Signer makes access tokens.
type Signer interface {
	Sign(user id.ID, role Role) (token string, valid time.Duration, err error)
}

// Tokens are what a login gives.
type Tokens struct {
	Access    string
	Refresh   string
	ExpiresIn time.Duration // of the access token
}

// Service is sign-up, login and refresh.
type Service struct {
	store  Store
	hasher Hasher
	signer Signer
	clock  func() time.Time
}

// NewService returns the service.
func NewService(store Store, hasher Hasher, signer Signer, clock func() time.Time) *Service {
	return &Service{store: store, hasher: hasher, signer: signer, clock: clock}
}

const refreshTTL = 30 * 24 * time.Hour

// normal returns an address as it is stored, or ErrInvalidEmail.
func normal(email string) (string, error) {
	a, err := mail.ParseAddress(email)
	if err != nil || a.Address != email || len(email) > 254 || strings.ContainsAny(email, "\r\n \t\"<>") {
		return "", ErrInvalidEmail
	}
	return strings.ToLower(email), nil
}

func strong(password string) error {
	if n := utf8.RuneCountInString(password); !utf8.ValidString(password) || n < 10 || n > 128 {
		return ErrWeakPassword
	}
	return nil
}

// Register makes a shopper's account. ErrInvalidEmail, ErrWeakPassword, ErrEmailTaken, ErrBusy.
func (s *Service) Register(ctx context.Context, email, password string) (User, error) {
	return s.create(ctx, email, password, Shopper)
}

func (s *Service) create(ctx context.Context, email, password string, role Role) (User, error) {
	email, err := normal(email)
	if err != nil {
		return User{}, err
	}
	if err := strong(password); err != nil {
		return User{}, err
	}
	hash, err := s.hasher.Hash(ctx, password)
	if err != nil {
		return User{}, err
	}
	now := s.clock().UTC().Truncate(time.Microsecond)
	u := User{ID: id.New(now), Email: email, PasswordHash: hash, Role: role, CreatedAt: now}
	return u, s.store.Create(ctx, u)
}

// EnsureOperator makes the first operator's account unless the address has one. An account that is
// there keeps its password; it must be an operator's.
func (s *Service) EnsureOperator(ctx context.Context, email, password string) error {
	_, err := s.create(ctx, email, password, Operator)
	if !errors.Is(err, ErrEmailTaken) {
		return err
	}
	u, err := s.store.ByEmail(ctx, strings.ToLower(email))
	if err == nil && u.Role != Operator {
		return fmt.Errorf("account: %s is a shopper's account; name another address for the operator", email)
	}
	return err
}

// Login gives tokens for an address and its password. ErrBadCredentials, whichever is wrong, at the
// same cost; ErrBusy.
func (s *Service) Login(ctx context.Context, email, password string) (Tokens, error) {
	var u User
	if address, err := normal(email); err == nil {
		u, err = s.store.ByEmail(ctx, address)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return Tokens{}, err
		}
	}
	if len(password) > 512 {
		return Tokens{}, ErrBadCredentials
	}
	if err := s.hasher.Verify(ctx, password, u.PasswordHash); err != nil {
		return Tokens{}, err
	}
	now := s.clock().UTC()
	text, hash := newRefresh()
	err := s.store.Grant(ctx, Refresh{Hash: hash, Family: id.New(now), User: u.ID, ExpiresAt: now.Add(refreshTTL)})
	if err != nil {
		return Tokens{}, err
	}
	return s.tokens(u, text)
}

func (s *Service) tokens(u User, refresh string) (Tokens, error) {
	access, valid, err := s.signer.Sign(u.ID, u.Role)
	return Tokens{Access: access, Refresh: refresh, ExpiresIn: valid}, err
}

func newRefresh() (text string, hash [32]byte) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (Go 1.24)
	return base64.RawURLEncoding.EncodeToString(b[:]), sha256.Sum256(b[:])
}

// Refresh gives new tokens for a refresh token, which is used up. ErrTokenInvalid, ErrRefreshReused.
func (s *Service) Refresh(ctx context.Context, refresh string) (Tokens, error) {
	b, err := base64.RawURLEncoding.DecodeString(refresh)
	if err != nil || len(b) != 32 {
		return Tokens{}, ErrTokenInvalid
	}
	now := s.clock().UTC()
	text, hash := newRefresh()
	next, err := s.store.Rotate(ctx, sha256.Sum256(b), Refresh{Hash: hash, ExpiresAt: now.Add(refreshTTL)}, now)
	if err != nil {
		return Tokens{}, err
	}
	u, err := s.store.ByID(ctx, next.User)
	if err != nil {
		return Tokens{}, err
	}
	return s.tokens(u, text)
}

// User returns an account, or ErrNotFound.
func (s *Service) User(ctx context.Context, user id.ID) (User, error) { return s.store.ByID(ctx, user) }
