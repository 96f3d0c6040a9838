package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/money"
	"flashsale/reservation"
	"flashsale/transport"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// promise is the note that a take carries when its shopper may be told "accepted": all of the request
// that the pending record does not say. With it the request is in two places, the queue and the gate,
// and either of them is enough for it to be decided.
type promise struct {
	Key      string      `json:"k"`
	Quantity int         `json:"q"`
	Cart     id.ID       `json:"c,omitzero"`
	Seen     money.Money `json:"s,omitzero"`
	Trace    string      `json:"t,omitempty"`
}

// promiseNote returns the note for a request.
func promiseNote(req reservation.Request, trace string) string {
	b, err := json.Marshal(promise{Key: req.Key, Quantity: req.Quantity, Cart: req.Cart, Seen: req.Seen, Trace: trace})
	if err != nil {
		panic(fmt.Sprintf("engine: note of a request: %v", err)) // texts and numbers can be encoded
	}
	return string(b)
}

// orphan is an accepted request whose takes are past their deadline.
type orphan struct {
	claim    inventory.Claim
	takes    []inventory.Pending
	units    int       // of the takes
	deadline time.Time // of the last take
}

func (o orphan) whole() bool { return o.units == o.claim.Request.Quantity }

// orphans puts the overdue takes of accepted requests together. Takes whose note cannot be read are
// returned: they are given back like those without one.
func orphans(overdue []inventory.Pending) (found []*orphan, rest []inventory.Pending) {
	known := map[id.ID]*orphan{}
	for _, p := range overdue {
		var n promise
		if err := json.Unmarshal([]byte(p.Note), &n); err != nil {
			rest = append(rest, p)
			continue
		}
		req := reservation.Request{
			User: p.User, Key: n.Key, Sale: p.Bucket.Item.Sale, SKU: p.Bucket.Item.SKU, Quantity: n.Quantity, Cart: n.Cart, Seen: n.Seen,
		}
		o := known[req.ID()]
		// A take beyond the quantity is of a repetition of the request: an orphan of its own.
		if o == nil || o.units+p.Qty > n.Quantity || o.claim.Request != req {
			o = &orphan{claim: inventory.Claim{Request: req, TraceParent: n.Trace}}
			known[req.ID()] = o
			found = append(found, o)
		}
		o.takes = append(o.takes, p)
		o.units += p.Qty
		o.claim.Legs = append(o.claim.Legs, inventory.Leg{Take: p.ID, Bucket: p.Bucket, Epoch: p.Epoch, Qty: p.Qty})
		if p.Deadline.After(o.deadline) {
			o.deadline = p.Deadline
		}
	}
	return found, rest
}

const (
	redriveWidth = 64 // claims under way at the same time: they share the ledger's transactions
	// partGrace is how long after its deadline a take waits for the others of its request. Their
	// deadlines are moments apart, so whatever is missing then was lost by its shard.
	partGrace = 5 * time.Second
)

// Redrive has takes of accepted requests decided by handle, once their deadline is over, instead of
// given back. Call it before the keeper runs.
func (k *Keeper) Redrive(handle transport.Handler) { k.decide = handle }

// RedriveOnce has accepted requests decided whose messages have not come by the deadline of their
// takes: the queue is slow, or has lost them. The handler is that of the message, so whichever comes
// first decides, and the other is a repetition. What fails stays pending and is found again.
func (k *Keeper) RedriveOnce(ctx context.Context) error {
	k.mu.Lock()
	overdue := slices.Collect(maps.Values(k.promised))
	clear(k.promised)
	k.mu.Unlock()
	if len(overdue) == 0 {
		return nil
	}
	slices.SortFunc(overdue, func(a, b inventory.Pending) int {
		return cmp.Or(a.Deadline.Compare(b.Deadline), a.Bucket.Compare(b.Bucket), slices.Compare(a.ID[:], b.ID[:]))
	})
	found, rest := orphans(overdue)
	failed := k.giveBack(ctx, rest)
	errs := make(chan error, len(found))
	slots := make(chan struct{}, redriveWidth)
	var wg sync.WaitGroup
	decided := 0
	for _, o := range found {
		if !o.whole() {
			if k.clock().Sub(o.deadline) < partGrace {
				continue
			}
			// The ledger must not admit a part: with a tombstone it has the whole drawn again.
			if err := k.giveBack(ctx, o.takes); err != nil {
				failed = err
				break
			}
		}
		decided++
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := k.again(ctx, o.claim); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		failed = err
	}
	if decided > 0 {
		k.log.WarnContext(ctx, "accepted requests whose messages did not come were decided from the gate", "requests", decided, "failed", failed)
	}
	return failed
}

// again has a claim decided as its message would have had it, under the same event id.
func (k *Keeper) again(ctx context.Context, c inventory.Claim) error {
	rid := c.Request.ID()
	_, err := k.decide(ctx, transport.Repeatable(inventory.EventRequested, transport.Reservation, rid, c.Legs[0].Take.String(),
		k.clock(), c.TraceParent, inventory.NewClaimData(c, true)))
	if err != nil {
		return fmt.Errorf("accepted request %s: %w", rid, err)
	}
	return nil
}
