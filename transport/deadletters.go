package transport

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flashsale/id"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Reason is the word that says why an envelope is a dead letter.
type Reason string

// The reasons. All but ReasonAttempts are given at the first attempt.
const (
	ReasonPermanent      Reason = "permanent"       // its handler said that trying again cannot mend it
	ReasonAttempts       Reason = "attempts"        // the last attempt failed too, or whoever handled it crashed every time
	ReasonMalformed      Reason = "malformed"       // the body is no envelope, or its payload does not decode
	ReasonUnknownType    Reason = "unknown_type"    // the service does not know events of this type
	ReasonUnknownVersion Reason = "unknown_version" // the schema of its type is newer than this program reads
)

// Reasons lists them.
func Reasons() []Reason {
	return []Reason{ReasonPermanent, ReasonAttempts, ReasonMalformed, ReasonUnknownType, ReasonUnknownVersion}
}

// Queued lists the services that have a queue, and with it dead letters.
func Queued() []Service { return []Service{Inventory, Order, Payment, Notification} }

// QueueLevel is how much of one service's a queueing transport has stored.
type QueueLevel struct {
	Service  Service
	Waiting  int // in the queue; those that a process is handling may count or not
	Retrying int // failed, and wait to be tried again
	Dead     int // dead letters
}

// Letter is a dead letter: an envelope that a service could not handle, and what is known of why.
// A time that is not known is zero; times are UTC, in microseconds.
type Letter struct {
	ID          id.ID     // of the event; made of the body where that has none. The same event may lie there twice
	Service     Service   // whose handler it was for
	Type        string    // of the event; empty when it cannot be read
	Source      Service   // who said it; empty when it cannot be read
	Queue       string    // where it waited, and where a replay puts it
	Route       string    // by which it came there
	Reason      Reason    //
	Error       string    // of the last attempt
	Attempts    int       // since it was sent or last replayed
	Replays     int       // automatic ones so far
	FirstFailed time.Time // since it was sent or last replayed by an operator
	Died        time.Time
	ReplayAt    time.Time // of the next automatic replay; zero when there is none
	Size        int       // of the body, in bytes
	Body        []byte    // as it was delivered; List leaves it out
}

// NewLetter returns the letter of a body, with what can be read of it: it may be no envelope.
func NewLetter(service Service, body []byte) Letter {
	var c struct{ ID, Type, Source string }
	_ = json.Unmarshal(body, &c) // fills the fields that are texts, also beside others that are not
	l := Letter{Service: service, Size: len(body), Body: body, Type: clip(strings.TrimPrefix(c.Type, typePrefix), 100)}
	l.Source = Service(clip(strings.TrimPrefix(c.Source, sourcePrefix), 100))
	var err error
	if l.ID, err = id.Parse(c.ID); err != nil || l.ID.IsZero() {
		l.ID = id.Derive("letter", string(service), string(body))
	}
	return l
}

// ErrorText is the text of an error as a letter keeps it: at most 500 bytes of UTF-8.
func ErrorText(err error) string { return clip(err.Error(), 500) }

func clip(s string, most int) string { return strings.ToValidUTF8(s[:min(len(s), most)], "") }

// Compare orders letters: the one that died first comes first.
func (l Letter) Compare(o Letter) int {
	return cmp.Or(l.Died.Compare(o.Died), cmp.Compare(l.Service, o.Service), slices.Compare(l.ID[:], o.ID[:]))
}

// Cursor is the place of a letter in that order, for Filter.After.
func (l Letter) Cursor() string {
	var us int64
	if !l.Died.IsZero() {
		us = l.Died.UnixMicro()
	}
	return fmt.Sprintf("%d.%s.%s", us, l.Service, l.ID)
}

// ParseCursor returns a letter at the cursor's place. ErrCursor.
func ParseCursor(s string) (Letter, error) {
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return Letter{}, ErrCursor
	}
	us, err := strconv.ParseInt(parts[0], 10, 64)
	v, bad := id.Parse(parts[2])
	if err != nil || bad != nil || us < 0 {
		return Letter{}, ErrCursor
	}
	l := Letter{Service: Service(parts[1]), ID: v}
	if us > 0 {
		l.Died = time.UnixMicro(us).UTC()
	}
	return l, nil
}

// Filter chooses letters. A field's zero value lets every letter through.
type Filter struct {
	Service Service
	Reason  Reason
	ID      id.ID
	Before  time.Time // died before it
	Limit   int       // at most so many; List: 1 to MaxLetters, 0 for 20. Replay and Purge: 0 for all
	After   string    // List only: the Next of the page before
}

// MaxLetters is the most that a page of List has.
const MaxLetters = 100

// PageSize returns how many letters a page of this filter has.
func (f Filter) PageSize() int {
	if f.Limit <= 0 {
		return 20
	}
	return min(f.Limit, MaxLetters)
}

// Match reports whether the filter lets a letter through. Limit and After are not asked.
func (f Filter) Match(l Letter) bool {
	return (f.Service == "" || f.Service == l.Service) && (f.Reason == "" || f.Reason == l.Reason) &&
		(f.ID.IsZero() || f.ID == l.ID) && (f.Before.IsZero() || l.Died.Before(f.Before))
}

