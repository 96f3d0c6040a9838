//go:build faults

package faults

import (
	"context"
	"errors"
	"flashsale/bench/journey"
	"flashsale/bench/testbed"
	"flashsale/id"
	"flashsale/reservation"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What an overload may do, for as long as it lasts. Buyers who are let in are served within these bounds, and behind it
// one buyer alone is served at once again.
const (
	reserveBound = 6 * time.Second  // p99 of those who get a unit
	buyBound     = rushHold         // p99 until it is paid for: while it is held
	againBound   = 15 * time.Second // after the last arrival
	alone        = 2 * time.Second  // one purchase on a quiet system
	rushHold     = 30 * time.Second
)

// rush is a crowd of buyers who each want one unit and pay for it. Who is turned away when asking for the unit leaves; who
// has it tries to pay for as long as it is held, at the times that the answers say.
type rush struct {
	*load
	mu        sync.Mutex
	bought    int
	left      int
	over      int             // had a unit, and could not pay for it while it was held
	reserving []time.Duration // of those who got a unit
	buying    []time.Duration // of those who paid for it
}

// again returns how long an answer that is none yet says to wait, or false when it is one.
func (r *rush) again(step string, a answer) (time.Duration, bool) {
	if a.status != http.StatusServiceUnavailable && a.kind != "in-flight" {
		return 0, false
	}
	r.troubled(step + " " + a.kind)
	wait, says := told(a)
	if !says {
		r.mistake("%s: %v says nothing of when to come again", step, a)
		wait = time.Second
	}
	return wait, true
}

// told returns how long an answer says to wait.
func told(a answer) (time.Duration, bool) {
	secs, err := strconv.Atoi(a.header.Get("Retry-After"))
	return time.Duration(secs) * time.Second, err == nil && secs > 0
}

// look asks for something until it is decided, when the answers say.
func (r *rush) look(ctx context.Context, token, at string, undecided ...string) (answer, bool) {
	began := time.Now()
	for time.Since(began) < patience {
		a, err := r.send(ctx, token, "GET", at, nil)
		wait, busy := r.again("look", a)
		switch {
		case ctx.Err() != nil:
			return a, false
		case err != nil:
			r.mistake("look at %s: %v", at, err)
			return a, false
		case !busy && !slices.Contains(undecided, a.State):
			return a, true
		case !busy:
			if wait, busy = told(a); !busy {
				r.mistake("look at %s: %v says nothing of when to look again", at, a)
				return a, false
			}
		}
		if pause(ctx, wait) != nil {
			return a, false
		}
	}
	r.mistake("%s is not decided in %s", at, patience)
	return answer{}, false
}

// buy is what one buyer does. It returns how long one who is turned away is told to stay away.
func (r *rush) buy(ctx context.Context, who buyer, key string) (away time.Duration) {
	rid := reservation.Request{User: who.id, Key: key}.ID()
	r.load.mu.Lock()
	r.wishes[rid] = wish{buyer: who, key: key, quantity: 1, asked: time.Now()}
	r.load.mu.Unlock()
	began := time.Now()
	a, err := r.send(ctx, who.token, "POST", "/api/v1/reservations", wants(r.sale), "Idempotency-Key", key, "Prefer", "wait=5")
	if err != nil {
		r.mistake("reserve: %v", err)
		r.note(rid, "reserve", "silence")
		return 0
	}
	if away, turned := r.again("reserve", a); turned {
		answer := "refused"
		if a.kind != "overloaded" { // it may be held all the same
			answer = "silence"
		}
		r.note(rid, "reserve", answer)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.left++
		return away
	}
	if a.status == http.StatusAccepted {
		r.note(rid, "reserve", "accepted")
		var done bool
		if a, done = r.look(ctx, who.token, "/api/v1/reservations/"+rid.String(), "requested"); !done {
			return 0
		}
	}
	switch {
	case a.State == string(reservation.Expired):
		r.note(rid, "reserve", "over")
		r.late()
		return 0
	case a.State != string(reservation.Held) || a.ID != rid:
		r.mistake("reserve %s: %v", rid, a)
		r.note(rid, "reserve", "silence")
		return 0
	}
	r.note(rid, "reserve", "held")
	reserved := time.Since(began)
	for busy := true; busy; {
		var wait time.Duration
		if a, err = r.send(ctx, who.token, "POST", "/api/v1/orders/"+rid.String()+"/payments", map[string]string{"method": "tok_ok"}, "Idempotency-Key", "pay-"+key); err != nil {
			r.mistake("pay: %v", err)
			r.note(rid, "pay", "silence")
			return 0
		}
		if wait, busy = r.again("pay", a); busy && pause(ctx, wait) != nil {
			return 0
		}
	}
	if a.status == http.StatusAccepted {
		var done bool
		if a, done = r.look(ctx, who.token, a.header.Get("Location"), "requested", "charging", "unknown", "refunding"); !done {
			r.note(rid, "pay", "accepted")
			return 0
		}
	}
	switch {
	case a.State == "captured":
		r.note(rid, "pay", "captured")
		r.mu.Lock()
		defer r.mu.Unlock()
		r.bought++
		r.reserving, r.buying = append(r.reserving, reserved), append(r.buying, time.Since(began))
	case a.status == http.StatusGone || a.State == "refused" || a.State == "refunded":
		r.note(rid, "pay", "over")
		r.late()
	default:
		r.mistake("pay for %s: %v", rid, a)
		r.note(rid, "pay", "silence")
	}
	return 0
}

// late counts one whose hold was over before it was paid for.
func (r *rush) late() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over++
}

