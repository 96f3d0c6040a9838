package main

import (
	"context"
	"errors"
	"flashsale/bench/lab"
	"flashsale/bench/testbed"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/inventory/redisstock"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// bench is a Redis server with one installed bucket, to take from.
type takeBench struct {
	lab    *lab.Lab
	url    string
	port   string
	pid    int
	gate   *redisstock.Gate
	raw    *redis.Client
	bucket inventory.BucketID
	prefix string // of the bucket's keys
	sha    string // of the script that the gate runs
	epoch  int64
}

const takers = 1024 // goroutines

func newTakeBench(ctx context.Context, l *lab.Lab) (*takeBench, error) {
	n, err := l.StartRedis(ctx)
	if err != nil {
		return nil, err
	}
	t := &takeBench{lab: l, url: l.RedisURL[n], pid: l.Redis[n].PID()}
	opts, err := redis.ParseURL(t.url)
	if err != nil {
		return nil, err
	}
	_, t.port, _ = strings.Cut(opts.Addr, ":")
	t.raw = redis.NewClient(opts)
	t.gate, err = redisstock.Open(ctx, []string{t.url}, redisstock.Options{})
	return t, err
}

func (t *takeBench) close() {
	if t.gate != nil {
		t.gate.Close()
	}
	_ = t.raw.Close()
}

// reset empties the server and installs a bucket that cannot run dry.
func (t *takeBench) reset(ctx context.Context) error {
	if err := t.raw.FlushAll(ctx).Err(); err != nil {
		return err
	}
	t.bucket = inventory.BucketID{Item: inventory.ItemID{Sale: id.New(time.Now()), SKU: "ITEM"}}
	t.epoch = 1
	if err := t.gate.Install(ctx, t.bucket, inventory.Level{Epoch: t.epoch, Available: 1 << 40}, nil); err != nil {
		return err
	}
	keys, err := t.raw.Keys(ctx, "fs:*:m").Result()
	if err != nil || len(keys) != 1 {
		return fmt.Errorf("expected the keys of one bucket, found %v: %w", keys, err)
	}
	t.prefix = strings.TrimSuffix(keys[0], "m")
	return t.findScript(ctx)
}

// findScript makes the text of the take script as the gate does and checks that it is the one that
// the gate has loaded: both sides must run the same.
func (t *takeBench) findScript(ctx context.Context) error {
	source, err := os.ReadFile(filepath.Join(t.lab.Root, "inventory", "redisstock", "scripts", "take.lua"))
	if err != nil {
		return err
	}
	info, err := t.raw.Info(ctx, "server").Result()
	if err != nil {
		return err
	}
	run := infoValue(info, "run_id")
	t.sha = redis.NewScript("local RUN = '" + run + "'\n" + string(source)).Hash()
	there, err := t.raw.ScriptExists(ctx, t.sha).Result()
	if err != nil || len(there) != 1 || !there[0] {
		return fmt.Errorf("the gate runs another script than take.lua with its server's run id: the baseline must be made like it: %w", err)
	}
	return nil
}

func infoValue(info, name string) string {
	for line := range strings.SplitSeq(info, "\r\n") {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return v
		}
	}
	return ""
}

// benchmark runs redis-benchmark for about d, given a rate to expect.
func (t *takeBench) benchmark(ctx context.Context, expect float64, d time.Duration) (float64, error) {
	if err := t.reset(ctx); err != nil {
		return 0, err
	}
	n := int64(max(10_000, expect*d.Seconds()))
	bound, cancel := context.WithTimeout(ctx, 10*d+30*time.Second)
	defer cancel()
	text, _, err := testbed.Output(bound, testbed.BaseEnv(), nil, "redis-benchmark", "-p", t.port, "-c", "50", "-P", "64", "-n", strconv.FormatInt(n, 10),
		"-r", "1000000000", "--csv", "EVALSHA", t.sha, "5", t.prefix+"m", t.prefix+"p", t.prefix+"d", t.prefix+"u:"+strconv.FormatInt(t.epoch, 10), t.prefix+"s",
		strconv.FormatInt(t.epoch, 10), "604800", "bench", "1", "0", "01900000-0000-7000-8000-__rand_int__", "01900000-0000-7000-9000-__rand_int__", "1", "10",
		strconv.FormatInt(time.Now().Add(30*time.Second).UnixMilli(), 10), "")
	if err != nil {
		return 0, err
	}
	rate, err := parseRedisBenchmark(text)
	if err != nil {
		return 0, err
	}
	level, err := t.gate.Levels(ctx, []inventory.BucketID{t.bucket})
	if err != nil {
		return 0, err
	}
	// Random ids meet now and then; a take that met one is answered without a write.
	if level[0].Pending < n*98/100 {
		return 0, fmt.Errorf("of %d takes by redis-benchmark %d are pending: it did not run the same", n, level[0].Pending)
	}
	return rate, nil
}

// takes takes through the gate's contract for d.
func (t *takeBench) takes(ctx context.Context, d time.Duration) (float64, error) {
	if err := t.reset(ctx); err != nil {
		return 0, err
	}
	count, took, _, err := t.take(ctx, 1<<40, d)
	if err != nil {
		return 0, err
	}
	level, err := t.gate.Levels(ctx, []inventory.BucketID{t.bucket})
	if err != nil {
		return 0, err
	}
	if level[0].Pending != count {
		return 0, fmt.Errorf("%d takes were answered and %d are pending", count, level[0].Pending)
	}
	return float64(count) / took.Seconds(), nil
}

// take takes up to most units from many goroutines, for at most d.
func (t *takeBench) take(ctx context.Context, most int64, d time.Duration) (count int64, took time.Duration, refs []inventory.TakeRef, err error) {
	var begun, done atomic.Int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	errs := make([]error, takers)
	began := time.Now()
	for i := range takers {
		wg.Go(func() {
			var mine []inventory.TakeRef
			for time.Since(began) < d && ctx.Err() == nil && begun.Add(1) <= most {
				now := time.Now()
				take := inventory.Take{
					ID: id.New(now), Bucket: t.bucket, Epoch: t.epoch, User: id.New(now), Qty: 1, Limit: 10, Deadline: now.Add(30 * time.Second),
				}
				if _, err := t.gate.Take(ctx, take); err != nil {
					errs[i] = err
					return
				}
				done.Add(1)
				if most < 1<<40 {
					mine = append(mine, inventory.TakeRef{ID: take.ID, Bucket: take.Bucket, Epoch: take.Epoch})
				}
			}
			mu.Lock()
			defer mu.Unlock()
			refs = append(refs, mine...)
		})
	}
	wg.Wait()
	return done.Load(), time.Since(began), refs, errors.Join(append(errs, ctx.Err())...)
}

// memory returns what Redis has allocated, bytes.
func (t *takeBench) memory(ctx context.Context) (int64, error) {
	info, err := t.raw.Info(ctx, "memory").Result()
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(infoValue(info, "used_memory"), 10, 64)
}
