package redisstock

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/testenv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// afterInfo does something when a server has said what it is.
type afterInfo struct {
	redis.Hook
	do func()
}

// DialHook implements redis.Hook.
func (afterInfo) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessPipelineHook implements redis.Hook.
func (afterInfo) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// ProcessHook implements redis.Hook.
func (h afterInfo) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if cmd.Name() == "info" {
			h.do()
		}
		return err
	}
}

// TestScriptsOfOneRun: a server restarts with an old snapshot while the scripts are being made for it. Those of the run that
// is over do not come into the cache of the new one, where the snapshot would be valid for them.
func TestScriptsOfOneRun(t *testing.T) {
	t.Parallel()
	r := testenv.StartRedis(t)
	var gates [2]*Gate
	for i := range gates {
		g, err := Open(t.Context(), []string{r.URL()}, Options{Timeout: 20 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(g.Close)
		gates[i] = g
	}
	b := inventory.BucketID{Item: inventory.ItemID{Sale: id.Derive(t.Name()), SKU: "A"}}
	take := func(g *Gate) error {
		now := time.Now()
		_, err := g.Take(t.Context(), inventory.Take{ID: id.New(now), Bucket: b, Epoch: 1, User: id.Derive("u"), Qty: 1, Deadline: now.Add(time.Minute)})
		return err
	}
	if err := gates[0].Install(t.Context(), b, inventory.Level{Epoch: 1, Available: 1}, nil); err != nil {
		t.Fatal(err)
	}
	c := gates[0].shards[0].client
	if err := c.Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if err := take(gates[0]); err != nil { // the last unit; the snapshot has it still
		t.Fatal(err)
	}
	var first sync.Once
	asked, restarted := make(chan bool), make(chan bool)
	gates[1].shards[0].client.AddHook(afterInfo{do: func() {
		first.Do(func() {
			asked <- true
			<-restarted
		})
	}})
	answer := make(chan error, 1)
	go func() { answer <- take(gates[1]) }()
	<-asked
	r.Kill()
	r.Start()
	close(restarted)
	if err := <-answer; !errors.Is(err, inventory.ErrUnavailable) {
		t.Errorf("a take while the server restarts: %v, want %v", err, inventory.ErrUnavailable)
	}
	if n := c.DBSize(t.Context()).Val(); n == 0 {
		t.Fatal("the snapshot was not loaded: the test shows nothing")
	}
	for _, g := range gates {
		if err := take(g); !errors.Is(err, inventory.ErrClosed) {
			t.Errorf("a take behind it: %v, want %v", err, inventory.ErrClosed)
		}
	}
}
