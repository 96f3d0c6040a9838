package httpapi

import (
	"context"
	"errors"
	"flashsale/account"
	"flashsale/id"
	"flashsale/transport"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"
)

// LetterView is a dead letter as operators see it, here and on the command line.
type LetterView struct {
	ID          id.ID             `json:"id"`
	Service     transport.Service `json:"service"`
	Type        string            `json:"type"`
	Source      transport.Service `json:"source"`
	Queue       string            `json:"queue"`
	Route       string            `json:"route"`
	Reason      transport.Reason  `json:"reason"`
	Error       string            `json:"error"`
	Attempts    int               `json:"attempts"`
	Replays     int               `json:"automatic_replays"`
	FirstFailed *time.Time        `json:"first_failed_at,omitempty"`
	Died        *time.Time        `json:"died_at,omitempty"`
	ReplayAt    *time.Time        `json:"replays_at,omitempty"`
	Size        int               `json:"size"`
	Body        *string           `json:"body,omitempty"`
	Bytes       []byte            `json:"body_base64,omitempty"` // instead of body, when that is no text
}

// ViewLetter returns what operators see of a letter, with its body if that was asked for.
func ViewLetter(l transport.Letter) LetterView {
	at := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	v := LetterView{
		ID: l.ID, Service: l.Service, Type: l.Type, Source: l.Source, Queue: l.Queue, Route: l.Route, Reason: l.Reason, Error: l.Error,
		Attempts: l.Attempts, Replays: l.Replays, FirstFailed: at(l.FirstFailed), Died: at(l.Died), ReplayAt: at(l.ReplayAt), Size: l.Size,
	}
	switch {
	case l.Body == nil:
	case utf8.Valid(l.Body):
		text := string(l.Body)
		v.Body = &text
	default:
		v.Bytes = l.Body
	}
	return v
}

// MountDeadLetters adds the routes over the dead letters, for operators. Without a queue (nil) there
// are none: the lists are empty.
func (a *API) MountDeadLetters(letters transport.DeadLetters) {
	if letters == nil {
		letters = noLetters{}
	}
	operator := a.auth(account.Operator)
	a.app.Get("/api/v1/admin/dlq", operator, func(c *fiber.Ctx) error { return a.listLetters(c, letters) })
	a.app.Post("/api/v1/admin/dlq/replay", operator, func(c *fiber.Ctx) error {
		f, err := a.letterFilter(c)
		if err != nil {
			return err
		}
		n, err := letters.Replay(c.UserContext(), f, transport.DefaultRate)
		return counted(c, "replayed", n, err)
	})
	a.app.Post("/api/v1/admin/dlq/purge", operator, func(c *fiber.Ctx) error {
		f, err := a.letterFilter(c)
		if err != nil {
			return err
		}
		n, err := letters.Purge(c.UserContext(), f)
		return counted(c, "purged", n, err)
	})
	a.app.Get("/api/v1/admin/dlq/:service/:id", operator, func(c *fiber.Ctx) error {
		v, err := pathID(c)
		if err != nil {
			return err
		}
		l, err := letters.Show(c.UserContext(), transport.Service(c.Params("service")), v)
		if errors.Is(err, transport.ErrNoLetter) {
			return fiber.ErrNotFound
		}
		if err != nil {
			return err
		}
		return c.JSON(ViewLetter(l))
	})
	a.app.Post("/api/v1/admin/dlq/:service/:id/replay", operator, func(c *fiber.Ctx) error {
		v, err := pathID(c)
		if err != nil {
			return err
		}
		service := transport.Service(c.Params("service"))
		if !slices.Contains(transport.Queued(), service) {
			return fiber.ErrNotFound
		}
		n, err := letters.Replay(c.UserContext(), transport.Filter{Service: service, ID: v}, transport.DefaultRate)
		if err == nil && n.Done == 0 {
			return fiber.ErrNotFound
		}
		return counted(c, "replayed", n, err)
	})
}

func counted(c *fiber.Ctx, what string, n transport.LetterCount, err error) error {
	if err != nil {
		return err
	}
	return c.JSON(fiber.Map{what: n.Done, "more": n.More})
}

