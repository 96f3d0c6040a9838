package engine

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// passBound ends a pass that hangs: on a connection whose other end is gone nothing comes, not even an error. What a
// pass has done stays done, and the next one goes on.
const passBound = 30 * time.Second

// every runs pass at once and then each interval until ctx ends. A failed pass is logged once until
// a pass succeeds again: a database that is away for a minute is one line, not hundreds.
func every(ctx context.Context, log *slog.Logger, interval time.Duration, name string, pass func(context.Context) error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	failing := false
	for {
		bound, cancel := context.WithTimeout(ctx, passBound)
		err := pass(bound)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !failing:
			failing = true
			log.WarnContext(ctx, "pass failed; it is tried again", "loop", name, "every", interval, "error", err)
		case err == nil && failing:
			failing = false
			log.InfoContext(ctx, "pass works again", "loop", name)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// runAll starts loops and waits until all have ended; the first error ends the others.
func runAll(ctx context.Context, start func(run func(func(context.Context) error))) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	start(func(loop func(context.Context) error) {
		wg.Go(func() {
			if err := loop(ctx); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
				cancel()
			}
		})
	})
	wg.Wait()
	return errors.Join(errs...)
}
