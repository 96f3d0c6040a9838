// Package groupcommit turns many concurrent calls into few group calls, clocked by the groups
// themselves: while one group commits, the next one forms. A lone call is never delayed.
package groupcommit

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Errors of Do. After either, the call was not part of any group.
var (
	ErrFull    = errors.New("groupcommit: the queue is full")
	ErrStopped = errors.New("groupcommit: stopped")
)

// bound is how long the commit of one group may take. Beyond it whether it happened is not known, as when a caller has
// given up.
const bound = 10 * time.Second

// Commit handles one group. It returns one answer per request, in order, or an error for all.
type Commit[Req, Ans any] func(ctx context.Context, group []Req) ([]Ans, error)

// Group gathers concurrent calls of Do into groups and hands them to Commit, with at most
// `parallel` groups under way.
type Group[Req, Ans any] struct {
	commit   Commit[Req, Ans]
	maxGroup int
	queue    chan *call[Req, Ans]
	watch    func(size int, waited time.Duration) // nil when nobody does

	mu       sync.RWMutex // held for reading while handing in: nothing enters after Close
	closed   bool
	stopping chan struct{}
	done     sync.WaitGroup
}

type call[Req, Ans any] struct {
	ctx context.Context
	req Req
	ans Ans
	err error
	end chan struct{}
	at  time.Time // when it was handed in, if somebody watches
}

// New starts a Group of at most maxGroup requests a group, parallel groups under way and
// maxQueue requests waiting. Close it when done.
func New[Req, Ans any](maxGroup, maxQueue, parallel int, commit Commit[Req, Ans]) *Group[Req, Ans] {
	g := &Group[Req, Ans]{
		commit: commit, maxGroup: maxGroup,
		queue:    make(chan *call[Req, Ans], maxQueue),
		stopping: make(chan struct{}),
	}
	for range parallel {
		g.done.Go(g.run)
	}
	return g
}

// Watch has a function told of each group before it is committed: how many requests it has, and how long the first
// of them has waited. Call it before Do.
func (g *Group[Req, Ans]) Watch(watch func(size int, waited time.Duration)) { g.watch = watch }

// Do hands in one request and waits for its answer. It returns ErrFull or ErrStopped when the
// request was not taken in. When ctx ends first it returns ctx.Err(), and the request may or may
// not have been handled: the caller must treat that as unknown.
func (g *Group[Req, Ans]) Do(ctx context.Context, req Req) (Ans, error) {
	c := &call[Req, Ans]{ctx: ctx, req: req, end: make(chan struct{})}
	if g.watch != nil {
		c.at = time.Now()
	}
	var none Ans
	if err := g.enter(c); err != nil {
		return none, err
	}
	select {
	case <-c.end:
		return c.ans, c.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

func (g *Group[Req, Ans]) enter(c *call[Req, Ans]) error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return ErrStopped
	}
	select {
	case g.queue <- c:
		return nil
	default:
		return ErrFull
	}
}

// Close finishes what was taken in and stops. It may be called twice.
func (g *Group[Req, Ans]) Close() {
	g.mu.Lock()
	if !g.closed {
		g.closed = true
		close(g.stopping)
	}
	g.mu.Unlock()
	g.done.Wait()
}

func (g *Group[Req, Ans]) run() {
	for {
		select {
		case c := <-g.queue:
			g.handle(g.gather(c))
		case <-g.stopping:
			g.drain()
			return
		}
	}
}

func (g *Group[Req, Ans]) drain() {
	for {
		select {
		case c := <-g.queue:
			g.handle(g.gather(c))
		default:
			return
		}
	}
}

// gather takes what is waiting, without waiting for more: the group before this one was the wait.
func (g *Group[Req, Ans]) gather(first *call[Req, Ans]) []*call[Req, Ans] {
	group := []*call[Req, Ans]{first}
	for len(group) < g.maxGroup {
		select {
		case c := <-g.queue:
			group = append(group, c)
		default:
			return group
		}
	}
	return group
}

func (g *Group[Req, Ans]) handle(group []*call[Req, Ans]) {
	reqs := make([]Req, 0, len(group))
	live := group[:0]
	for _, c := range group {
		if err := c.ctx.Err(); err != nil { // gave up while waiting: certainly not handled
			c.err = err
			close(c.end)
			continue
		}
		reqs = append(reqs, c.req)
		live = append(live, c)
	}
	if len(live) == 0 {
		return
	}
	if g.watch != nil {
		g.watch(len(live), time.Since(live[0].at))
	}
	// One caller's deadline must not cancel the others' commit, so the group has its own context. It ends, too: a server
	// that is gone and does not say so would keep every later group waiting.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(live[0].ctx), bound)
	defer cancel()
	answers, err := g.commit(ctx, reqs)
	if err == nil && len(answers) != len(reqs) {
		err = errors.New("groupcommit: the commit answered for another number of requests")
	}
	for i, c := range live {
		if err != nil {
			c.err = err
		} else {
			c.ans = answers[i]
		}
		close(c.end)
	}
}
