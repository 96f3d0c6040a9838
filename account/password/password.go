// Package password hashes passwords with argon2id, a bounded number at a time: a login storm waits
// or is turned away, and the sale goes on.
package password

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"flashsale/account"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"
)

// Hasher implements account.Hasher.
type Hasher struct {
	memory  uint32 // KiB
	slots   chan struct{}
	waiting chan struct{}
	dummy   string // verified when there is no account, so that it costs the same
}

const (
	passes  = 2 // t
	lanes   = 1 // p
	keySize = 32
	queue   = 512 // requests that may wait for a slot; beyond them ErrBusy
	patient = 5 * time.Second
)

// New returns a Hasher: memory in KiB for one hash (19456 or more for anything but a trial), at
// most slots at the same time.
func New(memory, slots int) (*Hasher, error) {
	if memory < 8 || memory > 1<<20 || slots < 1 {
		return nil, errors.New("password: memory is 8 to 1048576 KiB and slots at least 1")
	}
	h := &Hasher{memory: uint32(memory), slots: make(chan struct{}, slots), waiting: make(chan struct{}, slots+queue)}
	h.dummy = h.encode([]byte("0123456789abcdef"), make([]byte, keySize))
	return h, nil
}

// enter waits for a slot, not for ever.
func (h *Hasher) enter(ctx context.Context) (leave func(), err error) {
	if ctx.Err() != nil { // a free slot would be taken half of the time
		return nil, account.ErrBusy
	}
	select {
	case h.waiting <- struct{}{}:
	default:
		return nil, account.ErrBusy
	}
	defer func() { <-h.waiting }()
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	select {
	case h.slots <- struct{}{}:
		return func() { <-h.slots }, nil
	case <-ctx.Done():
		return nil, account.ErrBusy
	}
}

func (h *Hasher) encode(salt, key []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, passes, lanes, b64.EncodeToString(salt), b64.EncodeToString(key))
}

// Hash implements account.Hasher.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	leave, err := h.enter(ctx)
	if err != nil {
		return "", err
	}
	defer leave()
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails (Go 1.24)
	return h.encode(salt, argon2.IDKey([]byte(password), salt, passes, h.memory, lanes, keySize)), nil
}

// Verify implements account.Hasher. The parameters are the hash's own: they may have been others
// when it was made.
func (h *Hasher) Verify(ctx context.Context, password, hash string) error {
	known := hash != ""
	if !known {
		hash = h.dummy
	}
	memory, t, p, salt, key, err := decode(hash)
	if err != nil {
		return err
	}
	leave, err := h.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	got := argon2.IDKey([]byte(password), salt, t, memory, p, uint32(len(key)))
	if subtle.ConstantTimeCompare(got, key) != 1 || !known {
		return account.ErrBadCredentials
	}
	return nil
}

func decode(hash string) (memory, t uint32, p uint8, salt, key []byte, err error) {
	bad := errors.New("password: the stored hash is damaged")
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return 0, 0, 0, nil, nil, bad
	}
	const params = "m=%d,t=%d,p=%d"
	if _, err := fmt.Sscanf(parts[3], params, &memory, &t, &p); err != nil || memory > 1<<20 || t < 1 || t > 16 || p < 1 {
		return 0, 0, 0, nil, nil, bad
	}
	if parts[3] != fmt.Sprintf(params, memory, t, p) { // Sscanf does not mind what follows
		return 0, 0, 0, nil, nil, bad
	}
	salt, err = base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil || len(salt) < 8 {
		return 0, 0, 0, nil, nil, bad
	}
	key, err = base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil || len(key) < 16 || len(key) > 64 {
		return 0, 0, 0, nil, nil, bad
	}
	return memory, t, p, salt, key, nil
}
