package transport

import (
	"bytes"
	"flashsale/id"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// quickly reads the wire form exactly as Marshal writes it: the same attributes in the same order, and no
// escapes in their texts. Anything else it leaves to the parser that reads every form: it never refuses.
// What it accepts, that one accepts too, with the same result.
func quickly(b []byte) (e Envelope, ok bool) {
	r := reader{rest: b, ok: len(b) <= MaxEnvelope}
	r.skip(`{"specversion":"1.0","id":"`)
	eid := r.text()
	r.skip(`,"type":"` + typePrefix)
	kind := r.text()
	r.skip(`,"source":"` + sourcePrefix)
	source := r.text()
	r.skip(`,"subject":"`)
	subject := r.text()
	r.skip(`,"time":"`)
	said := r.text()
	r.skip(`,"datacontenttype":"application/json","schemaversion":`)
	version := r.number()
	if bytes.HasPrefix(r.rest, []byte(`,"traceparent":"`)) {
		r.skip(`,"traceparent":"`)
		e.TraceParent = r.text()
	}
	r.skip(`,"data":`)
	if !r.ok || kind == "" || source == "" || len(r.rest) < 3 || r.rest[0] != '{' || r.rest[len(r.rest)-1] != '}' {
		return Envelope{}, false
	}
	e.Data = bytes.Clone(r.rest[:len(r.rest)-1])
	var errs [3]error
	e.ID, errs[0] = id.Parse(eid)
	e.Subject, errs[1] = id.Parse(subject)
	e.Time, errs[2] = time.Parse(time.RFC3339Nano, said)
	if errs != [3]error{} || said[len(said)-1] != 'Z' || !jsontext.Value(e.Data).IsValid() || e.ID.IsZero() || e.Subject.IsZero() {
		return Envelope{}, false
	}
	e.Type, e.Source, e.Version, e.Time = kind, Service(source), version, e.Time.UTC()
	return e, true
}

// reader takes a wire form apart from the left; ok is false from the first thing on that is not there.
type reader struct {
	rest []byte
	ok   bool
}

func (r *reader) skip(text string) {
	if r.ok = r.ok && len(r.rest) >= len(text) && string(r.rest[:len(text)]) == text; r.ok {
		r.rest = r.rest[len(text):]
	}
}

// text reads up to the closing quote, and over it.
func (r *reader) text() string {
	for i, c := range r.rest {
		switch {
		case c == '"' && r.ok:
			s := string(r.rest[:i])
			r.rest = r.rest[i+1:]
			return s
		case c < ' ' || c > '~' || c == '\\':
			r.ok = false
			return ""
		}
	}
	r.ok = false
	return ""
}

// number reads a number of one to four digits, from 1 on.
func (r *reader) number() int {
	n := 0
	for n < len(r.rest) && n < 4 && r.rest[n] >= '0' && r.rest[n] <= '9' {
		n++
	}
	if n == 0 || r.rest[0] == '0' {
		r.ok = false
		return 0
	}
	v, _ := strconv.Atoi(string(r.rest[:n]))
	r.rest = r.rest[n:]
	return v
}
