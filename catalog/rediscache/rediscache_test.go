package rediscache_test

import (
	"context"
	"errors"
	"flashsale/catalog/catalogtest"
	"flashsale/catalog/rediscache"
	"flashsale/testenv"
	"net"
	"testing"
	"time"
)

func open(t *testing.T, url, prefix string) *rediscache.Cache {
	t.Helper()
	c, err := rediscache.Open(url, prefix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestCache(t *testing.T) {
	t.Parallel()
	url := testenv.StartRedis(t).URL()
	// The server's clock is everybody's, and counts whole milliseconds.
	after := func(d time.Duration) { time.Sleep(d + 2*time.Millisecond) }
	catalogtest.ExerciseCache(t, func(t *testing.T) catalogtest.CacheUnderTest {
		return catalogtest.CacheUnderTest{Cache: open(t, url, t.Name()+":"), After: after}
	})
}

func TestPrefixesKeepCachesApart(t *testing.T) {
	t.Parallel()
	url := testenv.StartRedis(t).URL()
	a, b, shared := open(t, url, "a:"), open(t, url, "b:"), open(t, url, "a:")
	if err := a.Set(t.Context(), "key", []byte("v"), time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), "key"); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := b.Get(t.Context(), "key"); ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	if v, ok, err := shared.Get(t.Context(), "key"); string(v) != "v" || !ok || err != nil {
		t.Fatalf("%q, %v, %v", v, ok, err)
	}
}

func wantAway(t *testing.T, c *rediscache.Cache) {
	t.Helper()
	v, ok, err := c.Get(t.Context(), "key")
	if ok || err == nil {
		t.Fatalf("get: %q, %v, %v", v, ok, err)
	}
	if c.Set(t.Context(), "key", []byte("v"), time.Hour) == nil || c.Delete(t.Context(), "key") == nil {
		t.Fatal("a server that is away has taken something")
	}
}

func TestServerAway(t *testing.T) {
	t.Parallel()
	r := testenv.StartRedis(t)
	c := open(t, r.URL(), "p:")
	if err := c.Set(t.Context(), "key", []byte("v"), time.Hour); err != nil {
		t.Fatal(err)
	}
	r.Kill()
	start := time.Now()
	for range 2 {
		wantAway(t, c)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Fatalf("six calls that nobody answers took %s", took)
	}
	r.Start()
	// Connections of before may fail once each; then the cache is back, and empty.
	for range 50 {
		if v, ok, err := c.Get(t.Context(), "key"); err == nil {
			if ok {
				t.Fatalf("%q after the loss", v)
			}
			return
		}
	}
	t.Fatal("the cache does not come back")
}

// TestServerHangs: a server that takes the connection and never answers holds nobody up for long.
func TestServerHangs(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c := open(t, "redis://"+l.Addr().String()+"/0", "p:")
	start := time.Now()
	wantAway(t, c)
	if took := time.Since(start); took > 5*time.Second {
		t.Fatalf("three calls took %s", took)
	}
}

func TestCancelledBeforeTheServerIsAsked(t *testing.T) {
	t.Parallel()
	c := open(t, testenv.StartRedis(t).URL(), "p:")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, ok, err := c.Get(ctx, "key"); ok || !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, %v", ok, err)
	}
}

func TestBadURL(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "localhost:6379", "http://localhost", "redis://localhost/db"} {
		if c, err := rediscache.Open(url, ""); err == nil {
			_ = c.Close()
			t.Errorf("%q is taken", url)
		}
	}
}
