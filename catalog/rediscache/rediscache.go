// Package rediscache is the catalogue's cache in Redis, shared by several processes.
package rediscache

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// Cache implements catalog.Cache on a Redis server.
type Cache struct {
	client *redis.Client
	prefix string
}

// Open returns a cache on the server of the URL. The server need not answer yet: what it does not
// answer in time is a miss.
func Open(url, prefix string) (*Cache, error) {
	opt, err := redis.ParseURL(url)
	if err != nil {
		return nil, errors.New("cache: the URL is not valid (want redis://host:port/0)") // its error would show the password
	}
	opt.DialTimeout, opt.ReadTimeout, opt.WriteTimeout = 200*time.Millisecond, 100*time.Millisecond, 100*time.Millisecond
	opt.MaxRetries, opt.DialerRetries = -1, 1 // a miss is cheaper than a retry
	return &Cache{client: redis.NewClient(opt), prefix: prefix}, nil
}

// Close closes the connections.
func (c *Cache) Close() error { return c.client.Close() }

// Get implements catalog.Cache.
func (c *Cache) Get(ctx context.Context, key string) ([]byte, bool, error) {
	b, err := c.client.Get(ctx, c.prefix+key).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, false, nil
	}
	return b, err == nil, err
}

// Set implements catalog.Cache.
func (c *Cache) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if ttl < time.Millisecond { // Redis counts milliseconds, and takes none for no end
		return c.Delete(ctx, key)
	}
	return c.client.Set(ctx, c.prefix+key, value, ttl).Err()
}

// Delete implements catalog.Cache.
func (c *Cache) Delete(ctx context.Context, keys ...string) error {
	if len(keys) == 0 {
		return nil
	}
	full := make([]string, len(keys))
	for i, k := range keys {
		full[i] = c.prefix + k
	}
	return c.client.Del(ctx, full...).Err()
}
