package redisstock_test

import (
	"context"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/inventory/inventorytest"
	"flashsale/testenv"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
)

func TestOrder(t *testing.T) {
	t.Parallel()
	inventorytest.ExerciseGateOrder(t, open(t, testenv.Redis(t, 1)...))
}

// plainDecr is the counter that everybody writes first: DECR, and INCR when that was one too many.
// A DECR whose answer is lost, as every lost-th one is, is sent again.
type plainDecr struct {
	inventorytest.Gate
	redis *redis.Client
	lost  int64
	calls atomic.Int64
	taken atomic.Int64
}

func (p *plainDecr) Install(ctx context.Context, b inventory.BucketID, l inventory.Level, _ map[id.ID]int) error {
	return p.redis.Set(ctx, b.String(), l.Available, 0).Err()
}

func (p *plainDecr) Take(ctx context.Context, k inventory.Take) (inventory.Taken, error) {
	left, err := p.redis.Decr(ctx, k.Bucket.String()).Result()
	if p.lost > 0 && p.calls.Add(1)%p.lost == 0 {
		left, err = p.redis.Decr(ctx, k.Bucket.String()).Result()
	}
	if err == nil && left < 0 {
		p.redis.Incr(ctx, k.Bucket.String())
		return inventory.Taken{}, inventory.ErrShort
	}
	p.taken.Add(1)
	return inventory.Taken{Available: left}, err
}

func (p *plainDecr) Levels(ctx context.Context, buckets []inventory.BucketID) ([]inventory.Level, error) {
	left, err := p.redis.Get(ctx, buckets[0].String()).Int64()
	return []inventory.Level{{Epoch: 1, Available: left, Pending: p.taken.Load()}}, err
}

// TestOrderFindsPlainDecrement: the checker accepts the plain counter while every answer arrives,
// and rejects it when one that was lost is asked for again. The real gate passes the same way.
func TestOrderFindsPlainDecrement(t *testing.T) {
	t.Parallel()
	r := testenv.StartRedis(t)
	for _, c := range []struct {
		gate inventorytest.Gate
		want bool
	}{
		{&plainDecr{redis: client(t, r)}, true},
		{&plainDecr{redis: client(t, r), lost: 3}, false},
		{open(t, r.URL()), true},
	} {
		t.Run(fmt.Sprintf("%T, %v", c.gate, c.want), func(t *testing.T) {
			h, m := inventorytest.RecordTakes(t, c.gate)
			if got := h.Linearizable(t, m); got != c.want {
				t.Fatalf("the checker says %v", got)
			}
		})
	}
}