// shift is what a rush did in some time.
type shift struct {
	bought, left    int
	reserve, buying time.Duration // p99
	trouble         string
}

// done returns what the rush did since it was asked last.
func (r *rush) done() shift {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.load.mu.Lock()
	defer r.load.mu.Unlock()
	s := shift{r.bought, r.left, p99(r.reserving), p99(r.buying), list(r.trouble)}
	r.bought, r.left, r.reserving, r.buying, r.trouble = 0, 0, nil, nil, map[string]int{}
	return s
}

func p99(ds []time.Duration) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	slices.Sort(ds)
	return ds[len(ds)*99/100]
}

func (s shift) String() string {
	return fmt.Sprintf("%d bought, %d turned away; p99 of reserving %s, of buying %s; told to repeat: %s",
		s.bought, s.left, s.reserve.Round(time.Millisecond), s.buying.Round(time.Millisecond), s.trouble)
}

// cpu is what this process has used: the load comes from the same machine.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// apart gives the load a quarter of the cores, and everything that it has started the others.
func apart(t *testing.T) {
	t.Helper()
	var before, load, system unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &before))
	cores := before.Count()
	if cores < 2 {
		t.Logf("on one core: the load takes from it what it needs")
		return
	}
	for core, n := 0, 0; n < cores; core++ {
		switch {
		case !before.IsSet(core):
			continue
		case n < max(1, cores/4):
			load.Set(core)
		default:
			system.Set(core)
		}
		n++
	}
	now, err := testbed.Look()
	must(t, err)
	own := os.Getpid()
	for _, pid := range now.Tree(own) {
		if pid != own {
			bind(t, pid, &system)
		}
	}
	bind(t, own, &load)
	t.Cleanup(func() { bind(t, own, &before) })
}

// bind has a process, and whatever it starts, run on these cores only.
func bind(t *testing.T, pid int, cores *unix.CPUSet) {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return // it has ended
	}
	must(t, err)
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		must(t, err)
		if err := unix.SchedSetaffinity(tid, cores); !errors.Is(err, unix.ESRCH) { // it has ended
			must(t, err)
		}
	}
}

// overloads are how many times more come than are served at best.
func overloads() []int { return []int{3, 10} }

func overloadName(times int) string { return fmt.Sprintf("%d times the capacity", times) }

