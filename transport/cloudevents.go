package transport

import (
	"encoding/json"
	"errors"
	"flashsale/id"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cloudEvent is the wire form: CloudEvents 1.0, structured mode, JSON format.
type cloudEvent struct {
	SpecVersion   string          `json:"specversion"`
	ID            string          `json:"id"`
	Type          string          `json:"type"`
	Source        string          `json:"source"`
	Subject       string          `json:"subject"`
	Time          string          `json:"time"`
	ContentType   string          `json:"datacontenttype"`
	SchemaVersion int             `json:"schemaversion"`
	TraceParent   string          `json:"traceparent,omitempty"`
	Data          json.RawMessage `json:"data"`
}

const (
	typePrefix   = "flashsale."
	sourcePrefix = "/flashsale/"
	// MaxEnvelope bounds the wire form of one envelope, in bytes.
	MaxEnvelope = 256 << 10
)

// ContentType is the media type of the wire form.
const ContentType = "application/cloudevents+json; charset=utf-8"

// Marshal returns the wire form of an envelope.
func Marshal(e Envelope) ([]byte, error) { return AppendMarshal(nil, e) }

// AppendMarshal appends the wire form of an envelope, as cloudEvent has it: written out, for every step of every purchase
// is sent in this form.
func AppendMarshal(b []byte, e Envelope) ([]byte, error) {
	data := e.Body()
	var errs [3]error
	switch {
	case data == nil:
		data = json.RawMessage("{}")
	case e.Data != nil: // it came from somewhere: without blanks, and JSON for sure
		if data, errs[2] = json.Marshal(data); errs[2] != nil {
			return nil, fmt.Errorf("transport: the payload of %s %s: %w", e.Type, e.ID, errs[2])
		}
	}
	b = append(slices.Grow(b, len(data)+400), `{"specversion":"1.0","id":"`...)
	b, errs[0] = e.ID.AppendText(b)
	b = appendText(append(b, `","type":`...), typePrefix+e.Type)
	b = appendText(append(b, `,"source":`...), sourcePrefix+string(e.Source))
	b, errs[1] = e.Subject.AppendText(append(b, `,"subject":"`...))
	b = e.Time.UTC().AppendFormat(append(b, `","time":"`...), time.RFC3339Nano)
	b = strconv.AppendInt(append(b, `","datacontenttype":"application/json","schemaversion":`...), int64(max(e.Version, 1)), 10)
	if e.TraceParent != "" {
		b = appendText(append(b, `,"traceparent":`...), e.TraceParent)
	}
	b = append(append(append(b, `,"data":`...), data...), '}')
	return b, errors.Join(errs[:]...)
}

// appendText appends a JSON string.
func appendText(b []byte, s string) []byte {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s)
			if err != nil {
				panic(fmt.Sprintf("transport: a text cannot be quoted: %v", err)) // every text can
			}
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// Unmarshal reads the wire form. Its errors are Permanent, with ReasonMalformed, and say what is wrong.
// An envelope of any type and version is one: Only says which of them a service reads.
func Unmarshal(b []byte) (Envelope, error) {
	if e, ok := quickly(b); ok {
		return e, nil
	}
	return generally(b)
}

// generally reads every form that JSON allows.
func generally(b []byte) (Envelope, error) {
	bad := func(format string, args ...any) (Envelope, error) {
		return Envelope{}, PermanentAs(ReasonMalformed, fmt.Errorf("transport: not an envelope: "+format, args...))
	}
	if len(b) > MaxEnvelope {
		return bad("%d bytes, of at most %d", len(b), MaxEnvelope)
	}
	var c cloudEvent
	if err := json.Unmarshal(b, &c); err != nil {
		return bad("%w", err)
	}
	if c.SpecVersion != "1.0" {
		return bad("specversion %q, want 1.0", c.SpecVersion)
	}
	if c.SchemaVersion < 1 {
		return bad("schemaversion %d, want 1 or more", c.SchemaVersion)
	}
	kind, ok := strings.CutPrefix(c.Type, typePrefix)
	if !ok || kind == "" {
		return bad("type %q, want the prefix %q", c.Type, typePrefix)
	}
	source, ok := strings.CutPrefix(c.Source, sourcePrefix)
	if !ok || source == "" {
		return bad("source %q, want the prefix %q", c.Source, sourcePrefix)
	}
	eid, err := id.Parse(c.ID)
	if err != nil {
		return bad("id: %w", err)
	}
	subject, err := id.Parse(c.Subject)
	if err != nil {
		return bad("subject: %w", err)
	}
	if eid.IsZero() || subject.IsZero() { // nobody's, and could not be written again
		return bad("an id of zeros")
	}
	at, err := time.Parse(time.RFC3339Nano, c.Time)
	if err != nil {
		return bad("time: %w", err)
	}
	at = at.UTC()
	if at.Year() < 0 || at.Year() > 9999 { // could not be written again
		return bad("time: %q is outside the years 0 to 9999 of UTC", c.Time)
	}
	if len(c.Data) == 0 || c.Data[0] != '{' { // null would decode into an empty payload
		return bad("data is not a JSON object")
	}
	return Envelope{
		ID: eid, Type: kind, Version: c.SchemaVersion, Source: Service(source), Subject: subject, Time: at,
		TraceParent: c.TraceParent, Data: c.Data,
	}, nil
}
