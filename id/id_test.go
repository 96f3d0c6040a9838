package id_test

import (
	"encoding/json"
	"errors"
	"flashsale/id"
	"strings"
	"testing"
	"time"
)

const canonical = "0192f4c5-7a3b-7def-8123-456789abcdef"

func TestParse(t *testing.T) {
	t.Parallel()
	v, err := id.Parse(canonical)
	if err != nil || v.String() != canonical {
		t.Fatalf("%s, %v", v, err)
	}
	if upper, err := id.Parse(strings.ToUpper(canonical)); err != nil || upper != v {
		t.Fatalf("capitals: %s, %v", upper, err)
	}
	for what, s := range map[string]string{
		"nothing":                       "",
		"no hyphens":                    strings.ReplaceAll(canonical, "-", ""),
		"braces":                        "{" + canonical + "}",
		"one digit short":               canonical[:35],
		"one digit more":                canonical + "0",
		"not a digit":                   strings.Replace(canonical, "f", "g", 1),
		"hyphen displaced":              "0192f4c57-a3b-7def-8123-456789abcdef",
		"hyphens for the first digits":  "--" + canonical[2:],
		"a hyphen for the last group's": canonical[:24] + "-" + canonical[25:],
		"a hyphen for the last digit":   canonical[:35] + "-",
		"a space for a digit":           " " + canonical[1:],
		"a wide digit":                  "０" + canonical[3:],
	} {
		if v, err := id.Parse(s); !errors.Is(err, id.ErrInvalid) || !v.IsZero() {
			t.Errorf("%s: %q is %s, %v", what, s, v, err)
		}
	}
	for i := range canonical { // no place takes anything but its digit or its hyphen
		for j := range canonical {
			for _, c := range []byte("-/:@G`g \xff") {
				s := []byte(canonical)
				if s[i], s[j] = c, c; string(s) == canonical || c == '-' && canonical[i] == '-' && canonical[j] == '-' {
					continue
				}
				if v, err := id.Parse(string(s)); !errors.Is(err, id.ErrInvalid) || !v.IsZero() {
					t.Fatalf("%q is %s, %v", s, v, err)
				}
			}
		}
	}
}

// FuzzParse: what is accepted is the canonical form, in either case of letters, and nothing panics.
func FuzzParse(f *testing.F) {
	for _, s := range []string{canonical, strings.ToUpper(canonical), "--" + canonical[2:], canonical[:24] + "-" + canonical[25:], ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := id.Parse(s)
		if err != nil {
			if !errors.Is(err, id.ErrInvalid) || !v.IsZero() {
				t.Fatalf("%q: %s, %v", s, v, err)
			}
			return
		}
		if v.String() != strings.ToLower(s) {
			t.Fatalf("%q is read as %s", s, v)
		}
	})
}

func TestNew(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	seen := map[id.ID]bool{}
	last := ""
	for n := range 1000 {
		v := id.New(at.Add(time.Duration(n) * time.Millisecond))
		if s := v.String(); s[14] != '7' || !strings.ContainsRune("89ab", rune(s[19])) || s <= last {
			t.Fatalf("%s after %s", s, last)
		} else {
			last = s
		}
		ms := int64(v[0])<<40 | int64(v[1])<<32 | int64(v[2])<<24 | int64(v[3])<<16 | int64(v[4])<<8 | int64(v[5])
		if want := at.UnixMilli() + int64(n); ms != want {
			t.Fatalf("milliseconds %d, want %d", ms, want)
		}
		seen[v], seen[id.New(at)] = true, true
	}
	if len(seen) != 2000 {
		t.Fatalf("%d different ids of 2000", len(seen))
	}
}

// TestDerive pins one value: ids derived by an older program must be recognised by a newer one.
func TestDerive(t *testing.T) {
	t.Parallel()
	if got := id.Derive("event", "reservation.held").String(); got != "a1eb250a-ce2d-890f-a9a1-1de6d431d3b2" {
		t.Errorf("derived %s", got)
	}
	seen := map[id.ID][]string{}
	for _, parts := range [][]string{nil, {""}, {"", ""}, {"ab", "c"}, {"a", "bc"}, {"abc"}, {"abc", ""}, {"c", "ab"}} {
		v := id.Derive(parts...)
		if v != id.Derive(parts...) || v.IsZero() || v.String()[14] != '8' {
			t.Errorf("%q: %s", parts, v)
		}
		if other, ok := seen[v]; ok {
			t.Errorf("%q and %q are both %s", parts, other, v)
		}
		seen[v] = parts
	}
}

func TestDeriveFor(t *testing.T) {
	t.Parallel()
	ann, bob := id.Derive("ann"), id.Derive("bob")
	v := id.DeriveFor(ann, "reservation", "key")
	if v != id.DeriveFor(ann, "reservation", "key") {
		t.Error("not the same twice")
	}
	if !v.OwnedBy(ann) || v.OwnedBy(bob) || ann.OwnedBy(ann) {
		t.Errorf("%s: ann's %v, bob's %v", v, v.OwnedBy(ann), v.OwnedBy(bob))
	}
	for _, other := range []id.ID{id.DeriveFor(bob, "reservation", "key"), id.DeriveFor(ann, "reservation", "key2"), id.DeriveFor(ann, "reservationkey")} {
		if other == v {
			t.Errorf("%s twice", v)
		}
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	v := id.Derive("a")
	type doc struct {
		V id.ID `json:"v"`
		K map[id.ID]int
	}
	for want, in := range map[string]doc{
		`{"v":"","K":null}`: {},
		`{"v":"` + v.String() + `","K":{"` + v.String() + `":1}}`: {V: v, K: map[id.ID]int{v: 1}},
	} {
		b, err := json.Marshal(in)
		if err != nil || string(b) != want {
			t.Fatalf("%s, %v; want %s", b, err, want)
		}
		out := doc{V: id.Derive("what was there before")}
		if err := json.Unmarshal(b, &out); err != nil || out.V != in.V || len(out.K) != len(in.K) {
			t.Fatalf("%s is read as %+v, %v", b, out, err)
		}
	}
	kept := v
	if err := kept.UnmarshalText([]byte("x")); !errors.Is(err, id.ErrInvalid) || kept != v {
		t.Fatalf("%s, %v", kept, err)
	}
}
