package enginesim

import (
	"cmp"
	"context"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/reservation"
	"maps"
	"slices"
	"sync"
	"time"
)

// gate is the model of a gate on several servers, a shard each. What a server holds can be lost, or
// come back as it was a while ago.
type gate struct {
	mu     sync.Mutex
	shards []*server
	nth    map[id.ID]int // which take it was: the IDs are chance
	flaws  gateFlaws
}

// gateFlaws are what broken variants do at the servers.
type gateFlaws struct {
	repeatTakes bool // a take that comes twice draws twice
	anyRun      bool // a restarted server's old memory counts as its own
	anySeq      bool // a credit is applied whenever it comes
}

// server is one shard. A bucket installed in another run of the server is closed, whatever
// epoch a snapshot says that it has.
type server struct {
	run     int
	away    bool
	buckets map[inventory.BucketID]*counter
	saved   map[inventory.BucketID]*counter // the last snapshot
}

type counter struct {
	run       int
	epoch     int64
	available int64
	seq       int64
	pending   map[id.ID]inventory.Pending
	handed    map[id.ID]bool // those that were overdue
	users     map[id.ID]int
}

func newGate(shards int) *gate {
	g := &gate{nth: map[id.ID]int{}}
	for range shards {
		g.shards = append(g.shards, &server{buckets: map[inventory.BucketID]*counter{}})
	}
	return g
}

func copyCounters(from map[inventory.BucketID]*counter) map[inventory.BucketID]*counter {
	to := map[inventory.BucketID]*counter{}
	for b, c := range from {
		k := *c
		k.pending, k.handed, k.users = maps.Clone(c.pending), maps.Clone(c.handed), maps.Clone(c.users)
		to[b] = &k
	}
	return to
}

// save takes a snapshot of a shard.
func (g *gate) save(shard int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shards[shard].saved = copyCounters(g.shards[shard].buckets)
}

// restart starts a shard again: empty, or with its last snapshot.
func (g *gate) restart(shard int, stale bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.shards[shard]
	s.run++
	s.buckets = map[inventory.BucketID]*counter{}
	if stale {
		s.buckets = copyCounters(s.saved)
	}
}

// Shards implements inventory.Keeper.
func (g *gate) Shards() int { return len(g.shards) }

// find returns a bucket that is open in this run, or nil.
func (g *gate) find(b inventory.BucketID) *counter {
	s := g.shards[b.Shard]
	if c := s.buckets[b]; c != nil && (c.run == s.run || g.flaws.anyRun) {
		return c
	}
	return nil
}

// open returns a bucket, or why it cannot be used under this epoch.
func (g *gate) open(b inventory.BucketID, epoch int64) (*counter, error) {
	c := g.find(b)
	switch {
	case c == nil:
		return nil, inventory.ErrClosed
	case c.epoch != epoch:
		return nil, inventory.ErrFenced
	}
	return c, nil
}

// Take implements inventory.Gate.
func (g *gate) Take(_ context.Context, t inventory.Take) (inventory.Taken, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, err := g.open(t.Bucket, t.Epoch)
	if err != nil {
		return inventory.Taken{}, err
	}
	taken := inventory.Taken{UserHas: c.users[t.User], Available: c.available}
	if p, again := c.pending[t.ID]; again && !g.flaws.repeatTakes {
		taken.UserHas -= p.Qty
		return taken, nil
	}
	switch {
	case t.Limit > 0 && taken.UserHas+t.Qty > t.Limit:
		return taken, reservation.ErrLimitReached
	case c.available < int64(t.Qty):
		return taken, inventory.ErrShort
	}
	c.available -= int64(t.Qty)
	c.users[t.User] += t.Qty
	g.nth[t.ID] = len(g.nth)
	c.pending[t.ID] = inventory.Pending{
		TakeRef: inventory.TakeRef{ID: t.ID, Bucket: t.Bucket, Epoch: t.Epoch}, User: t.User, Qty: t.Qty, Deadline: t.Deadline, Note: t.Note,
	}
	taken.Available = c.available
	return taken, nil
}

