package transport

import (
	"encoding/json"
	"flashsale/id"
	"fmt"
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
func Marshal(e Envelope) ([]byte, error) {
	data := e.Body()
	if data == nil {
		data = json.RawMessage("{}")
	}
	return json.Marshal(cloudEvent{
		SpecVersion: "1.0", ID: e.ID.String(), Type: typePrefix + e.Type, Source: sourcePrefix + string(e.Source),
		Subject: e.Subject.String(), Time: e.Time.UTC().Format(time.RFC3339Nano), ContentType: "application/json",
		SchemaVersion: max(e.Version, 1), TraceParent: e.TraceParent, Data: data,
	})
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
