// Package transport defines how one service hands a step of the flow to another: the envelope,
// the handler, the receipt, and the contract that inproc, httptransport and amqp implement.
package transport

import (
	"context"
	"encoding/json"
	"errors"
	"flashsale/id"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Service names a service: the address of an envelope and the name of its queue.
type Service string

// The services that envelopes are addressed to.
const (
	Reservation  Service = "reservation"
	Inventory    Service = "inventory"
	Order        Service = "order"
	Payment      Service = "payment"
	Catalog      Service = "catalog"
	Notification Service = "notification"
	Account      Service = "account" // only asked, never sent to
)

// Envelope is one event or command on its way: a CloudEvents 1.0 event in structured JSON.
type Envelope struct {
	ID          id.ID           // the same event always has the same id, however often it is sent
	Type        string          // such as "reservation.held"
	Version     int             // of the type's schema, 1 or more
	Source      Service         // who says it
	Subject     id.ID           // what it is about; order is kept per subject where it matters
	Time        time.Time       // when it was said, UTC
	TraceParent string          // W3C trace context, empty when there is none
	Data        json.RawMessage // the payload as it came, a JSON object; Body has it in any case
	payload     any             // of an envelope made here: encoded only when it leaves the process
}

// New returns the envelope of an event that happens once per subject: its id is derived from type
// and subject, so that saying it twice is recognised. data is not changed any more.
func New(kind string, source Service, subject id.ID, at time.Time, trace string, data any) Envelope {
	return Repeatable(kind, source, subject, "", at, trace, data)
}

// Repeatable is New for an event that can happen several times per subject; the discriminator
// (such as the adjustment's id) tells the occurrences apart.
func Repeatable(kind string, source Service, subject id.ID, discriminator string, at time.Time, trace string, data any) Envelope {
	return Envelope{
		ID: id.Derive("event", kind, subject.String(), discriminator), Type: kind, Version: 1, Source: source,
		Subject: subject, Time: at.UTC(), TraceParent: trace, payload: data,
	}
}

// Body returns the payload as a JSON object. It panics when the payload cannot be encoded, which for
// the payload structs of this project cannot happen.
func (e Envelope) Body() json.RawMessage {
	if e.Data != nil || e.payload == nil {
		return e.Data
	}
	body, err := json.Marshal(e.payload)
	if err != nil {
		panic(fmt.Sprintf("transport: payload of %s: %v", e.Type, err))
	}
	return body
}

// Kind is the type with its version, as one word: "reservation.held", or from version 2 on
// "reservation.held@2". An outbox keeps it, so that a row is sent as what it was written as.
func (e Envelope) Kind() string {
	if e.Version <= 1 {
		return e.Type
	}
	return e.Type + "@" + strconv.Itoa(e.Version)
}

// ParseKind returns the type and version that a Kind names. What has no version of the form that
// Kind writes is a type of version 1.
func ParseKind(kind string) (eventType string, version int) {
	if i := strings.LastIndexByte(kind, '@'); i >= 0 {
		if v, err := strconv.Atoi(kind[i+1:]); err == nil && v > 1 && kind[i+1:] == strconv.Itoa(v) {
			return kind[:i], v
		}
	}
	return kind, 1
}

// Decode reads the payload of an envelope into a T. Its error is Permanent: a payload that does
// not decode now never will.
func Decode[T any](e Envelope) (T, error) {
	if v, ok := e.payload.(T); ok {
		return v, nil
	}
	var v T
	if err := json.Unmarshal(e.Body(), &v); err != nil {
		return v, PermanentAs(ReasonMalformed, fmt.Errorf("payload of %s %s: %w", e.Type, e.ID, err))
	}
	return v, nil
}

// Handler does one service's part for an envelope and returns the envelopes that followed from
// it. It may be called again with the same envelope and must then have no second effect. A
// business refusal is an envelope, not an error. An error marked Permanent is never tried again;
// any other error means "try again".
type Handler func(ctx context.Context, e Envelope) ([]Envelope, error)

// Receipt says what became of a sent envelope. Decided means that the handler has finished and
// Events is what followed, all the way down. Otherwise the envelope was accepted: stored durably,
// it will be handled, and Events is empty.
type Receipt struct {
	Decided bool
	Events  []Envelope
}

// Find returns the first event of this type in the receipt.
func (r Receipt) Find(kind string) (Envelope, bool) {
	for _, e := range r.Events {
		if e.Type == kind {
			return e, true
		}
	}
	return Envelope{}, false
}

// Sender delivers an envelope to a service, at least once.
//
// When Send returns ErrUnavailable or ErrOverloaded the envelope was certainly not handled and
// never will be. Any other error, context.DeadlineExceeded and context.Canceled included, means
// unknown: it may have been handled, or may be later.
type Sender interface {
	Send(ctx context.Context, to Service, e Envelope) (Receipt, error)
}

// Transport sends to services and runs the handlers of those that live in this process.
type Transport interface {
	Sender
	// Handle registers the handler of a service, before Start.
	Handle(to Service, h Handler)
	// Start begins to deliver to the registered handlers and returns.
	Start(ctx context.Context) error
	// Stop takes in nothing new, finishes the handlers under way or until ctx ends, and returns.
	// It may be called twice.
	Stop(ctx context.Context) error
}

// Question is a read that one service asks of another; it changes nothing and is never queued.
type Question struct {
	Name string          // such as "inventory.reservation"
	Data json.RawMessage // the arguments, a JSON object
	// TraceParent is a W3C trace context, empty when there is none.
	TraceParent string
}

// Answerer answers the questions put to one service. It returns an error marked Permanent for a
// question it does not know.
type Answerer func(ctx context.Context, q Question) (json.RawMessage, error)

// Asker puts a question to a service and waits for the answer. It returns ErrUnavailable when the
// service cannot be reached; asking again is always safe.
type Asker interface {
	Ask(ctx context.Context, to Service, q Question) (json.RawMessage, error)
}

// Errors of Send and Ask.
var (
	// ErrUnavailable is returned when the service could not be reached: nothing was handed over.
	ErrUnavailable = errors.New("transport: the service cannot be reached; try again shortly")
	// ErrOverloaded is returned when the service or its queue is full: nothing was handed over.
	ErrOverloaded = errors.New("transport: the service is overloaded; try again shortly")
	// ErrStopped is returned by Send after Stop: nothing was handed over.
	ErrStopped = fmt.Errorf("transport: stopped: %w", ErrUnavailable)
)

// permanent marks an error that trying again cannot mend.
type permanent struct {
	err error
	why Reason
}

func (p permanent) Error() string { return p.err.Error() }
func (p permanent) Unwrap() error { return p.err }

// Permanent marks err as one that trying again cannot mend: the envelope is a dead letter. An error
// that is marked already keeps its reason.
func Permanent(err error) error {
	var p permanent
	if errors.As(err, &p) {
		return PermanentAs(p.why, err)
	}
	return PermanentAs(ReasonPermanent, err)
}

// IsPermanent reports whether err was marked by Permanent.
func IsPermanent(err error) bool {
	var p permanent
	return errors.As(err, &p)
}

// NothingHandled reports whether err, from Send, means that the envelope was certainly not
// handled and never will be.
func NothingHandled(err error) bool {
	return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrOverloaded)
}

// Outbox is where a service's store keeps the envelopes that its transactions said, until they
// have been sent.
type Outbox interface {
	// Unsent leases up to limit envelopes written longer ago than age and not leased by another
	// relay; a lease ends by itself after ten seconds. The oldest come first. Envelopes that a store
	// keeps in groups are leased a group at a time, so there may be a group more, and they come before
	// the others.
	Unsent(ctx context.Context, age time.Duration, limit int) ([]Envelope, error)
	// MarkSent removes envelopes from the outbox. Unknown ids are ignored.
	MarkSent(ctx context.Context, ids []id.ID) error
	// Backlog counts what is unsent and returns the age of the oldest, for the audit.
	Backlog(ctx context.Context) (count int, oldest time.Duration, err error)
}

// Places is where a service's store remembers how far its sweeps have come. A sweep that was never
// heard of has come to 0.
type Places interface {
	// Place returns how far the sweep of this name has come, and keeps others from it until SetPlace, or
	// for so long. mine is false while another has it.
	Place(ctx context.Context, sweep string, hold time.Duration) (upto int64, mine bool, err error)
	// SetPlace records how far a sweep has come, and lets others have it.
	SetPlace(ctx context.Context, sweep string, upto int64) error
}
