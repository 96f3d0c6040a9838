// Package journey drives the checkout journey over HTTP, as a crowd of shoppers would: log in,
// fill a cart, reserve, pay, see the order confirmed. It keeps a log of every acknowledgement, so
// that what the engine promised can be held against what it did.
package journey

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// client speaks the API for one person.
type client struct {
	http  *http.Client
	base  string
	token string
	note  func(step string, d time.Duration, status int)
	// reconnect is how long a request whose connection failed is repeated.
	reconnect time.Duration
}

// reply is an answer of the API.
type reply struct {
	status   int
	header   http.Header
	body     []byte
	repeated bool // an answer to the same request may have been lost before
}

// problem is the part of an RFC 9457 answer that the crowd reads.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
}

// unexpected is an answer that a correct engine does not give in this place.
type unexpected struct {
	step   string
	status int
	body   string
}

func (u unexpected) Error() string {
	return fmt.Sprintf("%s: unexpected %d: %s", u.step, u.status, u.body)
}

// maxBody bounds what is read of an answer.
const maxBody = 4 << 20

func (c *client) do(ctx context.Context, step, method, path, key string, body any) (reply, error) {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return reply{}, err
		}
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, payload)
	if err != nil {
		return reply{}, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	began := time.Now()
	resp, err := c.http.Do(req)
	if err != nil {
		return reply{}, fmt.Errorf("%s: %w", step, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return reply{}, fmt.Errorf("%s: %w", step, err)
	}
	if c.note != nil {
		c.note(step, time.Since(began), resp.StatusCode)
	}
	return reply{status: resp.StatusCode, header: resp.Header, body: b}, nil
}

// patient repeats a request that was shed (503) or not yet decided (409 in-flight), as Retry-After
// says, for a bounded number of times or for as long as reconnect says, and one whose connection failed
// for as long as reconnect says. The key makes repeating safe.
func (c *client) patient(ctx context.Context, step, method, path, key string, body any) (reply, error) {
	giveUp := time.Now().Add(c.reconnect)
	repeated := false
	for attempt := 0; ; attempt++ {
		r, err := c.do(ctx, step, method, path, key, body)
		r.repeated = repeated
		wait := r.retryAfter(100 * time.Millisecond)
		switch {
		case err != nil:
			if repeated = true; !time.Now().Before(giveUp) {
				return r, err
			}
		case r.status == http.StatusServiceUnavailable || r.status == http.StatusConflict && r.problem().is("in-flight"):
			repeated = repeated || r.problem().is("uncertain")
			if attempt >= 20 && !time.Now().Before(giveUp) {
				return r, nil
			}
		default:
			return r, nil
		}
		if err := pause(ctx, wait); err != nil {
			return r, err
		}
	}
}

func (r reply) into(step string, v any, want ...int) error {
	for _, w := range want {
		if r.status == w {
			if err := json.Unmarshal(r.body, v); err != nil {
				return fmt.Errorf("%s: %w", step, err)
			}
			return nil
		}
	}
	return r.surprise(step)
}

func (r reply) surprise(step string) error {
	body := r.body
	if len(body) > 300 {
		body = body[:300]
	}
	return unexpected{step, r.status, string(body)}
}

func (r reply) problem() problem {
	var p problem
	_ = json.Unmarshal(r.body, &p) // an answer that is none has no type, and is unexpected by that
	return p
}

func (p problem) is(name string) bool { return p.Type == "/problems/"+name }

// retryAfter reads the header in seconds, and waits at least the given time and at most two seconds.
func (r reply) retryAfter(least time.Duration) time.Duration {
	s, err := strconv.Atoi(r.header.Get("Retry-After"))
	if err != nil {
		return least
	}
	return min(max(time.Duration(s)*time.Second, least), 2*time.Second)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

var errGaveUp = errors.New("journey: not decided in time")

// until polls a resource until look says that it is final.
func (c *client) until(ctx context.Context, step, path string, bound time.Duration, look func(reply) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	for wait := 5 * time.Millisecond; ; wait = min(wait*2, 200*time.Millisecond) {
		r, err := c.do(ctx, step, http.MethodGet, path, "", nil)
		if err == nil && r.status != http.StatusServiceUnavailable {
			done, lerr := look(r)
			if done || lerr != nil {
				return lerr
			}
		} else if err != nil && ctx.Err() == nil && c.reconnect == 0 {
			return err
		}
		if pause(ctx, wait) != nil {
			return fmt.Errorf("%s %s: %w", step, path, errGaveUp)
		}
	}
}
