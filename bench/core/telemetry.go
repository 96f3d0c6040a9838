package main

import (
	"context"
	"errors"
	"flashsale/bench/lab"
	"flashsale/bench/testbed"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// The names of the shops of figure telemetry.
const (
	bare    = "bare"
	watched = "watched"
	traced  = "traced"
)

// telemetry measures what it costs to be seen: the same reservations in a shop that nobody watches, in one with
// metrics and the collector of CPU and memory, and in one that keeps one trace in a hundred besides. Each shop has a process and
// databases of its own, and the others rest while one is measured.
func (b *bench) telemetry(ctx context.Context) ([]lab.Figure, error) {
	if b.shop != nil {
		if err := b.shop.Pause(); err != nil {
			return nil, err
		}
	}
	sink, err := startSink(ctx)
	if err != nil {
		return nil, err
	}
	defer sink.close()
	shops := map[string]*lab.World{}
	admin := map[string]int{}
	for _, name := range []string{bare, watched, traced} {
		b.lab.Say.Step("telemetry: starting the shop %s", name)
		w, err := b.lab.NewWorld(ctx, name, b.shards())
		if err != nil {
			return nil, err
		}
		if name != bare {
			if admin[name], err = testbed.FreePort(ctx); err != nil {
				return nil, err
			}
			w.More = []string{fmt.Sprintf("FLASHSALE_ADMIN_LISTEN=127.0.0.1:%d", admin[name]), "INFLUX_URL=" + sink.url}
		}
		if name == traced {
			w.More = append(w.More, "FLASHSALE_OTLP_ENDPOINT="+sink.url, "FLASHSALE_TRACE_RATIO=0.01")
		}
		if _, err := w.Start(ctx, 0); err != nil {
			return nil, err
		}
		shops[name] = w
		if _, err := b.watchedRound(ctx, w, admin[name], &sink.scrapes, time.Second); err != nil { // warm
			return nil, err
		}
		if err := w.Pause(); err != nil {
			return nil, err
		}
	}
	side := func(name string) func(context.Context) (lab.Measured, error) {
		return func(ctx context.Context) (lab.Measured, error) {
			w := shops[name]
			if err := w.Resume(); err != nil {
				return lab.Measured{}, err
			}
			m, err := b.watchedRound(ctx, w, admin[name], &sink.scrapes, b.opts.round)
			return m, errors.Join(err, w.Pause())
		}
	}
	var figures []lab.Figure
	for _, one := range []struct {
		shop, what string
		least      float64
	}{{watched, "with metrics and the collector", 0.97}, {traced, "with metrics, collector and 1 % tracing", 0.95}} {
		bases, ms, err := b.lab.Interleave(ctx, b.opts.repeats, "telemetry, "+one.shop, side(bare), side(one.shop))
		if err != nil {
			return figures, err
		}
		rates := lab.Compare("reservations "+one.what, "durable reservations/s", "the same service with none of it", bases, ms, lab.Rate).NoLessThan(one.least)
		cost := lab.Compare("CPU of a reservation "+one.what, "µs, service + PostgreSQL + Redis", "the same service with none of it", bases, ms,
			func(m lab.Measured) float64 { return m.Cost("service", "PostgreSQL", "Redis") })
		cost.Stock, cost.CPU = nil, nil
		cost.Notes = append(cost.Notes, "steadier than a rate when the machine does other things; a reading of the metrics a round is in it, whatever the rate")
		figures = append(figures, rates, cost)
	}
	if n := sink.scrapes.Load(); n == 0 || sink.samples.Load() == 0 || sink.spans.Load() == 0 {
		return figures, fmt.Errorf("telemetry was not on: %d scrapes, %d writes to InfluxDB, %d to the receiver of traces", n, sink.samples.Load(), sink.spans.Load())
	}
	for _, w := range shops { // for the audit
		if err := w.Resume(); err != nil {
			return figures, err
		}
	}
	return figures, nil
}

// scrapeEvery is how often Prometheus reads, as in deploy/prometheus/prometheus.yml; and once as a round begins.
const scrapeEvery = 5 * time.Second

// watchedRound is a round of reservations in a new sale, read by a Prometheus if it has a port for it.
func (b *bench) watchedRound(ctx context.Context, w *lab.World, admin int, scrapes *atomic.Int64, d time.Duration) (lab.Measured, error) {
	g, err := w.Sale(ctx, lab.MaxStock)
	if err != nil {
		return lab.Measured{}, err
	}
	var reading sync.WaitGroup
	var failed error
	done := make(chan struct{})
	if admin > 0 {
		reading.Go(func() {
			for {
				status, _, err := lab.Call(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", admin), "", nil, nil)
				if err != nil || status != http.StatusOK {
					failed = errors.Join(fmt.Errorf("metrics: status %d", status), err)
					return
				}
				scrapes.Add(1)
				select {
				case <-done:
					return
				case <-time.After(scrapeEvery):
				}
			}
		})
	}
	m, err := b.lab.Reservations(ctx, w, w.Instances[0].Port, g, g.Bodies(), d)
	close(done)
	reading.Wait()
	return m, errors.Join(err, failed)
}

// sink takes what services write about themselves, in place of InfluxDB and of a receiver of traces, whose own costs are no
// part of the figure.
type sink struct {
	url            string
	server         *http.Server
	samples, spans atomic.Int64 // requests
	scrapes        atomic.Int64 // of metrics, by us
}

func startSink(ctx context.Context) (*sink, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &sink{url: "http://" + l.Addr().String()}
	s.server = &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/v1/traces" {
			s.spans.Add(1)
			return
		}
		s.samples.Add(1)
		w.WriteHeader(http.StatusNoContent)
	})}
	go func() { _ = s.server.Serve(l) }()
	return s, nil
}

func (s *sink) close() { _ = s.server.Close() }