// All reports whether the filter lets every letter through.
func (f Filter) All() bool {
	return f.Service == "" && f.Reason == "" && f.ID.IsZero() && f.Before.IsZero()
}

// LetterPage is a part of the list.
type LetterPage struct {
	Letters []Letter // never nil
	Next    string   // Filter.After of the next page; empty after the last
	Partial bool     // there are more letters than one look can hold; replay or purge some to see them
}

// LetterCount is how many letters Replay or Purge has dealt with, also beside an error.
type LetterCount struct {
	Done int
	More bool // letters that match are left: Limit was reached, or more of them than one look can hold
}

// DeadLetters are the envelopes that a queueing transport could not have handled. It works on a
// transport that is started and on one that is not. ErrOverloaded when others keep the letters busy,
// ErrUnavailable when the queues cannot be reached: both may be tried again.
type DeadLetters interface {
	// List returns a page of the letters that match, those that died first coming first, without their
	// bodies. It changes nothing and loses nothing, however often it is called; a letter that dies
	// meanwhile may be missing. ErrCursor.
	List(ctx context.Context, f Filter) (LetterPage, error)
	// Show returns a letter with its body, or ErrNoLetter.
	Show(ctx context.Context, service Service, letter id.ID) (Letter, error)
	// Replay puts the letters that match back into their queues, as if sent anew, at most perSecond of
	// them a second (0 means DefaultRate). Each is stored in the queue before it stops being a letter:
	// a crash or an error between leaves both, and the handler, which knows the event by its id, acts
	// once. A letter that dies again during the call is not replayed again by it. With an error
	// (ctx ended, ErrOverloaded when a queue is full) what the count says is replayed; calling again
	// goes on with the others.
	Replay(ctx context.Context, f Filter, perSecond int) (LetterCount, error)
	// Purge deletes the letters that match, for good. With an error, what the count says is deleted.
	Purge(ctx context.Context, f Filter) (LetterCount, error)
}

// Errors of DeadLetters.
var (
	// ErrNoLetter is returned when there is no such letter: it never died, or was replayed or purged.
	ErrNoLetter = errors.New("transport: there is no such dead letter; it may have been replayed or purged already")
	// ErrCursor is returned when Filter.After is not the Next of a page.
	ErrCursor = errors.New("transport: not the place where a page ended; take it from the page before, or begin without it")
)

// DefaultRate is how many letters a second are replayed unless somebody says otherwise.
const DefaultRate = 50

// Pace lets its caller through at most so many times a second, evenly. It is not for several callers
// at once.
type Pace struct {
	gap  time.Duration
	next time.Time
}

// NewPace returns a Pace; perSecond below 1 means DefaultRate.
func NewPace(perSecond int) *Pace {
	if perSecond < 1 {
		perSecond = DefaultRate
	}
	return &Pace{gap: time.Second / time.Duration(perSecond)}
}

// Wait returns when the caller may go on, or with the error of ctx.
func (p *Pace) Wait(ctx context.Context) error {
	now := time.Now()
	if p.next.After(now) {
		t := time.NewTimer(p.next.Sub(now))
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		now = p.next
	}
	p.next = now.Add(p.gap)
	return ctx.Err()
}

// Only lets a handler see what it can read: the types of events that it is for, each up to a version of
// its schema. Any other is permanent, with ReasonUnknownType or ReasonUnknownVersion: it was sent by a
// newer program, or to the wrong service.
func Only(reads map[string]int, h Handler) Handler {
	return func(ctx context.Context, e Envelope) ([]Envelope, error) {
		newest, known := reads[e.Type]
		switch {
		case !known:
			return nil, PermanentAs(ReasonUnknownType, fmt.Errorf("transport: events of type %q are not known here", clip(e.Type, 100)))
		case e.Version > newest:
			return nil, PermanentAs(ReasonUnknownVersion, fmt.Errorf("transport: %s has schemaversion %d; this program reads it up to %d: replay it after the upgrade", e.Type, e.Version, newest))
		}
		return h(ctx, e)
	}
}

// PermanentAs is Permanent with the reason that the dead letter is to have.
func PermanentAs(why Reason, err error) error {
	if err == nil {
		return nil
	}
	return permanent{err, why}
}

// ReasonOf returns why an envelope that is not tried again after err is a dead letter.
func ReasonOf(err error) Reason {
	var p permanent
	if !errors.As(err, &p) {
		return ReasonAttempts
	}
	return p.why
}

// Passing reports whether err may pass by itself, so that a dead letter of it is replayed without an
// operator: what was needed was away or full.
func Passing(err error) bool { return !IsPermanent(err) && NothingHandled(err) }

// DefaultPauses are how long a dead letter of a Passing error waits before its automatic replays;
// after the last one it waits for an operator.
func DefaultPauses() []time.Duration {
	return []time.Duration{time.Minute, 5 * time.Minute, 25 * time.Minute}
}
