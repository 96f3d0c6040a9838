// Package account defines who shoppers and operators are, and how they prove it.
package account

import (
	"context"
	"errors"
	"flashsale/id"
	"time"
)

// Role says what an account may do.
type Role string

// The roles.
const (
	Shopper  Role = "shopper"
	Operator Role = "operator"
)

// User is an account.
type User struct {
	ID           id.ID
	Email        string // lower case, unique
	PasswordHash string // argon2id, PHC format
	Role         Role
	CreatedAt    time.Time // UTC
}

// Refresh is a refresh token as it is stored: its hash, never itself. Each is used once; those
// that follow one another from one login are a family.
type Refresh struct {
	Hash      [32]byte
	Family    id.ID
	User      id.ID
	ExpiresAt time.Time // UTC
}

// Store keeps accounts. Every call is one transaction.
type Store interface {
	// Create stores an account. ErrEmailTaken.
	Create(ctx context.Context, u User) error
	// ByEmail returns the account of an address in lower case, or ErrNotFound.
	ByEmail(ctx context.Context, email string) (User, error)
	// ByID returns an account, or ErrNotFound.
	ByID(ctx context.Context, user id.ID) (User, error)
	// Emails returns the addresses of accounts; one that is not there is left out.
	Emails(ctx context.Context, users []id.ID) (map[id.ID]string, error)
	// Grant stores the first refresh token of a family.
	Grant(ctx context.Context, r Refresh) error
	// Rotate uses up the token of a hash and stores the next one of its family, whose user and
	// family it fills in. ErrTokenInvalid when there is no such token or its time is over by now;
	// ErrRefreshReused when it was used before: the whole family is revoked then.
	Rotate(ctx context.Context, used [32]byte, next Refresh, now time.Time) (Refresh, error)
}

// Errors of the stores and the service.
var (
	ErrNotFound       = errors.New("account: no such account")
	ErrEmailTaken     = errors.New("account: there is an account with this e-mail address already; log in instead")
	ErrInvalidEmail   = errors.New("account: that is not an e-mail address such as name@example.com")
	ErrWeakPassword   = errors.New("account: a password has 10 to 128 characters")
	ErrBadCredentials = errors.New("account: e-mail address or password are wrong")
	ErrTokenInvalid   = errors.New("account: the token is not valid; log in again")
	ErrTokenExpired   = errors.New("account: the token has expired; refresh it or log in again")
	ErrRefreshReused  = errors.New("account: the refresh token was used before; every token of that login is revoked, log in again")
	ErrBusy           = errors.New("account: too many are logging in at the moment; try again shortly")
)
