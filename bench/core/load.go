package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Stock says what became of the units, beside every speed.
type Stock struct {
	Acknowledged int64 `json:"acknowledged"` // that the client saw
	Reserved     int64 `json:"reserved"`     // in the ledger: also what was under way when the client left
	Oversold     int64 `json:"oversold"`
	Stranded     int64 `json:"stranded"`
	Lost         int64 `json:"lost"` // acknowledged and not in the ledger
}

func (s Stock) clean() bool { return s.Oversold == 0 && s.Stranded == 0 && s.Lost == 0 }

func (s *Stock) add(o Stock) {
	s.Acknowledged += o.Acknowledged
	s.Reserved += o.Reserved
	s.Oversold += o.Oversold
	s.Stranded += o.Stranded
	s.Lost += o.Lost
}

// stockOf compares what the client saw with the ledger and the gate. before is the balance that the
// round began with.
func stockOf(acknowledged int64, before, after balance) Stock {
	s := Stock{Acknowledged: acknowledged, Reserved: after.held + after.sold - before.held - before.sold}
	free := after.granted - after.held - after.sold
	s.Oversold = max(0, -free) + max(0, after.available-max(free, 0))
	s.Stranded = max(0, free-after.available)
	s.Lost = max(0, acknowledged-s.Reserved)
	return s
}

// usage is the CPU time that each part has used.
type usage map[string]time.Duration

// parts names whose CPU time is read.
func (l *lab) parts(w *world) map[string][]int {
	m := map[string][]int{"PostgreSQL": {l.postgres.pid()}, "nginx": {l.nginx.pid()}, "echo": {l.echo.pid()}}
	if w != nil {
		for _, i := range w.instances {
			m["service"] = append(m["service"], i.pid())
		}
		for _, r := range w.redis {
			m["Redis"] = append(m["Redis"], r.pid())
		}
	}
	return m
}

// The machine as a whole, and this program.
const (
	machine = "machine"
	harness = "harness"
)

func read(parts map[string][]int) (usage, error) {
	u := usage{}
	for name, pids := range parts {
		t, err := cpuOf(pids...)
		if err != nil {
			return nil, err
		}
		u[name] = t
	}
	t, err := machineBusy()
	if err != nil {
		return nil, err
	}
	u[machine] = t
	var self syscall.Rusage
	err = syscall.Getrusage(syscall.RUSAGE_SELF, &self)
	u[harness] = time.Duration(self.Utime.Nano() + self.Stime.Nano())
	return u, err
}

func (u usage) since(before usage) usage {
	d := usage{}
	for k, v := range u {
		d[k] = v - before[k]
	}
	return d
}

// measured is one round of load.
type measured struct {
	rate     float64 // good answers a second
	good     int64
	refused  int64   // other answers
	failed   int64   // sockets, timeouts
	answers  float64 // a second, of both kinds
	p50, p99 time.Duration
	used     usage
	took     time.Duration
	stock    Stock
}

// cost returns the CPU time of some parts per good answer, in µs.
func (m measured) cost(parts ...string) float64 {
	var sum time.Duration
	for _, p := range parts {
		sum += m.used[p]
	}
	return float64(sum) / float64(time.Microsecond) / float64(max(m.good, 1))
}

// outside returns how many cores others used meanwhile. The kernel's own threads count among them.
func (m measured) outside() float64 {
	rest := m.used[machine]
	for k, v := range m.used {
		if k != machine {
			rest -= v
		}
	}
	return max(0, rest.Seconds()/m.took.Seconds())
}

const connections = 200

// wrk loads a port with reservation requests for goods.
func (l *lab) wrk(ctx context.Context, w *world, port int, bodies []string, d time.Duration) (measured, error) {
	l.rounds++
	name := "r" + strconv.Itoa(l.rounds)
	if err := l.round(name, bodies); err != nil {
		return measured{}, err
	}
	parts := l.parts(w)
	before, err := read(parts)
	if err != nil {
		return measured{}, err
	}
	began := time.Now()
	bound, cancel := context.WithTimeout(ctx, d+30*time.Second)
	defer cancel()
	text, cpu, err := output(bound, baseEnv(), nil, "wrk", "-t"+strconv.Itoa(wrkThreads), "-c"+strconv.Itoa(connections),
		fmt.Sprintf("-d%ds", max(1, int(d.Round(time.Second).Seconds()))), "--latency",
		"-s", filepath.Join(l.dir, "reserve.lua"), "http://127.0.0.1:"+strconv.Itoa(port), "--", l.dir, name)
	if err != nil {
		return measured{}, err
	}
	m := measured{took: time.Since(began)}
	after, err := read(parts)
	if err != nil {
		return m, err
	}
	r, err := parseWrk(text)
	if err != nil {
		return m, err
	}
	m.rate, m.good, m.refused, m.failed, m.p50, m.p99 = r.GoodRate, r.GoodCount, r.Bad, r.Errors+r.Timeouts, r.P50, r.P99
	m.answers = r.Rate
	m.used = after.since(before)
	m.used["wrk"] = cpu
	return m, nil
}

// someGood is an error when nothing succeeded: there is no figure then.
func (m measured) someGood() error {
	if m.good == 0 {
		return fmt.Errorf("no request was answered with success; %d were refused, %d failed", m.refused, m.failed)
	}
	return nil
}

// reservations loads the service with requests for goods, and balances the books after.
func (l *lab) reservations(ctx context.Context, w *world, port int, g goods, bodies []string, d time.Duration) (measured, error) {
	w.used = true
	before, err := w.settled(ctx, g)
	if err != nil {
		return measured{}, err
	}
	m, err := l.wrk(ctx, w, port, bodies, d)
	if err = errors.Join(err, m.someGood()); err != nil {
		return m, err
	}
	after, err := w.settled(ctx, g)
	m.stock = stockOf(m.good, before, after)
	return m, err
}

// echoes loads the echo with the same bytes while the services rest.
func (l *lab) echoes(ctx context.Context, w *world, port int, bodies []string, d time.Duration) (m measured, err error) {
	if err := w.pause(); err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, w.resume()) }()
	m, err = l.wrk(ctx, w, port, bodies, d)
	return m, errors.Join(err, m.someGood())
}