// TestOverload: buyers come at three and at ten times the rate at which the system sells and is paid at its best, for a
// minute each, whatever it answers. It goes on selling: 0.8 of its best is wanted, which is what it sells in half a minute
// before or behind, the better of them, as a machine may be a fifth faster in one minute than in the next. On one core it is
// 0.65 to 0.9: the noes cost nginx an eighth of it at ten times, all other work costs more beside them, by a tenth and often by a
// fifth, and what is under way when the minute ends is not sold in it. 0.65 and 0.6 are asserted. Without bounds it collapsed,
// to 0.07. The crowd has cores of its own: what it costs to be ten times as many is not the system's. Who is let in is served in
// bounded time, everybody else is told at once when to come again, and behind it one buyer alone is served as before. The
// settings are the product's own. With -short for some seconds, in the synchronous wiring at three times.
func TestOverload(t *testing.T) {
	modes, window, round, crowds := []string{"sync", "async"}, time.Minute, 6*time.Second, []int{64, 128, 256, 384, 512} // the first warms up
	times, least := overloads(), map[int]float64{3: 0.65, 10: 0.6}
	if testing.Short() { // the beginning counts for more, and others use the machine
		modes, window, round, crowds = modes[:1], 12*time.Second, 3*time.Second, crowds[:3]
		times, least = times[:1], map[int]float64{3: 0.3}
	}
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			s := newSite(t, mode, "FLASHSALE_DATABASE_CONNS=16", "FLASHSALE_PAYMENT_PATIENCE=3s", "FLASHSALE_PAYMENT_LATENCY=20ms",
				"FLASHSALE_PAYMENT_LOST_REPLY_RATE=0", "FLASHSALE_PENDING_FOR=30s", "FLASHSALE_SWEEP_AFTER=30s", "FLASHSALE_PROBE_AFTER=5s",
				"FLASHSALE_EXPIRE_EVERY=250ms", "FLASHSALE_KEEP_EVERY=250ms", "GOMAXPROCS=1")
			if !testing.Short() {
				apart(t)
			}
			base := fmt.Sprintf("http://127.0.0.1:%d", s.port)
			shoppers, plain := s.buyers(base)
			buyers := slices.Concat(shoppers, plain)
			sells := func(r *rush, workers int, round time.Duration) float64 {
				began := time.Now()
				var all sync.WaitGroup
				for w := range workers {
					all.Go(func() {
						for k := 0; time.Since(began) < round; k++ {
							away := r.buy(t.Context(), buyers[(w+k)%len(buyers)], fmt.Sprintf("%s-%d-%d-%d", r.sale.SKU, began.UnixNano(), w, k))
							_ = pause(t.Context(), away)
						}
					})
				}
				s.hold(round)
				rate := float64(r.counted()) / time.Since(began).Seconds()
				all.Wait()
				t.Logf("%d buyers at a time, for %s: %.0f a second; %s", workers, round, rate, r.done())
				return rate
			}
			r, crowd, fastest := s.rush(base), 0, 0.0
			for n, workers := range crowds {
				if rate := sells(r, workers, round); n > 0 && rate > fastest {
					crowd, fastest = workers, rate
				}
			}
			s.agrees(r)
			for _, more := range times {
				t.Run(fmt.Sprintf("%d times", more), func(t *testing.T) {
					outer := s.t
					s.t, s.wrong = t, nil
					defer func() { s.t = outer }()
					r := s.rush(base)
					v := row{wiring: mode, fault: overloadName(more), seed: 1}
					whole := time.Now()
					defer func() {
						v.ok, v.wrong, v.total = !t.Failed(), s.wrong, time.Since(whole)
						results.add(v)
					}()
					before := sells(r, crowd, window/2)
					if before < 1 {
						t.Fatalf("%.2f a second are sold before the crowd comes", before)
					}
					began, used := time.Now(), cpu(t)
					rate := before * float64(more)
					var all sync.WaitGroup
					for n := 0; ; n++ {
						at := time.Duration(float64(n) / rate * float64(time.Second))
						if at >= window || pause(t.Context(), time.Until(began.Add(at))) != nil {
							break
						}
						all.Go(func() { r.buy(t.Context(), buyers[n%len(buyers)], fmt.Sprintf("%s-%d-%d", r.sale.SKU, more, n)) })
					}
					late, spent := time.Since(began)-window, cpu(t)-used
					in := r.done()
					sold := float64(in.bought) / time.Since(began).Seconds()
					ended := time.Now()
					for n, quick := 0, false; !quick; n++ {
						one := time.Now()
						r.buy(t.Context(), buyers[n%len(buyers)], fmt.Sprintf("%s-alone-%d", r.sale.SKU, n))
						quick = time.Since(one) < alone && r.done().left == 0
						if time.Since(ended) > againBound {
							s.blame("%s after the last arrival one buyer alone is not served within %s", againBound, alone)
							break
						}
					}
					v.back = time.Since(ended)
					all.Wait()
					done := time.Since(ended)
					_ = r.done()
					s.hold(5 * time.Second) // until everybody is let in again
					after := sells(r, crowd, window/2)
					goodput := sold / max(before, after)
					t.Logf("%.0f a second come, for %s (%.1f s late; the load took %.1f s of CPU): %.2f of the best; %s; served again after %s; the last were done after %s",
						rate, window, late.Seconds(), spent.Seconds(), goodput, in, v.back.Round(time.Millisecond), done.Round(time.Millisecond))
					v.sold, v.repeated = int64(in.bought), in.trouble
					if goodput < least[more] {
						s.blame("at %d times the capacity %.2f of the best is sold, want %.2f", more, goodput, least[more])
					}
					if in.reserve > reserveBound || in.buying > buyBound {
						s.blame("who is let in waits %s for a unit and %s until it is paid for (p99), more than %s and %s", in.reserve, in.buying, reserveBound, buyBound)
					}
					if r.over*20 > in.bought {
						s.blame("%d were let in and could not pay while their unit was held, of %d who paid", r.over, in.bought)
					}
					s.agrees(r)
				})
			}
			s.auditIn(mode, 0)
		})
	}
}

