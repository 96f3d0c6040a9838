package transporttest

import (
	"bytes"
	"flashsale/transport"
	"slices"
)

// Same reports whether two envelopes are the same to whoever receives them: one that has not left
// the process carries its payload as it was before it was encoded, too.
func Same(a, b transport.Envelope) bool {
	left, lerr := transport.Marshal(a)
	right, rerr := transport.Marshal(b)
	return lerr == nil && rerr == nil && bytes.Equal(left, right) && a.Time.Location() == b.Time.Location()
}

// SameAll is Same for envelopes in order.
func SameAll(a, b []transport.Envelope) bool { return slices.EqualFunc(a, b, Same) }
