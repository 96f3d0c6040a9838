package console

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// memo remembers answers for a moment; callers that ask for the same at the same time share one request. An error is
// shared but not remembered.
type memo[V any] struct {
	age     time.Duration
	most    int
	timeout time.Duration // of a request
	clock   func() time.Time

	mu      sync.Mutex
	entries map[string]*entry[V]
}

type entry[V any] struct {
	done  chan struct{} // closed once value and err are there
	value V
	err   error
	until time.Time // zero while the request is under way
}

func newMemo[V any](age time.Duration, most int, timeout time.Duration, clock func() time.Time) *memo[V] {
	return &memo[V]{age: age, most: most, timeout: timeout, clock: clock, entries: map[string]*entry[V]{}}
}

// get returns the answer of a key. The request has a context of its own: the caller who makes it may leave, and the
// others still wait for it. errDown for one who leaves or waits too long.
func (m *memo[V]) get(ctx context.Context, key string, fetch func(context.Context) (V, error)) (V, error) {
	m.mu.Lock()
	if e, ok := m.entries[key]; ok && (e.until.IsZero() || m.clock().Before(e.until)) {
		m.mu.Unlock()
		select {
		case <-e.done:
			return e.value, e.err
		case <-ctx.Done():
			var none V
			return none, fmt.Errorf("%w in time: %w", errDown, ctx.Err())
		}
	}
	e := &entry[V]{done: make(chan struct{}), err: errDown} // stands if fetch panics
	if m.room() {
		m.entries[key] = e
	}
	m.mu.Unlock()

	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.timeout)
	defer cancel()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		e.until = m.clock().Add(m.age)
		if e.err != nil && m.entries[key] == e {
			delete(m.entries, key)
		}
		close(e.done)
	}()
	e.value, e.err = fetch(own)
	return e.value, e.err
}

// room reports whether one more can be remembered, and forgets what is too old when it is needed.
func (m *memo[V]) room() bool {
	if len(m.entries) < m.most {
		return true
	}
	now := m.clock()
	for k, e := range m.entries {
		if !e.until.IsZero() && !now.Before(e.until) {
			delete(m.entries, k)
		}
	}
	return len(m.entries) < m.most
}

// forget makes the next get ask again.
func (m *memo[V]) forget(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.entries, key)
}
