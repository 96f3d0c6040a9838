package engine

import (
	"context"
	"flashsale/id"
	"flashsale/reservation"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// How often a process looks for those who wait for a decision. Looking takes from what the decisions need: a ledger that
// needs up to an eighth of a second for it is left alone for four fifths of the time, and a slower one for half a second.
const (
	awaitOften  = 20 * time.Millisecond
	awaitSeldom = 500 * time.Millisecond
	awaitRest   = 4 // times as long as the last look took
	awaitBound  = 2 * time.Second
)

// waiters are those who wait for decisions in one process. One loop looks for all of them, while there are any.
type waiters struct {
	rows func(ctx context.Context, reservations []id.ID) ([]reservation.Reservation, error)
	log  *slog.Logger

	mu      sync.Mutex
	of      map[id.ID][]chan reservation.Reservation
	looking bool
	failing bool // at the last look
	closed  bool
	stop    context.CancelFunc
	loop    sync.WaitGroup
}

// Await returns a shopper's reservation as soon as it is decided, wherever that is, or in state requested when ctx ends
// before. ErrNotFound.
func (r *Reservations) Await(ctx context.Context, user, v id.ID) (reservation.Reservation, error) {
	if !v.OwnedBy(user) {
		return reservation.Reservation{}, reservation.ErrNotFound
	}
	decided := r.waiting.join(v)
	defer r.waiting.leave(v, decided)
	select {
	case row := <-decided:
		if row.User != user {
			return reservation.Reservation{}, reservation.ErrNotFound
		}
		return row, nil
	case <-ctx.Done():
		return reservation.Reservation{ID: v, User: user, State: reservation.Requested}, nil
	}
}

func (w *waiters) join(v id.ID) chan reservation.Reservation {
	decided := make(chan reservation.Reservation, 1) // the loop waits for nobody
	w.mu.Lock()
	defer w.mu.Unlock()
	w.of[v] = append(w.of[v], decided)
	if !w.looking && !w.closed {
		ctx, stop := context.WithCancel(context.Background())
		w.looking, w.stop = true, stop
		w.loop.Go(func() { w.look(ctx) })
	}
	return decided
}

func (w *waiters) leave(v id.ID, decided chan reservation.Reservation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of[v] = slices.DeleteFunc(w.of[v], func(c chan reservation.Reservation) bool { return c == decided }); len(w.of[v]) == 0 {
		delete(w.of, v)
	}
}

// close ends the looks: who still waits does so until his time is over.
func (w *waiters) close() {
	w.mu.Lock()
	w.closed = true
	if w.looking {
		w.stop()
	}
	w.mu.Unlock()
	w.loop.Wait()
}

// look asks about all who wait, until nobody does.
func (w *waiters) look(ctx context.Context) {
	for pause := awaitOften; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		w.mu.Lock()
		all := slices.Collect(maps.Keys(w.of))
		if len(all) == 0 {
			w.looking = false
			w.stop()
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		began := time.Now()
		for page := range slices.Chunk(all, sweepPage) {
			if !w.tell(ctx, page) {
				break
			}
		}
		pause = min(max(awaitRest*time.Since(began), awaitOften), awaitSeldom)
	}
}

// tell asks about some, and tells those whose reservation is decided. It reports whether the ledger has answered.
func (w *waiters) tell(ctx context.Context, some []id.ID) bool {
	bound, cancel := context.WithTimeout(ctx, awaitBound)
	defer cancel()
	rows, err := w.rows(bound, some)
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() == nil && (err != nil) != w.failing {
		if w.failing = err != nil; w.failing {
			w.log.WarnContext(ctx, "decisions cannot be looked up: who waits for one is told that it is not made", "waiting", len(w.of), "error", err)
		} else {
			w.log.InfoContext(ctx, "decisions are looked up again")
		}
	}
	for _, row := range rows {
		for _, decided := range w.of[row.ID] {
			decided <- row
		}
		delete(w.of, row.ID) // nobody is told twice: who leaves finds nothing
	}
	return err == nil
}
