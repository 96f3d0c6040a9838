package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"flashsale/engine"
	"flashsale/id"
	"flashsale/reservation"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
)

// How long a wait goes on when this process is stopping, and a stream at all: a shopper who is still waiting then connects
// again, as an EventSource does by itself.
const (
	noticeStop = 500 * time.Millisecond
	keepAlive  = 10 * time.Second
	streamTime = 25 * time.Second // within the server's bound on writing an answer
	maxStreams = 20_000
)

// preferWait reads Prefer: wait=SECONDS (RFC 7240), 0 for none. What is longer than a request may
// take ends with it.
func preferWait(c *fiber.Ctx) time.Duration {
	for part := range strings.SplitSeq(c.Get("Prefer"), ",") {
		v, ok := strings.CutPrefix(strings.ReplaceAll(part, " ", ""), "wait=")
		if n, err := strconv.Atoi(v); ok && err == nil && n > 0 {
			return time.Duration(min(n, 60)) * time.Second
		}
	}
	return 0
}

// awaitDecision waits until an accepted reservation is decided, ctx ends or this process stops: it is decided wherever it
// is, and a stop waits for nobody's patience. A refusal is returned as it would have been at once.
func (a *API) awaitDecision(ctx context.Context, s Reservations, out engine.Outcome) (engine.Outcome, error) {
	asked := out.Reservation
	for ctx.Err() == nil && !a.draining.Load() {
		r, err := a.await(ctx, s, asked.User, asked.ID)
		switch {
		case err != nil: // it was accepted all the same
			return out, nil
		case r.State == reservation.Requested:
			continue
		case r.State == reservation.Refused:
			return out, reservation.Refusal(r.Reason)
		}
		out.Reservation, out.Decided = r, true
		return out, nil
	}
	return out, nil
}

// await waits for a decision, but not longer than a stop may be unnoticed.
func (a *API) await(ctx context.Context, s Reservations, user, v id.ID) (reservation.Reservation, error) {
	ctx, cancel := context.WithTimeout(ctx, noticeStop)
	defer cancel()
	return s.Await(ctx, user, v)
}

// reservationEvents streams the states of a reservation as server-sent events, and ends with the
// decision. The writer runs after the handler has returned: it must not touch the request.
func (a *API) reservationEvents(c *fiber.Ctx, s Reservations) error {
	v, err := pathID(c)
	if err != nil {
		return err
	}
	owner := user(c)
	r, err := s.Status(c.UserContext(), owner, v)
	if err != nil {
		return err
	}
	select {
	case a.streams <- struct{}{}:
	default:
		return errOverloaded
	}
	c.Set("Content-Type", "text/event-stream")
	c.Set("X-Accel-Buffering", "no") // nginx would hold the events back
	c.Context().SetBodyStreamWriter(func(w *bufio.Writer) {
		defer func() { <-a.streams }()
		ctx, cancel := context.WithTimeout(context.Background(), streamTime)
		defer cancel()
		if send(w, r) != nil || r.State != reservation.Requested {
			return
		}
		spoke := a.cfg.Clock()
		for ctx.Err() == nil && !a.draining.Load() {
			now, err := a.await(ctx, s, owner, v)
			if err != nil {
				return
			}
			if now.State != reservation.Requested {
				_ = send(w, now)
				return
			}
			if a.cfg.Clock().Sub(spoke) >= keepAlive { // also finds out whether anybody listens
				if _, err := w.WriteString(": waiting\n\n"); err != nil || w.Flush() != nil {
					return
				}
				spoke = a.cfg.Clock()
			}
		}
	})
	return nil
}

// send writes a state as an event: "requested", or "decided" with what was decided.
func send(w *bufio.Writer, r reservation.Reservation) error {
	name := "decided"
	if r.State == reservation.Requested {
		name = "requested"
	}
	b, err := json.Marshal(viewReservation(r))
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", name, b); err != nil {
		return err
	}
	return w.Flush()
}