// Settle implements inventory.Gate.
func (g *gate) Settle(_ context.Context, takes []inventory.TakeRef) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range takes {
		if c, err := g.open(t.Bucket, t.Epoch); err == nil {
			delete(c.pending, t.ID)
		}
	}
	return nil
}

// Abort implements inventory.Gate.
func (g *gate) Abort(_ context.Context, takes []inventory.TakeRef) error {
	g.giveBack(takes, true)
	return nil
}

// Withdraw implements inventory.Gate.
func (g *gate) Withdraw(_ context.Context, takes []inventory.TakeRef) (bool, error) {
	return g.giveBack(takes, false) == len(takes), nil
}

func (g *gate) giveBack(takes []inventory.TakeRef, handed bool) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range takes {
		c, err := g.open(t.Bucket, t.Epoch)
		if err != nil {
			continue
		}
		if p, ok := c.pending[t.ID]; ok && (handed || !c.handed[t.ID]) {
			delete(c.pending, t.ID)
			c.back(p.User, int64(p.Qty))
			n++
		}
	}
	return n
}

// back returns units; no user when stock was added.
func (c *counter) back(user id.ID, qty int64) {
	c.available += qty
	if user.IsZero() {
		return
	}
	if c.users[user] -= int(qty); c.users[user] <= 0 {
		delete(c.users, user)
	}
}

// Install implements inventory.Keeper.
func (g *gate) Install(_ context.Context, b inventory.BucketID, l inventory.Level, users map[id.ID]int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.find(b); l.Epoch < 1 || c != nil && l.Epoch <= c.epoch {
		return nil
	}
	s := g.shards[b.Shard]
	c := &counter{run: s.run, epoch: l.Epoch, available: l.Available, seq: l.Seq, pending: map[id.ID]inventory.Pending{}, handed: map[id.ID]bool{}, users: map[id.ID]int{}}
	maps.Copy(c.users, users)
	s.buckets[b] = c
	return nil
}

// Credit implements inventory.Keeper.
func (g *gate) Credit(_ context.Context, b inventory.BucketID, epoch int64, credits []inventory.Credit) (int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, err := g.open(b, epoch)
	if err != nil {
		return 0, err
	}
	for _, v := range credits {
		if v.Seq == c.seq+1 || g.flaws.anySeq {
			c.seq = max(c.seq, v.Seq)
			c.back(v.User, v.Qty)
		}
	}
	return c.seq, nil
}

// Levels implements inventory.Keeper.
func (g *gate) Levels(_ context.Context, buckets []inventory.BucketID) ([]inventory.Level, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]inventory.Level, len(buckets))
	for i, b := range buckets {
		if b.Shard >= len(g.shards) || g.shards[b.Shard].away {
			out[i].Away = true
		} else if c := g.find(b); c != nil {
			out[i] = inventory.Level{Epoch: c.epoch, Available: c.available, Seq: c.seq}
			for _, p := range c.pending {
				out[i].Pending += int64(p.Qty)
			}
		}
	}
	return out, nil
}

// Overdue implements inventory.Keeper.
func (g *gate) Overdue(_ context.Context, b inventory.BucketID, now time.Time, limit int) ([]inventory.Pending, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.find(b)
	if c == nil {
		return nil, nil
	}
	var due []inventory.Pending
	for _, p := range c.pending {
		if !p.Deadline.After(now) {
			due = append(due, p)
		}
	}
	first := func(p inventory.Pending) int {
		if c.handed[p.ID] {
			return 0
		}
		return 1
	}
	slices.SortFunc(due, func(a, b inventory.Pending) int {
		return cmp.Or(cmp.Compare(first(a), first(b)), a.Deadline.Compare(b.Deadline), cmp.Compare(g.nth[a.ID], g.nth[b.ID]))
	})
	due = due[:min(len(due), limit)]
	for _, p := range due {
		c.handed[p.ID] = true
	}
	return due, nil
}

// order returns which take it was.
func (g *gate) order(take id.ID) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.nth[take]
}

// free returns the units that can be taken from a bucket; one of another epoch than the ledger's has none.
func (g *gate) free(b inventory.BucketID, epoch int64) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.find(b); c != nil && c.epoch == epoch && !g.shards[b.Shard].away {
		return c.available
	}
	return 0
}