func (a *API) listLetters(c *fiber.Ctx, letters transport.DeadLetters) error {
	q, err := query(c, "service", "reason", "older_than", "limit", "page")
	if err != nil {
		return err
	}
	f, err := ParseLetterFilter(q["service"], q["reason"], q["older_than"], a.cfg.Clock())
	if err != nil {
		return badBody{"The query parameter " + err.Error()}
	}
	limit, err := wholeNumber(q, "limit")
	if err != nil {
		return err
	}
	if limit > transport.MaxLetters {
		return badBody{"The query parameter limit is at most " + strconv.Itoa(transport.MaxLetters) + "."}
	}
	f.Limit, f.After = int(limit), q["page"]
	page, err := letters.List(c.UserContext(), f)
	if errors.Is(err, transport.ErrCursor) {
		return badBody{"The query parameter page is not one that an answer has given; take the next link as it is."}
	}
	if err != nil {
		return err
	}
	views := make([]LetterView, len(page.Letters))
	for i, l := range page.Letters {
		views[i] = ViewLetter(l)
	}
	out := fiber.Map{"letters": views, "partial": page.Partial}
	if page.Next != "" {
		next := url.Values{}
		for k, v := range q {
			next.Set(k, v)
		}
		next.Set("page", page.Next)
		out["next"] = "/api/v1/admin/dlq?" + next.Encode()
	}
	return c.JSON(out)
}

// ParseLetterFilter reads the words that choose dead letters; empty ones choose nothing. The error
// begins with the name of the word that is wrong and says what is right.
func ParseLetterFilter(service, reason, olderThan string, now time.Time) (transport.Filter, error) {
	f := transport.Filter{Service: transport.Service(service), Reason: transport.Reason(reason)}
	if service != "" && !slices.Contains(transport.Queued(), f.Service) {
		return f, errors.New("service is none that has a queue; they are " + words(transport.Queued()) + ".")
	}
	if reason != "" && !slices.Contains(transport.Reasons(), f.Reason) {
		return f, errors.New("reason is none that there is; they are " + words(transport.Reasons()) + ".")
	}
	if olderThan != "" {
		d, err := time.ParseDuration(olderThan)
		if err != nil || strings.Trim(olderThan[:1], "0123456789") != "" || d > maxAge {
			return f, errors.New("older_than is a duration of at most ten years; write 90s, 10m or 24h.")
		}
		f.Before = now.Add(-d)
	}
	return f, nil
}

const maxAge = 10 * 365 * 24 * time.Hour

func words[T ~string](all []T) string {
	texts := make([]string, len(all))
	for i, v := range all {
		texts[i] = string(v)
	}
	return strings.Join(texts, ", ")
}

// What one request replays takes no longer than a request may.
const (
	batchDefault = 100
	batchMax     = 200
)

// letterFilter reads the body that chooses what to replay or to purge. To choose everything is said
// aloud.
func (a *API) letterFilter(c *fiber.Ctx) (transport.Filter, error) {
	body, err := decode[struct {
		Service   string `json:"service"`
		Reason    string `json:"reason"`
		OlderThan string `json:"older_than"`
		ID        *id.ID `json:"id"`
		All       bool   `json:"all"`
		Limit     *int   `json:"limit"`
	}](c)
	if err != nil {
		return transport.Filter{}, err
	}
	f, err := ParseLetterFilter(body.Service, body.Reason, body.OlderThan, a.cfg.Clock())
	if err != nil {
		return f, badBody{"The field " + err.Error()}
	}
	if body.ID != nil {
		f.ID = *body.ID
	}
	switch {
	case f.All() && !body.All:
		return f, badBody{"The body chooses nothing; name service, reason, older_than or id, or say \"all\": true."}
	case !f.All() && body.All:
		return f, badBody{"The body says \"all\": true beside other fields that choose; leave one of them out."}
	case body.Limit != nil && (*body.Limit < 1 || *body.Limit > batchMax):
		return f, badBody{"The field limit is 1 to " + strconv.Itoa(batchMax) + "; repeat the request while the answer says that there is more."}
	}
	if f.Limit = batchDefault; body.Limit != nil {
		f.Limit = *body.Limit
	}
	return f, nil
}

// NoDeadLetters are those of a wiring without queues: none.
func NoDeadLetters() transport.DeadLetters { return noLetters{} }

// noLetters are those of a wiring without queues.
type noLetters struct{}

func (noLetters) List(_ context.Context, f transport.Filter) (transport.LetterPage, error) {
	if f.After != "" {
		return transport.LetterPage{}, transport.ErrCursor
	}
	return transport.LetterPage{}, nil
}

func (noLetters) Show(context.Context, transport.Service, id.ID) (transport.Letter, error) {
	return transport.Letter{}, transport.ErrNoLetter
}

func (noLetters) Replay(context.Context, transport.Filter, int) (transport.LetterCount, error) {
	return transport.LetterCount{}, nil
}

func (noLetters) Purge(context.Context, transport.Filter) (transport.LetterCount, error) {
	return transport.LetterCount{}, nil
}
