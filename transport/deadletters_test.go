package transport_test

import (
	"errors"
	"flashsale/id"
	"flashsale/transport"
	"testing"
	"time"
)

// FuzzCursor: a text is the place of a letter or ErrCursor, and a place is itself again.
func FuzzCursor(f *testing.F) {
	f.Add(transport.Letter{Service: transport.Inventory, ID: id.Derive("x"), Died: time.UnixMicro(1_795_000_000_000_001)}.Cursor())
	f.Add(transport.Letter{Service: transport.Order, ID: id.Derive("x")}.Cursor())
	f.Add("")
	f.Add("..")
	f.Add("-1.inventory." + id.Derive("x").String())
	f.Add("9223372036854775807.inventory." + id.Derive("x").String())
	f.Add("+5. ." + id.Derive("x").String())
	f.Fuzz(func(t *testing.T, text string) {
		l, err := transport.ParseCursor(text)
		if err != nil {
			if !errors.Is(err, transport.ErrCursor) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		again, err := transport.ParseCursor(l.Cursor())
		if err != nil || again.Compare(l) != 0 || again.Died != l.Died {
			t.Fatalf("%q is %+v, whose place %q is %+v, %v", text, l, l.Cursor(), again, err)
		}
	})
}
