package httpapi

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
)

// paces says of each route when those who are turned away for overload, or told nothing certain, should come again: all at
// once, a second later, they would be the next overload.
type paces struct {
	clock func() time.Time
	mu    sync.Mutex
	of    map[string]*pace // by route: there are some dozens
}

// pace is what a route did in the last seconds.
type pace struct {
	began      time.Time // of the window
	away, done int       // in the window so far
	lastAway   int       // in the window before
	lastDone   int
}

const (
	paceWindow  = time.Second
	longest     = 30 // seconds that somebody is told to wait
	longestLook = 5  // seconds that somebody waits for a decision before the next look
)

func newPaces(clock func() time.Time) *paces { return &paces{clock: clock, of: map[string]*pace{}} }

// note counts an answer, and returns after how many seconds one that is turned away should come again: as long as the
// others who were turned away take at the rate at which requests get done, half of it to one and a half.
func (p *paces) note(route string, away bool) int {
	now := p.clock()
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.of[route]
	if v == nil {
		v = &pace{began: now}
		p.of[route] = v
	}
	if past := now.Sub(v.began); past < 0 || past >= paceWindow {
		v.lastAway, v.lastDone = v.away, v.done
		if past < 0 || past >= 2*paceWindow {
			v.lastAway, v.lastDone = 0, 0
		}
		v.began, v.away, v.done = now, 0, 0
	}
	if !away {
		v.done++
		return 0
	}
	v.away++
	return later((v.away + v.lastAway) / max(v.done+v.lastDone, 1))
}

// later returns after how many seconds somebody is to come again when so many come for each who gets done.
func later(turns int) int {
	wait := max(1, min(turns, longest*2/3))
	return wait - wait/2 + rand.IntN(wait/2*2+1)
}

// crowded is errOverloaded where so many come for each who is let in, of whom most are told no before they come here.
type crowded struct {
	turns float64
	again bool // nginx may say it to others, too
}

func (c crowded) Error() string {
	return fmt.Sprintf("httpapi: %.0f come for each who is let in", c.turns)
}
func (c crowded) Unwrap() error { return errOverloaded }

// Where nginx may say the no of a crowd to others, too, it is told only how long they are to wait: by a status of 550 and so many
// seconds, without a body. It keeps that in memory, and says the 503 itself (nginx/shared/away.conf).
const away = 550

// lookAgain says with a payment that has no outcome yet when to look again: after half the time since its last step. Those
// who wait are most when least can be done, and each look takes from what they wait for.
func (a *API) lookAgain(c *fiber.Ctx, since time.Time) {
	wait := 1
	if !since.IsZero() {
		wait = max(1, min(int(a.cfg.Clock().Sub(since)/(2*time.Second)), longestLook))
	}
	c.Set("Retry-After", strconv.Itoa(wait))
}
