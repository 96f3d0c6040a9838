package transport

import (
	"bytes"
	"flashsale/id"
	"strings"
	"testing"
	"time"
)

func written(t testing.TB, version int, trace string) []byte {
	t.Helper()
	e := New("reservation.held", Inventory, id.Derive("r"), time.Date(2026, 11, 21, 10, 0, 0, 123456000, time.UTC), trace, map[string]any{"sku": "A <ü>", "quantity": 2, "legs": []int{1, 2}})
	e.Version = version
	b, err := Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestQuickly: what Marshal writes is read without the general parser, and what is another form is left
// to it.
func TestQuickly(t *testing.T) {
	t.Parallel()
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	b := written(t, 1, trace)
	for _, own := range [][]byte{b, written(t, 27, trace), written(t, 1, "")} {
		if _, ok := quickly(own); !ok {
			t.Errorf("%s is not read quickly", own)
		}
	}
	for _, change := range [][2]string{
		{`{"spec`, `{ "spec`},
		{"1.0", "1.1"},
		{"reservation.held", `reservation.\u0068eld`},
		{"reservation.held", ""},
		{`,"data":{`, `,"more":1,"data":{`},
		{`"data":{`, `"data":{"a":1},"data":{`},
		{`"data":{`, `"data":null,"x":{`},
		{`.123456Z`, `.123456+01:00`},
		{`:1,`, `:0,`},
		{`:1,`, `:01,`},
		{`:1,`, `:-1,`},
		{`"quantity":2`, `"quantity":`},
		{"application/json", "text/json"},
		{`}}`, `}}}`},
		{`}}`, `}`},
		{`}}`, `}} `},
		{trace, "é"},
	} {
		in := strings.Replace(string(b), change[0], change[1], 1)
		if in == string(b) {
			t.Fatalf("%s is not in %s", change[0], b)
		}
		if e, ok := quickly([]byte(in)); ok {
			t.Errorf("%s is read as %+v", in, e)
		}
	}
}

// FuzzQuickly: what is read quickly is what the general parser reads.
func FuzzQuickly(f *testing.F) {
	for _, b := range [][]byte{written(f, 1, ""), written(f, 3, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")} {
		f.Add(b)
		f.Add(bytes.Replace(b, []byte(`"data":{`), []byte(`"data":{ "a" : {"b":"}"} ,`), 1))
		f.Add(bytes.Replace(b, []byte(`"data":{`), []byte(`"data":{"sku":1,"a":"\ud800",`), 1))
		f.Add(bytes.Replace(b, []byte("2026-"), []byte("0000-"), 1))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		e, ok := quickly(in)
		if !ok {
			return
		}
		want, err := generally(in)
		if err != nil {
			t.Fatalf("%q is read as %+v, and refused: %v", in, e, err)
		}
		if e.ID != want.ID || e.Type != want.Type || e.Version != want.Version || e.Source != want.Source || e.Subject != want.Subject || e.Time != want.Time ||
			e.TraceParent != want.TraceParent || !bytes.Equal(e.Data, want.Data) {
			t.Fatalf("%q\nquickly %+v\nelse    %+v", in, e, want)
		}
	})
}
