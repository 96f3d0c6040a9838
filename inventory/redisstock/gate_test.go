package redisstock_test

import (
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/inventory/inventorytest"
	"flashsale/inventory/redisstock"
	"flashsale/testenv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func open(t *testing.T, urls ...string) *redisstock.Gate {
	t.Helper()
	g, err := redisstock.Open(t.Context(), urls, redisstock.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

func TestGate(t *testing.T) {
	t.Parallel()
	urls := testenv.Redis(t, 2)
	inventorytest.ExerciseGate(t, func(t *testing.T) inventorytest.Gate { return open(t, urls...) })
}

func client(t *testing.T, r *testenv.RedisServer) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func item(t *testing.T) inventory.BucketID {
	return inventory.BucketID{Item: inventory.ItemID{Sale: id.Derive(t.Name()), SKU: "A"}}
}

func take(b inventory.BucketID, epoch int64) inventory.Take {
	return inventory.Take{ID: id.New(time.Now()), Bucket: b, Epoch: epoch, User: id.Derive("u"), Qty: 1, Deadline: time.Now().Add(time.Minute)}
}

func wantTake(t *testing.T, g *redisstock.Gate, k inventory.Take, want error) {
	t.Helper()
	if _, err := g.Take(t.Context(), k); !errors.Is(err, want) {
		t.Fatalf("take: %v, want %v", err, want)
	}
}

// TestLoss: whatever a server loses, its buckets are closed until they are installed again, and
// never zero or stale.
func TestLoss(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, r *testenv.RedisServer, g *redisstock.Gate, b inventory.BucketID){
		"flushed": func(t *testing.T, r *testenv.RedisServer, _ *redisstock.Gate, _ inventory.BucketID) {
			if err := client(t, r).FlushAll(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
		},
		"killed, restarted empty": func(_ *testing.T, r *testenv.RedisServer, _ *redisstock.Gate, _ inventory.BucketID) {
			r.Kill()
			r.Start()
		},
		"killed, restarted with a stale snapshot of the right epoch": func(t *testing.T, r *testenv.RedisServer, g *redisstock.Gate, b inventory.BucketID) {
			if err := client(t, r).Save(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			wantTake(t, g, take(b, 1), nil) // after the snapshot: the stale server does not know it
			r.Kill()
			r.Start()
			if n := client(t, r).DBSize(t.Context()).Val(); n == 0 {
				t.Fatal("the snapshot was not loaded: the case shows nothing")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := testenv.StartRedis(t)
			g := open(t, r.URL())
			b := item(t)
			if err := g.Install(t.Context(), b, inventory.Level{Epoch: 1, Available: 3}, nil); err != nil {
				t.Fatal(err)
			}
			wantTake(t, g, take(b, 1), nil)
			lose(t, r, g, b)
			wantTake(t, g, take(b, 1), inventory.ErrClosed)
			levels, err := g.Levels(t.Context(), []inventory.BucketID{b})
			if err != nil || levels[0] != (inventory.Level{}) {
				t.Fatalf("level after the loss: %+v, %v; want closed", levels, err)
			}
			if err := g.Install(t.Context(), b, inventory.Level{Epoch: 2, Available: 1}, nil); err != nil {
				t.Fatal(err)
			}
			wantTake(t, g, take(b, 1), inventory.ErrFenced)
			wantTake(t, g, take(b, 2), nil)
			wantTake(t, g, take(b, 2), inventory.ErrShort)
		})
	}
}

func TestScriptCacheFlushedLosesNothing(t *testing.T) {
	t.Parallel()
	r := testenv.StartRedis(t)
	g := open(t, r.URL())
	b := item(t)
	if err := g.Install(t.Context(), b, inventory.Level{Epoch: 1, Available: 2}, nil); err != nil {
		t.Fatal(err)
	}
	if err := client(t, r).ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	wantTake(t, g, take(b, 1), nil)
	levels, err := g.Levels(t.Context(), []inventory.BucketID{b})
	if want := (inventory.Level{Epoch: 1, Available: 1, Pending: 1}); err != nil || levels[0] != want {
		t.Fatalf("%+v, %v; want %+v", levels, err, want)
	}
}

func TestServerAway(t *testing.T) {
	t.Parallel()
	r := testenv.StartRedis(t)
	g := open(t, r.URL())
	b := item(t)
	if err := g.Install(t.Context(), b, inventory.Level{Epoch: 1, Available: 2}, nil); err != nil {
		t.Fatal(err)
	}
	r.Kill()
	// The first take may have been written to the dying connection; later ones find nobody to dial.
	_, err := g.Take(t.Context(), take(b, 1))
	if !errors.Is(err, inventory.ErrUnavailable) && !errors.Is(err, inventory.ErrUncertain) {
		t.Fatalf("first take: %v", err)
	}
	for range 20 {
		if _, err = g.Take(t.Context(), take(b, 1)); errors.Is(err, inventory.ErrUnavailable) {
			return
		}
	}
	t.Fatalf("take without a server: %v, want %v", err, inventory.ErrUnavailable)
}

// TestLockedOut: a server that lets nobody in has done nothing, and is away; the others are not.
func TestLockedOut(t *testing.T) {
	t.Parallel()
	locked, other := testenv.StartRedis(t), testenv.StartRedis(t)
	c := client(t, locked)
	secure := func(password string) {
		t.Helper()
		if err := c.ConfigSet(t.Context(), "requirepass", password).Err(); err != nil {
			t.Fatal(err)
		}
	}
	secure("old")
	g := open(t, "redis://:old@"+strings.TrimPrefix(locked.URL(), "redis://"), other.URL())
	b := item(t)
	buckets := []inventory.BucketID{b, {Item: b.Item, Shard: 1}}
	for _, b := range buckets {
		if err := g.Install(t.Context(), b, inventory.Level{Epoch: 1, Available: 2}, nil); err != nil {
			t.Fatal(err)
		}
	}
	secure("new")
	if err := c.ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes").Err(); err != nil {
		t.Fatal(err)
	}
	levels, err := g.Levels(t.Context(), buckets)
	if err != nil || !levels[0].Away || levels[1] != (inventory.Level{Epoch: 1, Available: 2}) {
		t.Errorf("levels %+v, %v; want the first away", levels, err)
	}
	wantTake(t, g, take(b, 1), inventory.ErrUnavailable)
	secure("old")
	wantTake(t, g, take(b, 1), nil)
	levels, err = g.Levels(t.Context(), buckets)
	if want := (inventory.Level{Epoch: 1, Available: 1, Pending: 1}); err != nil || levels[0] != want {
		t.Errorf("let in again: %+v, %v; want %+v", levels, err, want)
	}
}

func TestUnsuitableServers(t *testing.T) {
	t.Parallel()
	r := testenv.StartRedis(t)
	if err := client(t, r).ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := redisstock.Open(t.Context(), []string{r.URL()}, redisstock.Options{}); !errors.Is(err, redisstock.ErrUnsuitable) {
		t.Fatalf("a server that evicts: %v", err)
	}
	replica := testenv.StartRedis(t)
	if err := client(t, replica).ReplicaOf(t.Context(), "127.0.0.1", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := redisstock.Open(t.Context(), []string{replica.URL()}, redisstock.Options{}); !errors.Is(err, redisstock.ErrUnsuitable) {
		t.Fatalf("a replica: %v", err)
	}
}

func BenchmarkTake(b *testing.B) {
	g, err := redisstock.Open(b.Context(), testenv.Redis(b, 1), redisstock.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	bucket := inventory.BucketID{Item: inventory.ItemID{Sale: id.Derive("bench"), SKU: "A"}}
	if err := g.Install(b.Context(), bucket, inventory.Level{Epoch: 1, Available: 1 << 40}, nil); err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			k := take(bucket, 1)
			k.User = k.ID
			if _, err := g.Take(b.Context(), k); err != nil {
				b.Error(err)
			}
		}
	})
}
