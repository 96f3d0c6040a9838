package main

import (
	"context"
	"errors"
	"flashsale/inventory"
	"fmt"
	"sync"
	"time"
)

// readyFor is how long an answer about readiness holds: asking often must not load what is asked.
const readyFor = 2 * time.Second

// readiness returns whether this process can do its work: its databases answer, at least one shard of
// the gate does, and the broker takes messages. It remembers the answer for a moment.
func (a *app) readiness() func(context.Context) error {
	var mu sync.Mutex
	var at time.Time
	var known error
	return func(ctx context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		if now := a.clock(); now.Sub(at) >= readyFor {
			known, at = a.check(ctx), now
		}
		return known
	}
}

func (a *app) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyFor)
	defer cancel()
	var errs []error
	for name, ping := range a.stores.pings {
		if err := ping(ctx); err != nil {
			errs = append(errs, fmt.Errorf("database of %s: %w", name, err))
		}
	}
	if a.gate != nil {
		errs = append(errs, a.checkGate(ctx))
	}
	if a.wires.queue != nil && a.cfg.Mode == Async {
		if _, _, err := a.wires.queue.Depths(ctx); err != nil {
			errs = append(errs, fmt.Errorf("queue: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (a *app) checkGate(ctx context.Context) error {
	buckets := make([]inventory.BucketID, a.gate.Shards())
	for i := range buckets {
		buckets[i].Shard = i
	}
	levels, err := a.gate.Levels(ctx, buckets)
	if err != nil {
		return fmt.Errorf("gate: %w", err)
	}
	for _, l := range levels {
		if !l.Away {
			return nil
		}
	}
	return errors.New("gate: no shard answers")
}
