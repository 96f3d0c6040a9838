package transport_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"flashsale/id"
	"flashsale/transport"
	"flashsale/transport/transporttest"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata anew")

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var at = time.Date(2026, 11, 21, 10, 0, 0, 123456000, time.UTC)

func envelope() transport.Envelope {
	return transport.New("reservation.held", transport.Inventory, id.Derive("reservation"), at,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", map[string]any{"quantity": 2, "sku": "A"})
}

// same: to the last detail, that the time is in UTC included.
func same(a, b transport.Envelope) bool { return transporttest.Same(a, b) }

// TestGolden: programs of another version write and read these bytes. A file that must change means
// another version of the type's schema.
func TestGolden(t *testing.T) {
	t.Parallel()
	whole := envelope()
	bare := transport.Envelope{ID: whole.ID, Type: whole.Type, Source: whole.Source, Subject: whole.Subject}
	bare.Time = time.Date(2026, 11, 21, 11, 0, 0, 0, time.FixedZone("CET", 3600))
	text := envelope()
	text.Data = json.RawMessage(`{"text":"ü \"<b>\" \u0000 𝄞","big":9223372036854775807,"list":[1,null,{}]}`)
	for name, e := range map[string]transport.Envelope{
		"held":       envelope(),
		"bare":       bare,
		"text":       text,
		"repeatable": transport.Repeatable("stock.added", transport.Catalog, id.Derive("sale"), "addition 7", at, "", struct{}{}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join("testdata", name+".json")
			got, err := transport.Marshal(e)
			must(t, err)
			var pretty bytes.Buffer
			must(t, json.Indent(&pretty, got, "", "  "))
			pretty.WriteByte('\n')
			if *update {
				must(t, os.WriteFile(file, pretty.Bytes(), 0o644))
			}
			want, err := os.ReadFile(file)
			must(t, err)
			if !bytes.Equal(pretty.Bytes(), want) {
				t.Errorf("%s\nwant %s", pretty.Bytes(), want)
			}
			read, err := transport.Unmarshal(want)
			must(t, err)
			again, err := transport.Marshal(read)
			must(t, err)
			if !bytes.Equal(again, got) {
				t.Errorf("read and written again: %s\nwas %s", again, got)
			}
			if read.ID != e.ID || read.Type != e.Type || read.Source != e.Source || read.Subject != e.Subject || read.Time != e.Time.UTC() || read.TraceParent != e.TraceParent {
				t.Errorf("read %+v\nwant %+v", read, e)
			}
		})
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for version := 1; version <= 3; version++ {
		e := envelope()
		e.Version = version
		b, err := transport.Marshal(e)
		must(t, err)
		if got, err := transport.Unmarshal(b); err != nil || !same(got, e) || got.Version != version {
			t.Fatalf("%+v, %v\nwant %+v", got, err, e)
		}
		if kind, v := transport.ParseKind(e.Kind()); kind != e.Type || v != version {
			t.Errorf("%q is version %d of %q", e.Kind(), v, kind)
		}
	}
	for _, kind := range []string{"", "a.b", "a.b@", "a.b@1", "a.b@02", "a.b@-2", "a.b@x", "a.b@99999999999999999999"} {
		if got, v := transport.ParseKind(kind); got != kind || v != 1 {
			t.Errorf("%q is version %d of %q", kind, v, got)
		}
	}
}

// TestOnly: a handler sees the types that it is for, up to the version that it reads.
func TestOnly(t *testing.T) {
	t.Parallel()
	h := transport.Only(map[string]int{"a.b": 2}, func(context.Context, transport.Envelope) ([]transport.Envelope, error) { return nil, nil })
	for _, c := range []struct {
		kind    string
		version int
		want    transport.Reason
	}{
		{"a.b", 1, ""},
		{"a.b", 2, ""},
		{"a.b", 3, transport.ReasonUnknownVersion},
		{"a.c", 1, transport.ReasonUnknownType},
		{"a.c", 3, transport.ReasonUnknownType},
	} {
		_, err := h(t.Context(), transport.Envelope{Type: c.kind, Version: c.version})
		if (err == nil) != (c.want == "") || err != nil && (!transport.IsPermanent(err) || transport.ReasonOf(err) != c.want) {
			t.Errorf("version %d of %s: %v, want %q", c.version, c.kind, err, c.want)
		}
	}
}

func TestUnmarshalBad(t *testing.T) {
	t.Parallel()
	b, err := transport.Marshal(envelope())
	must(t, err)
	var good map[string]any
	must(t, json.Unmarshal(b, &good))
	with := func(field string, value any) string {
		c := maps.Clone(good)
		if c[field] = value; value == nil {
			delete(c, field)
		}
		b, err := json.Marshal(c)
		must(t, err)
		return string(b)
	}
	null := json.RawMessage("null")
	const zeros = "00000000-0000-0000-0000-000000000000" // reads as the id of nothing, which cannot be written
	if _, err := transport.Unmarshal([]byte(with("unknown", "extension"))); err != nil {
		t.Fatalf("an attribute that is not known: %v", err)
	}
	for name, c := range map[string]struct{ in, says string }{
		"nothing":                {"", "JSON"},
		"text":                   {"held", "invalid character"},
		"null":                   {"null", "specversion"},
		"a list":                 {"[]", "array"},
		"cut off":                {string(b[:len(b)-1]), "JSON"},
		"two":                    {string(b) + string(b), "after top-level value"},
		"too large":              {with("text", strings.Repeat("x", transport.MaxEnvelope)), "of at most 262144"},
		"no specversion":         {with("specversion", nil), `specversion ""`},
		"specversion 0.3":        {with("specversion", "0.3"), `specversion "0.3"`},
		"no schemaversion":       {with("schemaversion", nil), "schemaversion 0, want 1 or more"},
		"schemaversion -1":       {with("schemaversion", -1), "schemaversion -1, want 1 or more"},
		"schemaversion as text":  {with("schemaversion", "1"), "schemaversion"},
		"no type":                {with("type", nil), "type"},
		"a type of others":       {with("type", "com.example.held"), `"com.example.held"`},
		"the prefix only":        {with("type", "flashsale."), "type"},
		"no source":              {with("source", nil), "source"},
		"a source of others":     {with("source", "/example/inventory"), `"/example/inventory"`},
		"the bare source":        {with("source", "/flashsale/"), "source"},
		"no id":                  {with("id", nil), "id:"},
		"an id of zeros":         {with("id", zeros), "an id of zeros"},
		"a subject of zeros":     {with("subject", zeros), "an id of zeros"},
		"zeros as it is written": {strings.ReplaceAll(string(b), envelope().Subject.String(), zeros), "an id of zeros"},
		"an id that is none":     {with("id", "7"), "id:"},
		"an id of hyphens":       {with("id", strings.Repeat("-", 36)), "id:"},
		"no subject":             {with("subject", nil), "subject:"},
		"a subject of hyphens":   {with("subject", "00000000-0000-0000-0000--00000000000"), "subject:"},
		"no time":                {with("time", nil), "time:"},
		"a time without a zone":  {with("time", "2026-11-21T10:00:00"), "time:"},
		"a day that is none":     {with("time", "2026-02-30T10:00:00Z"), "time:"},
		"a time before time":     {with("time", "0000-01-01T00:00:00+01:00"), "time:"},
		"a time after time":      {with("time", "9999-12-31T23:59:59-01:00"), "time:"},
		"no data":                {with("data", nil), "data"},
		"data null":              {with("data", null), "data"},
		"data a list":            {with("data", []int{1}), "data"},
		"data text":              {with("data", "{}"), "data"},
	} {
		e, err := transport.Unmarshal([]byte(c.in))
		if err == nil || transport.ReasonOf(err) != transport.ReasonMalformed || !strings.Contains(err.Error(), c.says) || !same(e, transport.Envelope{}) {
			t.Errorf("%s: %+v, %v; want an error that says %q", name, e, err, c.says)
		}
	}
}

func TestMarshalBad(t *testing.T) {
	t.Parallel()
	for _, data := range []string{"", "{", "x", "{}{}"} {
		e := envelope()
		e.Data = json.RawMessage(data)
		if b, err := transport.Marshal(e); err == nil {
			t.Errorf("data %q: %s", data, b)
		}
	}
}

// FuzzUnmarshal: nothing panics, a refusal is for good, and what is accepted comes out of a second
// round as it was.
func FuzzUnmarshal(f *testing.F) {
	b, err := transport.Marshal(envelope())
	must(f, err)
	f.Add(string(b))
	for _, change := range [][2]string{{`"data":{`, `"data":{"a":"<\u2028\ud800>" , "n":1e999,`}, {`2026-`, `0000-`}, {`.123456Z`, `-01:00`}, {`"specversion"`, `"SpecVersion"`}, {`"A"`, "\"\xff\""}} {
		f.Add(strings.ReplaceAll(string(b), change[0], change[1]))
	}
	f.Fuzz(func(t *testing.T, in string) {
		e, err := transport.Unmarshal([]byte(in))
		if err != nil {
			if !transport.IsPermanent(err) {
				t.Fatalf("%q: %v is tried again", in, err)
			}
			return
		}
		b, err := transport.Marshal(e)
		must(t, err)
		if len(b) > transport.MaxEnvelope { // HTML's characters have grown
			return
		}
		again, err := transport.Unmarshal(b)
		must(t, err)
		if e.Data, err = json.Marshal(e.Data); err != nil { // without blanks, as it is written
			t.Fatal(err)
		}
		if !same(again, e) {
			t.Fatalf("%+v\nwas  %+v\nfrom %q", again, e, in)
		}
	})
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	subject := id.Derive("subject")
	kind := func(kind string, subject id.ID, discriminator string, n int) id.ID {
		return transport.Repeatable(kind, transport.Order, subject, discriminator, at.Add(time.Duration(n)), "", n).ID
	}
	first := kind("a.b", subject, "", 1)
	if again := transport.New("a.b", transport.Payment, subject, at, "trace", "other data").ID; again != first {
		t.Errorf("an event that happens once is %s and %s", first, again)
	}
	seen := map[id.ID]bool{first: true}
	for _, other := range []id.ID{kind("a.c", subject, "", 1), kind("a.b", id.Derive("other"), "", 1), kind("a.b", subject, "1", 1), kind("a.b", subject, "2", 1)} {
		if seen[other] {
			t.Errorf("two events are %s", other)
		}
		seen[other] = true
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	fault := errors.New("fault")
	for name, c := range map[string]struct {
		err                error
		permanent, nothing bool
	}{
		"none":               {nil, false, false},
		"a fault":            {fault, false, false},
		"permanent":          {transport.Permanent(fault), true, false},
		"wrapped":            {errors.Join(fault, transport.Permanent(fault)), true, false},
		"none, permanently":  {transport.Permanent(nil), false, false},
		"unavailable":        {transport.ErrUnavailable, false, true},
		"overloaded":         {errors.Join(fault, transport.ErrOverloaded), false, true},
		"stopped":            {transport.ErrStopped, false, true},
		"a payload that odd": {decode(`{"n":"x"}`), true, false},
		"a payload":          {decode(`{"n":1}`), false, false},
	} {
		if transport.IsPermanent(c.err) != c.permanent || transport.NothingHandled(c.err) != c.nothing {
			t.Errorf("%s: %v: permanent %v, nothing handled %v", name, c.err, !c.permanent, !c.nothing)
		}
	}
	if !errors.Is(transport.Permanent(fault), fault) {
		t.Error("what is permanent has lost its cause")
	}
}

func decode(data string) error {
	v, err := transport.Decode[struct{ N int }](transport.Envelope{Type: "a.b", Data: json.RawMessage(data)})
	if err == nil && v.N != 1 {
		return errors.New("the payload is lost")
	}
	return err
}

func TestReceipt(t *testing.T) {
	t.Parallel()
	first, second := envelope(), envelope()
	second.TraceParent = "second"
	r := transport.Receipt{Decided: true, Events: []transport.Envelope{{Type: "order.placed"}, first, second}}
	if got, ok := r.Find("reservation.held"); !ok || !same(got, first) {
		t.Errorf("%+v, %v", got, ok)
	}
	if got, ok := r.Find("reservation"); ok || !same(got, transport.Envelope{}) {
		t.Errorf("%+v, %v", got, ok)
	}
}
