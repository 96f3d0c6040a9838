package main

import (
	"context"
	"flashsale/bench/journey"
	"flashsale/testenv"
	"net/http"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// TestGateLosesMemory: in the middle of a sale on real servers the gate's shards are flushed, killed
// and started empty, started from a stale snapshot, and one is killed for good. Nothing is oversold,
// nothing acknowledged is lost, and every unit is sold in the end.
func TestGateLosesMemory(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Sync, Async} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			cfg := serverConfig(t, mode)
			shards := []*testenv.RedisServer{testenv.StartRedis(t), testenv.StartRedis(t), testenv.StartRedis(t)}
			cfg.RedisURLs = nil
			for _, s := range shards {
				cfg.RedisURLs = append(cfg.RedisURLs, s.URL())
			}
			cfg.ShardDeadAfter, cfg.AdminListen = 500*time.Millisecond, "127.0.0.1:0"
			h := &house{}
			a := h.run(t, cfg)
			h.base, h.audit, h.sales = a.url(), a.audit, a.saleReader()
			const stock, shoppers = 90, 180
			c := crowd(h, stock, shoppers)
			t.Cleanup(c.Client.CloseIdleConnections)
			sale, err := journey.OpenSale(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			run := journey.New(c, sale)
			done := make(chan journey.Result, 1)
			go func() { done <- run.Do(t.Context()) }()
			for i, lose := range []func(){
				func() { command(t, shards[0], "FLUSHALL") },
				func() { shards[1].Kill(); shards[1].Start() },
				func() { command(t, shards[2], "SAVE") }, // a snapshot that will be stale
				func() { shards[2].Kill(); shards[2].Start() },
				func() { shards[0].Kill() }, // for good
			} {
				waitDone(t, run, (i+1)*shoppers/8)
				lose()
			}
			res := <-done
			sellOut(t, c, sale, res.SoldUnits)
			states := finalStates(t, h, run, sale, res)
			if want := "sold 90 held 0 available 0 oversold 0 lost 0 undecided 0 unexpected 0 clean true"; states != want {
				t.Fatalf("final states: %s\nwant:         %s\n%v", states, want, res.Errors)
			}
			// Operators see each: a bucket a shard was new, the flushed and the restarted ones were empty.
			seen := look(t.Context(), c.Client, []string{"http://" + a.admin.Addr().String() + "/metrics"}).sum("flashsale_gate_recoveries_total", "reason")
			if seen["new"] != 3 || seen["empty"]+seen["stale"] < 3 {
				t.Errorf("recoveries seen: %v", seen)
			}
		})
	}
}

// TestReadiness: /readyz says no while no shard of the gate answers, and yes again when one does.
func TestReadiness(t *testing.T) {
	t.Parallel()
	cfg := serverConfig(t, Sync)
	shard := testenv.StartRedis(t)
	cfg.RedisURLs = []string{shard.URL()}
	a := (&house{}).run(t, cfg)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	p := person{t: t, client: client, base: a.url()}
	until := func(status int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for p.do("GET", "/readyz", nil).status != status {
			if ctx.Err() != nil {
				t.Fatalf("/readyz is never %d", status)
			}
		}
	}
	until(http.StatusOK)
	shard.Kill()
	until(http.StatusServiceUnavailable)
	p.want(http.StatusOK, "", "GET", "/healthz", nil)
	shard.Start()
	until(http.StatusOK)
}

func command(t *testing.T, s *testenv.RedisServer, name string) {
	t.Helper()
	o, err := redis.ParseURL(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(o)
	defer func() { _ = client.Close() }()
	if err := client.Do(t.Context(), name).Err(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}
