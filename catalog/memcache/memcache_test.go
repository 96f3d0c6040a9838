package memcache_test

import (
	"flashsale/catalog/catalogtest"
	"flashsale/catalog/memcache"
	"sync/atomic"
	"testing"
	"time"
)

// clock stands still until it is moved.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time        { return time.Unix(1_800_000_000, c.ahead.Load()) }
func (c *clock) after(d time.Duration) { c.ahead.Add(int64(d)) }

func TestCache(t *testing.T) {
	t.Parallel()
	catalogtest.ExerciseCache(t, func(*testing.T) catalogtest.CacheUnderTest {
		var c clock
		return catalogtest.CacheUnderTest{Cache: memcache.New(100, c.now), After: c.after}
	})
}

func set(t *testing.T, c *memcache.Cache, keys ...string) {
	t.Helper()
	for _, k := range keys {
		if err := c.Set(t.Context(), k, []byte(k), time.Second); err != nil {
			t.Fatal(err)
		}
	}
}

func has(t *testing.T, c *memcache.Cache, key string) bool {
	t.Helper()
	v, ok, err := c.Get(t.Context(), key)
	if err != nil || ok && string(v) != key {
		t.Fatalf("%s: %q, %v", key, v, err)
	}
	return ok
}

func TestTheLeastRecentlyUsedGoesFirst(t *testing.T) {
	t.Parallel()
	var now clock
	c := memcache.New(3, now.now)
	set(t, c, "a", "b", "c")
	set(t, c, "b", "b") // again: takes no second place
	if !has(t, c, "a") {
		t.Fatal("three fit")
	}
	set(t, c, "d")
	for key, want := range map[string]bool{"a": true, "b": true, "c": false, "d": true} {
		if has(t, c, key) != want {
			t.Errorf("%s: %v, want %v", key, !want, want)
		}
	}
	set(t, c, "e", "f", "g")
	for key, want := range map[string]bool{"a": false, "b": false, "d": false, "e": true, "f": true, "g": true} {
		if has(t, c, key) != want {
			t.Errorf("%s: %v, want %v", key, !want, want)
		}
	}
}

func TestTheLastMoment(t *testing.T) {
	t.Parallel()
	var now clock
	c := memcache.New(3, now.now)
	set(t, c, "a")
	now.after(time.Second - 1)
	if !has(t, c, "a") {
		t.Fatal("gone before its time")
	}
	now.after(1)
	if has(t, c, "a") {
		t.Fatal("there after its time")
	}
}
