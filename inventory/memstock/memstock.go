// Package memstock is a gate in memory, for one process: the embedded default.
package memstock

import (
	"context"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"slices"
	"sync"
	"time"
)

// Gate is an inventory.Gate and inventory.Keeper in memory. It forgets everything with its process
// and is then rebuilt from the ledger.
type Gate struct {
	shards int

	mu      sync.RWMutex
	buckets map[inventory.BucketID]*bucket
}

type bucket struct {
	mu        sync.Mutex
	epoch     int64
	available int64
	seq       int64
	pending   map[id.ID]pending
	users     map[id.ID]int
}

type pending struct {
	user     id.ID
	qty      int
	deadline time.Time
	note     string
	handed   bool // Overdue has returned it
}

// New returns an empty gate of so many shards: every bucket is closed until it is installed.
func New(shards int) *Gate {
	return &Gate{shards: shards, buckets: map[inventory.BucketID]*bucket{}}
}

// Shards implements inventory.Keeper.
func (g *Gate) Shards() int { return g.shards }

func (g *Gate) find(b inventory.BucketID) *bucket {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.buckets[b]
}

// open returns the bucket locked, or why it cannot be used under this epoch.
func (g *Gate) open(b inventory.BucketID, epoch int64) (*bucket, error) {
	k := g.find(b)
	if k == nil {
		return nil, inventory.ErrClosed
	}
	k.mu.Lock()
	if k.epoch != epoch { // a bucket in the map has an epoch above 0
		k.mu.Unlock()
		return nil, inventory.ErrFenced
	}
	return k, nil
}

// Take implements inventory.Gate.
func (g *Gate) Take(_ context.Context, t inventory.Take) (inventory.Taken, error) {
	k, err := g.open(t.Bucket, t.Epoch)
	if err != nil {
		return inventory.Taken{}, err
	}
	defer k.mu.Unlock()
	has := k.users[t.User]
	if p, ok := k.pending[t.ID]; ok { // repeated: the same answer again
		return inventory.Taken{UserHas: has - p.qty, Available: k.available}, nil
	}
	taken := inventory.Taken{UserHas: has, Available: k.available}
	if t.Limit > 0 && has+t.Qty > t.Limit {
		return taken, reservation.ErrLimitReached
	}
	if k.available < int64(t.Qty) {
		return taken, inventory.ErrShort
	}
	k.available -= int64(t.Qty)
	k.users[t.User] = has + t.Qty
	k.pending[t.ID] = pending{user: t.User, qty: t.Qty, deadline: t.Deadline, note: t.Note}
	taken.Available = k.available
	return taken, nil
}

// Settle implements inventory.Gate.
func (g *Gate) Settle(_ context.Context, takes []inventory.TakeRef) error {
	for _, t := range takes {
		if k, err := g.open(t.Bucket, t.Epoch); err == nil {
			delete(k.pending, t.ID)
			k.mu.Unlock()
		}
	}
	return nil
}

// Abort implements inventory.Gate.
func (g *Gate) Abort(_ context.Context, takes []inventory.TakeRef) error {
	g.giveBack(takes, func(pending) bool { return true })
	return nil
}

// Withdraw implements inventory.Gate.
func (g *Gate) Withdraw(_ context.Context, takes []inventory.TakeRef) (bool, error) {
	return g.giveBack(takes, func(p pending) bool { return !p.handed }) == len(takes), nil
}

// giveBack returns the units of those pending takes that may, and says how many they are.
func (g *Gate) giveBack(takes []inventory.TakeRef, may func(pending) bool) (n int) {
	for _, t := range takes {
		k, err := g.open(t.Bucket, t.Epoch)
		if err != nil {
			continue
		}
		if p, ok := k.pending[t.ID]; ok && may(p) {
			delete(k.pending, t.ID)
			k.available += int64(p.qty)
			k.relieve(p.user, p.qty)
			n++
		}
		k.mu.Unlock()
	}
	return n
}

func (k *bucket) relieve(user id.ID, qty int) {
	if left := k.users[user] - qty; left > 0 {
		k.users[user] = left
	} else {
		delete(k.users, user)
	}
}

// Install implements inventory.Keeper.
func (g *Gate) Install(_ context.Context, b inventory.BucketID, l inventory.Level, users map[id.ID]int) error {
	if l.Epoch < 1 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	k := g.buckets[b]
	if k == nil {
		k = &bucket{}
		g.buckets[b] = k
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.Epoch <= k.epoch {
		return nil
	}
	k.epoch, k.available, k.seq = l.Epoch, l.Available, l.Seq
	k.pending, k.users = map[id.ID]pending{}, map[id.ID]int{}
	for u, n := range users {
		k.users[u] = n
	}
	return nil
}

// Credit implements inventory.Keeper.
func (g *Gate) Credit(_ context.Context, b inventory.BucketID, epoch int64, credits []inventory.Credit) (int64, error) {
	k, err := g.open(b, epoch)
	if err != nil {
		return 0, err
	}
	defer k.mu.Unlock()
	for _, c := range credits {
		if c.Seq != k.seq+1 {
			continue // seen, or one is missing before it
		}
		k.seq = c.Seq
		k.available += c.Qty
		if !c.User.IsZero() {
			k.relieve(c.User, int(c.Qty))
		}
	}
	return k.seq, nil
}

// Levels implements inventory.Keeper.
func (g *Gate) Levels(_ context.Context, buckets []inventory.BucketID) ([]inventory.Level, error) {
	levels := make([]inventory.Level, len(buckets))
	for i, b := range buckets {
		if levels[i].Away = b.Shard >= g.shards; levels[i].Away {
			continue
		}
		k := g.find(b)
		if k == nil {
			continue
		}
		k.mu.Lock()
		levels[i] = inventory.Level{Epoch: k.epoch, Available: k.available, Seq: k.seq}
		for _, p := range k.pending {
			levels[i].Pending += int64(p.qty)
		}
		k.mu.Unlock()
	}
	return levels, nil
}

// Overdue implements inventory.Keeper.
func (g *Gate) Overdue(_ context.Context, b inventory.BucketID, now time.Time, limit int) ([]inventory.Pending, error) {
	k := g.find(b)
	if k == nil {
		return nil, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var due []inventory.Pending
	for take, p := range k.pending {
		if !p.deadline.After(now) {
			due = append(due, inventory.Pending{
				TakeRef: inventory.TakeRef{ID: take, Bucket: b, Epoch: k.epoch}, User: p.user, Qty: p.qty, Deadline: p.deadline, Note: p.note,
			})
		}
	}
	slices.SortFunc(due, func(a, b inventory.Pending) int {
		if handed := k.pending[a.ID].handed; handed != k.pending[b.ID].handed {
			if handed {
				return -1
			}
			return 1
		}
		return a.Deadline.Compare(b.Deadline)
	})
	due = due[:min(len(due), limit)]
	for _, d := range due {
		p := k.pending[d.ID]
		p.handed = true
		k.pending[d.ID] = p
	}
	return due, nil
}
