package redisstock

import (
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/testenv"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestWithoutMemory: a server at the end of its memory takes nothing more, and says so for certain only when it did nothing;
// what is overdue is still found and given back.
func TestWithoutMemory(t *testing.T) {
	t.Parallel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	g, err := Open(t.Context(), []string{testenv.StartRedis(t).URL()}, Options{})
	must(err)
	t.Cleanup(g.Close)
	s := g.shards[0]
	now := time.Now()
	of := func(sku string) inventory.BucketID {
		return inventory.BucketID{Item: inventory.ItemID{Sale: id.Derive(t.Name()), SKU: sku}}
	}
	take := func(sku, note string) inventory.Take {
		return inventory.Take{ID: id.New(now), Bucket: of(sku), Epoch: 1, User: id.Derive("u"), Qty: 1, Deadline: now, Note: note}
	}
	for _, sku := range []string{"A", "B"} {
		must(g.Install(t.Context(), of(sku), inventory.Level{Epoch: 1, Available: 3}, nil))
	}
	info, err := s.client.Info(t.Context(), "memory").Result()
	must(err)
	_, used, _ := strings.Cut(info, "used_memory:")
	used, _, _ = strings.Cut(used, "\r")
	n, err := strconv.Atoi(used)
	must(err)
	must(s.client.ConfigSet(t.Context(), "maxmemory", strconv.Itoa(n+500_000)).Err())
	// In one pipeline: the first script takes what it is to take, and for the second there is no room.
	small := take("A", "")
	said := g.takeGroup(t.Context(), s, []inventory.Take{small, take("B", strings.Repeat("n", 2_000_000))})
	if said[0].err != nil || !errors.Is(said[1].err, inventory.ErrUnavailable) {
		t.Errorf("a take: %v; one behind it, for which there is no room: %v, want %v", said[0].err, said[1].err, inventory.ErrUnavailable)
	}
	must(s.client.ConfigSet(t.Context(), "maxmemory", "1").Err())
	if _, err := g.Take(t.Context(), take("B", "")); !errors.Is(err, inventory.ErrUnavailable) {
		t.Errorf("a take without memory: %v, want %v", err, inventory.ErrUnavailable)
	}
	due, err := g.Overdue(t.Context(), of("A"), now.Add(time.Second), 10)
	if err != nil || len(due) != 1 || due[0].ID != small.ID {
		t.Fatalf("overdue: %d, %v", len(due), err)
	}
	if all, err := g.Withdraw(t.Context(), []inventory.TakeRef{due[0].TakeRef}); err != nil || all {
		t.Errorf("withdrawn %t, %v, although it was handed over", all, err)
	}
	must(g.Abort(t.Context(), []inventory.TakeRef{due[0].TakeRef}))
	must(s.client.ConfigSet(t.Context(), "maxmemory", "0").Err())
	for range 3 { // all of them are there again
		if _, err := g.Take(t.Context(), take("A", "")); err != nil {
			t.Error(err)
		}
	}
}
