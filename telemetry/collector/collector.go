// Package collector reads CPU and memory of this process and its host, and writes them to InfluxDB
// 2.7, or 1.8 by its 2.x API. Nothing waits for it: samples are kept in a bounded buffer while InfluxDB
// is away or slow, and written when it is back.
package collector

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	influxdb "github.com/influxdata/influxdb-client-go/v2"
	"github.com/influxdata/influxdb-client-go/v2/api"
	influxhttp "github.com/influxdata/influxdb-client-go/v2/api/http"
	"github.com/influxdata/influxdb-client-go/v2/api/write"
)

// Options are what a Collector needs; all must be set but Org and Token, and the bounds, whose zero
// values mean their default.
type Options struct {
	URL    string // of InfluxDB
	Token  string // user:password for 1.8
	Org    string // not read by 1.8
	Bucket string // database/retention-policy for 1.8

	Service  string // the roles of this process
	Instance string // which of those with the same roles
	Wiring   string // sync or async

	Every  time.Duration // between samples
	Flush  time.Duration // between writes; 5 s
	Batch  int           // samples of one write at most; 500
	Buffer int           // samples kept while they cannot be written; 10,000, about 2 MB
	Root   fs.FS         // the file system with /proc and /sys
	Clock  func() time.Time
	Log    *slog.Logger
}

// Collector samples and writes. Run it, then read its Stats.
type Collector struct {
	opts    Options
	tags    map[string]string
	sampler *sampler
	client  influxdb.Client
	write   api.WriteAPIBlocking
	wake    chan struct{}

	mu      sync.Mutex
	waiting []sample
	stats   Stats
	away    bool
}

// Stats counts samples since the start.
type Stats struct {
	Read    int64
	Written int64
	Dropped int64 // the buffer was full, or InfluxDB refused them
	Waiting int   // now
	Away    bool  // the last write failed
}

const (
	writeBound = 5 * time.Second
	lastBound  = 2 * time.Second
	maxPause   = 6 // times Flush
)

// New returns a Collector that has not written anything yet. It does not ask InfluxDB for anything: a
// service starts without it.
func New(ctx context.Context, o Options) (*Collector, error) {
	if o.Flush == 0 {
		o.Flush = 5 * time.Second
	}
	if o.Batch == 0 {
		o.Batch = 500
	}
	if o.Buffer == 0 {
		o.Buffer = 10_000
	}
	s, err := newSampler(ctx, o.Root, o.Clock)
	if err != nil {
		return nil, err
	}
	c := &Collector{
		opts: o, sampler: s, wake: make(chan struct{}, 1),
		tags:   map[string]string{"service": o.Service, "instance": o.Instance, "wiring": o.Wiring},
		client: influxdb.NewClientWithOptions(o.URL, o.Token, influxdb.DefaultOptions().SetHTTPRequestTimeout(uint(writeBound.Seconds()))),
	}
	c.write = c.client.WriteAPIBlocking(o.Org, o.Bucket)
	return c, nil
}

// Tags returns the tags of every point.
func (c *Collector) Tags() map[string]string { return maps.Clone(c.tags) }

// Stats returns what was done so far.
func (c *Collector) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Waiting, s.Away = len(c.waiting), c.away
	return s
}

// Run samples and writes until ctx ends; then it takes a last sample and writes what waits, for at most two seconds.
func (c *Collector) Run(ctx context.Context) error {
	defer c.client.Close()
	ended := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() { c.writer(context.WithoutCancel(ctx), ended) })
	defer writing.Wait()
	defer close(ended)
	tick := time.NewTicker(c.opts.Every)
	defer tick.Stop()
	failing := false
	for {
		last := false
		select {
		case <-ctx.Done():
			last = true
		case <-tick.C:
		}
		v, err := c.sampler.read(context.WithoutCancel(ctx))
		switch {
		case err != nil && !failing:
			c.opts.Log.WarnContext(ctx, "CPU and memory cannot be read; it is tried again", "error", err)
		case err == nil:
			c.keep(v)
		}
		failing = err != nil
		if last {
			return nil
		}
	}
}

