package lab

import (
	"context"
	"errors"
	"flashsale/bench/testbed"
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

// Add adds another round's.
func (s *Stock) Add(o Stock) {
	s.Acknowledged += o.Acknowledged
	s.Reserved += o.Reserved
	s.Oversold += o.Oversold
	s.Stranded += o.Stranded
	s.Lost += o.Lost
}

// StockOf compares what the client saw with the ledger and the gate. before is the balance that the
// round began with.
func StockOf(acknowledged int64, before, after Balance) Stock {
	s := Stock{Acknowledged: acknowledged, Reserved: after.Held + after.Sold - before.Held - before.Sold}
	free := after.Granted - after.Held - after.Sold
	s.Oversold = max(0, -free) + max(0, after.Available-max(free, 0))
	s.Stranded = max(0, free-after.Available)
	s.Lost = max(0, acknowledged-s.Reserved)
	return s
}

// usage is the CPU time that each part has used.
type usage map[string]time.Duration

// Parts names whose CPU time is read.
func (l *Lab) Parts(w *World) map[string][]int {
	m := map[string][]int{"PostgreSQL": {l.Postgres.PID()}}
	for name, p := range map[string]*testbed.Process{"nginx": l.nginx, "echo": l.echo} {
		if p != nil {
			m[name] = []int{p.PID()}
		}
	}
	if l.Rabbit != nil {
		m["RabbitMQ"] = []int{l.Rabbit.PID()}
	}
	if w != nil {
		for _, i := range w.Instances {
			m["service"] = append(m["service"], i.PID())
		}
		for _, r := range w.redis {
			m["Redis"] = append(m["Redis"], r.PID())
		}
	}
	return m
}

// The machine as a whole, and this program.
const (
	Machine = "machine"
	Harness = "harness"
)

// Read returns the CPU time that each part, the machine and this program have used.
func Read(parts map[string][]int) (usage, error) {
	u := usage{}
	for name, pids := range parts {
		t, err := testbed.CPUOf(pids...)
		if err != nil {
			return nil, err
		}
		u[name] = t
	}
	t, err := testbed.MachineBusy()
	if err != nil {
		return nil, err
	}
	u[Machine] = t
	var self syscall.Rusage
	err = syscall.Getrusage(syscall.RUSAGE_SELF, &self)
	u[Harness] = time.Duration(self.Utime.Nano() + self.Stime.Nano())
	return u, err
}

func (u usage) Since(before usage) usage {
	d := usage{}
	for k, v := range u {
		d[k] = v - before[k]
	}
	return d
}

// Measured is one round of load.
type Measured struct {
	Rate          float64 // good answers a second
	Good          int64
	Refused       int64   // other answers
	Failed        int64   // sockets, timeouts
	Answers       float64 // a second, of both kinds
	P50, P95, P99 time.Duration
	Used          usage
	Took          time.Duration
	Stock         Stock
}

// Cost returns the CPU time of some parts per good answer, in µs.
func (m Measured) Cost(parts ...string) float64 {
	var sum time.Duration
	for _, p := range parts {
		sum += m.Used[p]
	}
	return float64(sum) / float64(time.Microsecond) / float64(max(m.Good, 1))
}

// outside returns how many cores others used meanwhile. The kernel's own threads count among them.
func (m Measured) outside() float64 {
	rest := m.Used[Machine]
	for k, v := range m.Used {
		if k != Machine {
			rest -= v
		}
	}
	return max(0, rest.Seconds()/m.Took.Seconds())
}

const connections = 200

// Wrk loads a port with reservation requests for goods.
func (l *Lab) Wrk(ctx context.Context, w *World, port int, bodies []string, d time.Duration) (Measured, error) {
	l.rounds++
	name := "r" + strconv.Itoa(l.rounds)
	if err := l.round(name, bodies); err != nil {
		return Measured{}, err
	}
	parts := l.Parts(w)
	before, err := Read(parts)
	if err != nil {
		return Measured{}, err
	}
	began := time.Now()
	bound, cancel := context.WithTimeout(ctx, d+30*time.Second)
	defer cancel()
	text, cpu, err := testbed.Output(bound, testbed.BaseEnv(), nil, "wrk", "-t"+strconv.Itoa(wrkThreads), "-c"+strconv.Itoa(connections),
		fmt.Sprintf("-d%ds", max(1, int(d.Round(time.Second).Seconds()))), "--latency",
		"-s", filepath.Join(l.Dir, "reserve.lua"), "http://127.0.0.1:"+strconv.Itoa(port), "--", l.Dir, name)
	if err != nil {
		return Measured{}, err
	}
	m := Measured{Took: time.Since(began)}
	after, err := Read(parts)
	if err != nil {
		return m, err
	}
	r, err := parseWrk(text)
	if err != nil {
		return m, err
	}
	m.Rate, m.Good, m.Refused, m.Failed, m.P50, m.P95, m.P99 = r.GoodRate, r.GoodCount, r.Bad, r.Errors+r.Timeouts, r.P50, r.P95, r.P99
	m.Answers = r.Rate
	m.Used = after.Since(before)
	m.Used["wrk"] = cpu
	return m, nil
}

// someGood is an error when nothing succeeded: there is no figure then.
func (m Measured) someGood() error {
	if m.Good == 0 {
		return fmt.Errorf("no request was answered with success; %d were refused, %d failed", m.Refused, m.Failed)
	}
	return nil
}

// Reservations loads the service with requests for goods, and balances the books after.
func (l *Lab) Reservations(ctx context.Context, w *World, port int, g Goods, bodies []string, d time.Duration) (Measured, error) {
	w.Used = true
	before, err := w.Settled(ctx, g)
	if err != nil {
		return Measured{}, err
	}
	m, err := l.Wrk(ctx, w, port, bodies, d)
	if err = errors.Join(err, m.someGood()); err != nil {
		return m, err
	}
	after, err := w.Settled(ctx, g)
	m.Stock = StockOf(m.Good, before, after)
	return m, err
}

// Echoes loads the echo with the same bytes while the services rest.
func (l *Lab) Echoes(ctx context.Context, w *World, port int, bodies []string, d time.Duration) (m Measured, err error) {
	if err := w.Pause(); err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, w.Resume()) }()
	m, err = l.Wrk(ctx, w, port, bodies, d)
	return m, errors.Join(err, m.someGood())
}
