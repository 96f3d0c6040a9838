// Package memcache is the catalogue's cache in memory, for one process.
package memcache

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// Cache implements catalog.Cache. It forgets the least recently used beyond its size.
type Cache struct {
	size  int
	clock func() time.Time

	mu   sync.Mutex
	keys map[string]*list.Element
	used *list.List // the most recent first
}

type entry struct {
	key   string
	value []byte
	until time.Time
}

// New returns a cache of at most size entries.
func New(size int, clock func() time.Time) *Cache {
	return &Cache{size: size, clock: clock, keys: map[string]*list.Element{}, used: list.New()}
}

// Get implements catalog.Cache.
func (c *Cache) Get(_ context.Context, key string) ([]byte, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.keys[key]
	if !ok {
		return nil, false, nil
	}
	e := el.Value.(*entry)
	if !c.clock().Before(e.until) {
		c.drop(el)
		return nil, false, nil
	}
	c.used.MoveToFront(el)
	return e.value, true, nil
}

// Set implements catalog.Cache.
func (c *Cache) Set(_ context.Context, key string, value []byte, ttl time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.keys[key]; ok {
		c.drop(el)
	}
	c.keys[key] = c.used.PushFront(&entry{key: key, value: value, until: c.clock().Add(ttl)})
	for c.used.Len() > c.size {
		c.drop(c.used.Back())
	}
	return nil
}

// Delete implements catalog.Cache.
func (c *Cache) Delete(_ context.Context, keys ...string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range keys {
		if el, ok := c.keys[k]; ok {
			c.drop(el)
		}
	}
	return nil
}

func (c *Cache) drop(el *list.Element) {
	delete(c.keys, c.used.Remove(el).(*entry).key)
}