// keep adds a sample to what waits. When there is no room, the oldest goes: what happens now matters more.
func (c *Collector) keep(v sample) {
	c.mu.Lock()
	if over := len(c.waiting) + 1 - c.opts.Buffer; over > 0 {
		c.waiting = append(c.waiting[:0], c.waiting[over:]...)
		c.stats.Dropped += int64(over)
	}
	v.droppedSoFar = c.stats.Dropped
	c.stats.Read++
	c.waiting = append(c.waiting, v)
	full := len(c.waiting) >= c.opts.Batch
	c.mu.Unlock()
	if full {
		select {
		case c.wake <- struct{}{}:
		default: // the writer has been told
		}
	}
}

// writer writes what waits: every Flush, or at once when a batch is full, and a last time when sampling has
// ended. After a failure the pauses grow, full batch or not.
func (c *Collector) writer(ctx context.Context, ended <-chan struct{}) {
	pause := c.opts.Flush
	for {
		timer := time.NewTimer(pause)
		wake := c.wake
		if pause > c.opts.Flush {
			wake = nil
		}
		select {
		case <-timer.C:
		case <-wake:
		case <-ended:
			timer.Stop()
			last, cancel := context.WithTimeout(ctx, lastBound)
			defer cancel()
			c.flush(last)
			return
		}
		timer.Stop()
		if c.flush(ctx) {
			pause = c.opts.Flush
		} else {
			pause = min(2*pause, maxPause*c.opts.Flush)
		}
	}
}

// flush writes all that waits, batch after batch, and reports whether InfluxDB took it.
func (c *Collector) flush(ctx context.Context) bool {
	for {
		c.mu.Lock()
		batch := append([]sample(nil), c.waiting[:min(len(c.waiting), c.opts.Batch)]...)
		dropped := c.stats.Dropped
		c.mu.Unlock()
		if len(batch) == 0 {
			return true
		}
		points := make([]*write.Point, 0, 2*len(batch))
		for _, v := range batch {
			points = append(points, v.points(c.tags)...)
		}
		bound, cancel := context.WithTimeout(ctx, writeBound)
		err := c.write.WritePoint(bound, points...)
		cancel()
		refused := isRefused(err)
		c.mu.Lock()
		// The buffer may have overflown meanwhile: those of the batch that went then are gone already.
		gone := min(int(c.stats.Dropped-dropped), len(batch))
		switch {
		case err == nil:
			c.stats.Written += int64(len(batch))
			c.stats.Dropped -= int64(gone)
		case refused:
			c.stats.Dropped += int64(len(batch) - gone)
		}
		if err == nil || refused {
			c.waiting = append(c.waiting[:0], c.waiting[len(batch)-gone:]...)
		}
		was := c.away
		c.away = err != nil
		waiting, lost := len(c.waiting), c.stats.Dropped
		c.mu.Unlock()
		c.tell(ctx, was, err, refused, waiting, lost)
		if err != nil {
			return false
		}
	}
}

// isRefused reports whether InfluxDB has said that it will never take these points: repeating them would keep
// all others waiting.
func isRefused(err error) bool {
	var said *influxhttp.Error
	return errors.As(err, &said) && (said.StatusCode == http.StatusBadRequest || said.StatusCode == http.StatusUnprocessableEntity ||
		said.StatusCode == http.StatusRequestEntityTooLarge)
}

// tell logs a change of state, and nothing else.
func (c *Collector) tell(ctx context.Context, was bool, err error, refused bool, waiting int, dropped int64) {
	switch {
	case err != nil && !was && refused:
		c.opts.Log.WarnContext(ctx, "InfluxDB refuses samples, which are dropped; has the bucket fields of another type?", "bucket", c.opts.Bucket, "error", err)
	case err != nil && !was:
		c.opts.Log.WarnContext(ctx, "InfluxDB does not take samples; they are kept and written when it does. Check its URL, token, organisation and bucket",
			"url", c.opts.URL, "bucket", c.opts.Bucket, "kept_at_most", c.opts.Buffer, "error", err)
	case err == nil && was:
		c.opts.Log.InfoContext(ctx, "InfluxDB takes samples again", "still_waiting", waiting, "dropped", dropped)
	}
}