// rush opens a sale with more than anybody can buy.
func (s *site) rush(base string) *rush {
	s.t.Helper()
	sale, err := journey.OpenSale(s.t.Context(), journey.Crowd{Base: base, Operator: operator, Password: password, Stock: 1_000_000, Units: 1, Limit: -1, Hold: rushHold, Client: s.client})
	must(s.t, err)
	l := &load{
		s: s.system, base: base, sale: sale, client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 4096}},
		wishes: map[id.ID]wish{}, trouble: map[string]int{}, counts: map[string]int{},
	}
	s.t.Cleanup(l.client.CloseIdleConnections)
	return &rush{load: l}
}

// counted is how many have bought since done was asked.
func (r *rush) counted() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bought
}

// hold waits.
func (s *site) hold(d time.Duration) { _ = pause(s.t.Context(), d) }

// agrees holds what the buyers were told against the ledger, once every hold is paid for or over.
func (s *site) agrees(r *rush) {
	s.t.Helper()
	var got map[id.ID]fact
	s.until("every hold is paid for or over", rushHold+30*time.Second, func() bool {
		_ = pause(s.t.Context(), 200*time.Millisecond) // each look reads the whole sale
		got = s.ledger(r.sale)
		return !slices.ContainsFunc(slices.Collect(maps.Values(got)), func(f fact) bool { return f.state == reservation.Held || f.state == reservation.Paying })
	})
	r.load.mu.Lock()
	wrong := append(slices.Clone(r.wrong), compare(r.wishes, r.log, got)...)
	r.load.mu.Unlock()
	if len(wrong) > 0 {
		s.blame("%d mistakes:\n%s", len(wrong), strings.Join(wrong[:min(len(wrong), 12)], "\n"))
	}
}
