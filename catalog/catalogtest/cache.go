package catalogtest

import (
	"bytes"
	"context"
	"flashsale/catalog"
	"fmt"
	"sync"
	"testing"
	"time"
)

// CacheUnderTest is an empty cache with what the suite needs to try it.
type CacheUnderTest struct {
	catalog.Cache
	// After returns once the cache's clock has moved on by at least d.
	After func(d time.Duration)
}

// moment is how long values are kept in the suite, short enough to wait for.
const moment = 30 * time.Millisecond

// ExerciseCache runs the suite; open returns an empty cache of at least a hundred entries.
func ExerciseCache(t *testing.T, open func(t *testing.T) CacheUnderTest) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, CacheUnderTest){
		"what was set is got":       cacheSetGet,
		"a value has its time":      cacheExpiry,
		"no time is not for ever":   cacheNoTime,
		"deleted":                   cacheDelete,
		"a cancelled context":       cacheCancelled,
		"a crowd mixes nothing up":  cacheCrowd,
		"keys are told apart":       cacheKeys,
		"what is not there, ever":   cacheMiss,
		"set again, with more time": cacheLonger,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func wantValue(t testing.TB, c CacheUnderTest, key, want string) {
	t.Helper()
	if got, ok, err := c.Get(t.Context(), key); err != nil || !ok || string(got) != want {
		t.Fatalf("%q is %q, %v, %v; want %q", key, got, ok, err, want)
	}
}

func wantMiss(t testing.TB, c CacheUnderTest, key string) {
	t.Helper()
	if got, ok, err := c.Get(t.Context(), key); err != nil || ok || got != nil {
		t.Fatalf("%q is %q, %v, %v; want a miss", key, got, ok, err)
	}
}

func cacheSetGet(t *testing.T, c CacheUnderTest) {
	big := string(bytes.Repeat([]byte("0123456789abcdef"), 1<<14))
	for _, v := range []string{"one", "two", "", "\x00\xff\r\n", big} {
		must(t, c.Set(t.Context(), "key", []byte(v), time.Hour))
		wantValue(t, c, "key", v)
		wantValue(t, c, "key", v) // reading takes nothing away
	}
}

func cacheMiss(t *testing.T, c CacheUnderTest) {
	wantMiss(t, c, "key")
	wantMiss(t, c, "")
}

func cacheKeys(t *testing.T, c CacheUnderTest) {
	keys := []string{"", "a", "A", "a ", "a*", "list:{\"After\":\"\"}", "ключ", "a\r\nDEL a"}
	for _, k := range keys {
		must(t, c.Set(t.Context(), k, []byte("value of "+k), time.Hour))
	}
	for _, k := range keys {
		wantValue(t, c, k, "value of "+k)
	}
}

func cacheExpiry(t *testing.T, c CacheUnderTest) {
	must(t, c.Set(t.Context(), "short", []byte("v"), moment))
	must(t, c.Set(t.Context(), "tiny", []byte("v"), time.Microsecond))
	must(t, c.Set(t.Context(), "long", []byte("v"), time.Hour))
	c.After(moment)
	wantMiss(t, c, "short")
	wantMiss(t, c, "tiny")
	wantValue(t, c, "long", "v")
	must(t, c.Set(t.Context(), "short", []byte("again"), time.Hour))
	wantValue(t, c, "short", "again")
}

func cacheLonger(t *testing.T, c CacheUnderTest) {
	must(t, c.Set(t.Context(), "key", []byte("old"), moment))
	must(t, c.Set(t.Context(), "key", []byte("new"), time.Hour))
	c.After(moment)
	wantValue(t, c, "key", "new")
	must(t, c.Set(t.Context(), "key", []byte("newer"), moment))
	c.After(moment)
	wantMiss(t, c, "key")
}

func cacheNoTime(t *testing.T, c CacheUnderTest) {
	for _, ttl := range []time.Duration{0, -1, -time.Hour} {
		must(t, c.Set(t.Context(), "key", []byte("old"), time.Hour))
		must(t, c.Set(t.Context(), "key", []byte("new"), ttl))
		wantMiss(t, c, "key")
	}
}

func cacheDelete(t *testing.T, c CacheUnderTest) {
	for _, k := range []string{"a", "b", "c"} {
		must(t, c.Set(t.Context(), k, []byte(k), time.Hour))
	}
	must(t, c.Delete(t.Context()))
	must(t, c.Delete(t.Context(), "a", "unknown", "b", "a"))
	wantMiss(t, c, "a")
	wantMiss(t, c, "b")
	wantValue(t, c, "c", "c")
}

// cacheCancelled: a cache may answer all the same, but never wrongly, and others notice nothing.
func cacheCancelled(t *testing.T, c CacheUnderTest) {
	must(t, c.Set(t.Context(), "key", []byte("v"), time.Hour))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if got, ok, err := c.Get(gone, "key"); ok != (err == nil) || ok && string(got) != "v" {
		t.Fatalf("%q, %v, %v", got, ok, err)
	}
	want := "w"
	if c.Set(gone, "key", []byte("w"), time.Hour) != nil {
		want = "v"
	}
	wantValue(t, c, "key", want)
	if c.Delete(gone, "key") == nil {
		wantMiss(t, c, "key")
	} else {
		wantValue(t, c, "key", want)
	}
	must(t, c.Set(t.Context(), "key", []byte("x"), time.Hour))
	wantValue(t, c, "key", "x")
}

func cacheCrowd(t *testing.T, c CacheUnderTest) {
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for n := range 50 {
				key := fmt.Sprint("key", (w+n)%5)
				if err := c.Set(t.Context(), key, []byte(key), time.Hour); err != nil {
					t.Error(err)
				}
				if got, ok, err := c.Get(t.Context(), key); err != nil || ok && string(got) != key {
					t.Errorf("%s: %q, %v", key, got, err)
				}
				if n%7 == 0 {
					if err := c.Delete(t.Context(), key); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	must(t, c.Set(t.Context(), "key0", []byte("last"), time.Hour))
	wantValue(t, c, "key0", "last")
}
