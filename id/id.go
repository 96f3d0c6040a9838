// Package id holds the identifiers of the system: UUIDs as sixteen bytes, comparable and free
// of allocations. It uses the standard library only.
package id

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"time"
)

// ID is a UUID (RFC 9562). The zero ID means "none".
type ID [16]byte

// ErrInvalid is returned when a text is not a UUID in its canonical form of 36 characters.
var ErrInvalid = errors.New("id: not a UUID in canonical form")

// New returns a UUIDv7 for the time at, whose random bits come from the operating system.
func New(at time.Time) ID {
	var v ID
	_, _ = rand.Read(v[6:]) // crypto/rand.Read never fails (Go 1.24): it stops the program instead
	ms := uint64(at.UnixMilli())
	v[0], v[1] = byte(ms>>40), byte(ms>>32)
	binary.BigEndian.PutUint32(v[2:], uint32(ms))
	return v.stamp(7)
}

// Derive returns the same UUIDv8 for the same parts, always and everywhere. What happens once
// per subject has a derived id, so that a repetition is recognised wherever it arrives.
func Derive(parts ...string) ID {
	var room [256]byte // longer parts are moved to the heap
	h := room[:0]
	for _, p := range parts { // length prefixes: ("ab","c") and ("a","bc") must differ
		h = binary.BigEndian.AppendUint32(h, uint32(len(p)))
		h = append(h, p...)
	}
	sum := sha256.Sum256(h)
	return ID(sum[:16]).stamp(8)
}

// DeriveFor is Derive with the first six bytes derived from the owner alone: OwnedBy recognises
// the owner's ids without a look-up.
func DeriveFor(owner ID, parts ...string) ID {
	text := owner.String()
	v := Derive(append([]string{text}, parts...)...)
	o := Derive(text)
	copy(v[:6], o[:6])
	return v
}

// OwnedBy reports whether v came from DeriveFor with this owner. A stranger's id passes with a
// chance of 2^-48; it is a filter in front of a look-up, not a permission.
func (v ID) OwnedBy(owner ID) bool {
	o := Derive(owner.String())
	return [6]byte(v[:6]) == [6]byte(o[:6])
}

func (v ID) stamp(version byte) ID {
	v[6] = v[6]&0x0f | version<<4
	v[8] = v[8]&0x3f | 0x80
	return v
}

// Parse reads the canonical form. It returns ErrInvalid for anything else.
func Parse(s string) (ID, error) {
	var v ID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return v, ErrInvalid
	}
	i := 0
	for at := range v {
		if i == 8 || i == 13 || i == 18 || i == 23 { // a hyphen anywhere else is not a digit
			i++
		}
		hi, lo := nibble(s[i]), nibble(s[i+1])
		if hi > 15 || lo > 15 {
			return ID{}, ErrInvalid
		}
		v[at] = hi<<4 | lo
		i += 2
	}
	return v, nil
}

func nibble(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

// String returns the canonical form in lower case.
func (v ID) String() string {
	text := v.canonical()
	return string(text[:])
}

func (v ID) canonical() (b [36]byte) {
	hex.Encode(b[0:8], v[0:4])
	b[8] = '-'
	hex.Encode(b[9:13], v[4:6])
	b[13] = '-'
	hex.Encode(b[14:18], v[6:8])
	b[18] = '-'
	hex.Encode(b[19:23], v[8:10])
	b[23] = '-'
	hex.Encode(b[24:36], v[10:16])
	return b
}

// IsZero reports whether v is the zero ID.
func (v ID) IsZero() bool { return v == ID{} }

// MarshalText writes the canonical form; the zero ID is written as the empty text.
func (v ID) MarshalText() ([]byte, error) { return v.AppendText(nil) }

// AppendText appends what MarshalText writes.
func (v ID) AppendText(b []byte) ([]byte, error) {
	if v.IsZero() {
		return b, nil
	}
	text := v.canonical()
	return append(b, text[:]...), nil
}

// UnmarshalText reads what MarshalText wrote. It returns ErrInvalid for anything else.
func (v *ID) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*v = ID{}
		return nil
	}
	p, err := Parse(string(b))
	if err != nil {
		return err
	}
	*v = p
	return nil
}
