package transporttest

import (
	"context"
	"errors"
	"flashsale/id"
	"flashsale/transport"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Mail is a queueing transport under test.
type Mail struct {
	Transport transport.Transport   // not started
	Letters   transport.DeadLetters // of its queues; it may be another object than the transport
	// Put puts bytes into a service's queue, as a stranger could. The transport is started.
	Put func(t *testing.T, to transport.Service, body []byte)
}

// Rules are what a case wants of the transport that it is given.
type Rules struct {
	Attempts int             // before an envelope is a dead letter; tried again without much delay
	Pauses   []time.Duration // before the automatic replays; empty for none
}

// ExerciseDeadLetters runs the suite of transport.DeadLetters. open returns a transport of its own for
// every case, for the services inventory and order.
func ExerciseDeadLetters(t *testing.T, open func(t *testing.T, r Rules) Mail) {
	t.Helper()
	s := mail{open}
	t.Run("no letters", s.none)
	t.Run("every reason", s.reasons)
	t.Run("filters and pages", s.pages)
	t.Run("replay one", s.replayOne)
	t.Run("replay all, by two at once", s.replayAll)
	t.Run("replay what dies again", s.replayDying)
	t.Run("replay after the upgrade", s.upgrade)
	t.Run("replay is bounded in rate, and can be broken off", s.replayRate)
	t.Run("replay and purge up to a limit", s.limits)
	t.Run("purge", s.purge)
	t.Run("listed a hundred times", s.listedOften)
	t.Run("listed by many at once", s.listedByMany)
	t.Run("more than are asked for one by one", s.many)
	t.Run("automatic replay, up to its limit", s.automatic)
	t.Run("automatic replay mends", s.mends)
	t.Run("waiting for the automatic replay", s.waits)
	t.Run("counted", s.counted)
}

type mail struct {
	open func(t *testing.T, r Rules) Mail
}

// scene is a running transport whose handlers record what they get, and fail as fails says.
type scene struct {
	Mail
	t     *testing.T
	fails atomic.Pointer[func(transport.Envelope) error]
	reads atomic.Int64 // the newest version of thing.happened that the handlers read

	mu    sync.Mutex
	calls map[id.ID]int // deliveries
	did   map[id.ID]int // of them, successes
}

func (s mail) begin(t *testing.T, r Rules) *scene {
	t.Helper()
	if r.Attempts == 0 {
		r.Attempts = 2
	}
	c := &scene{t: t, Mail: s.open(t, r), calls: map[id.ID]int{}, did: map[id.ID]int{}}
	never := func(transport.Envelope) error { return transport.Permanent(errors.New("never")) }
	c.fails.Store(&never)
	c.reads.Store(1)
	for _, service := range []transport.Service{transport.Inventory, transport.Order} {
		handle := func(_ context.Context, e transport.Envelope) ([]transport.Envelope, error) {
			err := (*c.fails.Load())(e)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.calls[e.ID]++
			if err == nil {
				c.did[e.ID]++
			}
			return nil, err
		}
		c.Transport.Handle(service, func(ctx context.Context, e transport.Envelope) ([]transport.Envelope, error) {
			return transport.Only(map[string]int{"thing.happened": int(c.reads.Load())}, handle)(ctx, e)
		})
	}
	if err := c.Transport.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopNow(t, c.Transport) })
	return c
}

func (c *scene) mend() {
	well := func(transport.Envelope) error { return nil }
	c.fails.Store(&well)
}

func (c *scene) send(to transport.Service, e transport.Envelope) {
	c.t.Helper()
	if _, err := c.Transport.Send(c.t.Context(), to, e); err != nil {
		c.t.Fatal(err)
	}
}

// counted returns how often an event was delivered and how often it was handled well.
func (c *scene) counted(e transport.Envelope) (calls, did int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[e.ID], c.did[e.ID]
}

// until asks again and again: there is no event to wait for.
func (c *scene) until(what string, ok func() (bool, any)) {
	c.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for {
		done, state := ok()
		if done {
			return
		}
		select {
		case <-ctx.Done():
			c.t.Fatalf("not %s after %s: %v", what, patience, state)
		case <-tick.C:
		}
	}
}

func (c *scene) list(f transport.Filter) transport.LetterPage {
	c.t.Helper()
	page, err := c.Letters.List(c.t.Context(), f)
	if err != nil {
		c.t.Fatalf("list %+v: %v", f, err)
	}
	if page.Letters == nil || page.Partial {
		c.t.Fatalf("list %+v: %+v", f, page)
	}
	return page
}

// all follows the pages to the end.
func (c *scene) all(f transport.Filter) (out []transport.Letter) {
	c.t.Helper()
	for {
		page := c.list(f)
		out = append(out, page.Letters...)
		if page.Next == "" {
			return out
		}
		if len(page.Letters) != f.PageSize() {
			c.t.Fatalf("a page of %d, and one after it", len(page.Letters))
		}
		f.After = page.Next
	}
}

func (c *scene) ids(f transport.Filter) (out []id.ID) {
	c.t.Helper()
	for _, l := range c.all(f) {
		out = append(out, l.ID)
	}
	return out
}

// letters waits until there are so many, and returns them.
func (c *scene) letters(n int) (ls []transport.Letter) {
	c.t.Helper()
	c.until(fmt.Sprintf("%d letters", n), func() (bool, any) {
		ls = c.all(transport.Filter{Limit: 100})
		return len(ls) == n, len(ls)
	})
	return ls
}

// kill makes n letters of inventory: envelope(from) and those after it.
func (c *scene) kill(from, n int) {
	c.t.Helper()
	before := len(c.all(transport.Filter{Limit: 100}))
	for i := range n {
		c.send(transport.Inventory, envelope(from+i))
	}
	c.letters(before + n)
}

func (c *scene) replay(f transport.Filter, perSecond int) transport.LetterCount {
	c.t.Helper()
	n, err := c.Letters.Replay(c.t.Context(), f, perSecond)
	if err != nil {
		c.t.Fatalf("replay %+v: %+v %v", f, n, err)
	}
	return n
}

func (c *scene) purge(f transport.Filter) transport.LetterCount {
	c.t.Helper()
	n, err := c.Letters.Purge(c.t.Context(), f)
	if err != nil {
		c.t.Fatalf("purge %+v: %+v %v", f, n, err)
	}
	return n
}

const quickly = 1000 // a second

func (s mail) none(t *testing.T) {
	t.Parallel()
	c := s.begin(t, Rules{})
	if page := c.list(transport.Filter{}); len(page.Letters) != 0 || page.Next != "" {
		t.Errorf("list %+v", page)
	}
	if _, err := c.Letters.Show(t.Context(), transport.Inventory, id.Derive("x")); !errors.Is(err, transport.ErrNoLetter) {
		t.Errorf("show: %v", err)
	}
	if n := c.replay(transport.Filter{}, quickly); n != (transport.LetterCount{}) {
		t.Errorf("replay %+v", n)
	}
	if n := c.purge(transport.Filter{}); n != (transport.LetterCount{}) {
		t.Errorf("purge %+v", n)
	}
	for _, f := range []transport.Filter{{After: "x"}, {After: "1.inventory.x"}, {After: "x.inventory." + id.Derive("x").String()}} {
		if _, err := c.Letters.List(t.Context(), f); !errors.Is(err, transport.ErrCursor) {
			t.Errorf("after %q: %v", f.After, err)
		}
	}
}

func (s mail) reasons(t *testing.T) {
	t.Parallel()
	c := s.begin(t, Rules{Attempts: 3})
	broken := func(e transport.Envelope) error {
		if e.ID == envelope(2).ID {
			return errors.New("the database is away")
		}
		_, err := transport.Decode[struct{ N string }](e) // it is a number
		if e.ID == envelope(3).ID {
			return fmt.Errorf("step: %w", err)
		}
		return transport.Permanent(errors.New("it makes no sense"))
	}
	c.fails.Store(&broken)
	unknown := transport.New("thing.invented", transport.Order, id.Derive("later"), time.Now(), "", struct{}{})
	marshal := func(e transport.Envelope) []byte {
		b, err := transport.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	newer := []byte(strings.Replace(string(marshal(envelope(4))), `"schemaversion":1`, `"schemaversion":99`, 1))
	noise := []byte("no \xff envelope")
	began := time.Now()
	for n := 1; n <= 3; n++ {
		c.send(transport.Inventory, envelope(n))
	}
	c.send(transport.Inventory, unknown)
	c.Put(t, transport.Inventory, newer)
	c.Put(t, transport.Inventory, noise)
	ls := c.letters(6)
	for _, w := range []struct {
		reason   transport.Reason
		id       id.ID // zero: any
		kind     string
		attempts int
		says     string
		body     []byte
	}{
		{transport.ReasonPermanent, envelope(1).ID, "thing.happened", 1, "it makes no sense", marshal(envelope(1))},
		{transport.ReasonAttempts, envelope(2).ID, "thing.happened", 3, "the database is away", marshal(envelope(2))},
		{transport.ReasonMalformed, envelope(3).ID, "thing.happened", 1, "payload of thing.happened", marshal(envelope(3))},
		{transport.ReasonUnknownType, unknown.ID, "thing.invented", 1, "thing.invented", marshal(unknown)},
		{transport.ReasonUnknownVersion, envelope(4).ID, "thing.happened", 1, "schemaversion 99", newer},
		{transport.ReasonMalformed, id.ID{}, "", 1, "not an envelope", noise},
	} {
		i := slices.IndexFunc(ls, func(l transport.Letter) bool {
			return l.ID == w.id || w.id.IsZero() && l.Type == ""
		})
		if i < 0 {
			t.Errorf("no letter %s %s in %+v", w.reason, w.id, ls)
			continue
		}
		l := ls[i]
		if l.Reason != w.reason || l.Type != w.kind || l.Attempts != w.attempts || !strings.Contains(l.Error, w.says) || l.Service != transport.Inventory {
			t.Errorf("letter %+v\nwant %+v", l, w)
		}
		if l.Queue == "" || !strings.HasPrefix(l.Route, "inventory.") || l.Replays != 0 || !l.ReplayAt.IsZero() || l.Body != nil || l.Size != len(w.body) {
			t.Errorf("%s: %+v", w.reason, l)
		}
		if w.kind != "" && (l.Source != transport.Order || l.Route != "inventory."+w.kind && string(w.body) != string(newer)) {
			t.Errorf("%s: from %q by %q", w.reason, l.Source, l.Route)
		}
		soon := func(at time.Time) bool {
			return at.Location() == time.UTC && at.After(began.Add(-time.Second)) && at.Before(time.Now().Add(time.Second))
		}
		if !soon(l.FirstFailed) || !soon(l.Died) || l.Died.Before(l.FirstFailed) || w.attempts > 1 && !l.Died.After(l.FirstFailed) {
			t.Errorf("%s: first failed %s, died %s, began %s", w.reason, l.FirstFailed, l.Died, began)
		}
		full, err := c.Letters.Show(t.Context(), transport.Inventory, l.ID)
		if err != nil || string(full.Body) != string(w.body) {
			t.Errorf("%s: body %q, %v; want %q", w.reason, full.Body, err, w.body)
		}
		if full.Body = nil; fmt.Sprint(full) != fmt.Sprint(l) {
			t.Errorf("shown %+v\nlisted %+v", full, l)
		}
	}
	if _, err := c.Letters.Show(t.Context(), transport.Order, envelope(1).ID); !errors.Is(err, transport.ErrNoLetter) {
		t.Errorf("another service's: %v", err)
	}
	if calls, _ := c.counted(unknown); calls != 0 {
		t.Errorf("the handler saw a type that is not its own")
	}
}

func (s mail) pages(t *testing.T) {
	t.Parallel()
	c := s.begin(t, Rules{})
	c.kill(0, 5)
	middle := time.Now()
	c.send(transport.Order, envelope(10))
	c.send(transport.Order, envelope(11))
	c.Put(t, transport.Order, []byte("noise"))
	ls := c.letters(8)
	if !slices.IsSortedFunc(ls, transport.Letter.Compare) {
		t.Errorf("not the oldest first: %+v", ls)
	}
	want := c.ids(transport.Filter{})
	for limit := 1; limit <= 9; limit++ {
		if got := c.ids(transport.Filter{Limit: limit}); !slices.Equal(got, want) {
			t.Errorf("pages of %d: %v\nwant %v", limit, got, want)
		}
	}
	for name, w := range map[string]struct {
		f transport.Filter
		n int
	}{
		"inventory":       {transport.Filter{Service: transport.Inventory}, 5},
		"order":           {transport.Filter{Service: transport.Order}, 3},
		"payment":         {transport.Filter{Service: transport.Payment}, 0},
		"permanent":       {transport.Filter{Reason: transport.ReasonPermanent}, 7},
		"order malformed": {transport.Filter{Service: transport.Order, Reason: transport.ReasonMalformed}, 1},
		"old":             {transport.Filter{Before: middle}, 5},
		"old of order":    {transport.Filter{Before: middle, Service: transport.Order}, 0},
		"one":             {transport.Filter{ID: envelope(3).ID}, 1},
	} {
		got := c.all(w.f)
		if len(got) != w.n {
			t.Errorf("%s: %d letters, want %d", name, len(got), w.n)
		}
		for _, l := range got {
			if !w.f.Match(l) {
				t.Errorf("%s: %+v", name, l)
			}
		}
	}
}

func (s mail) replayOne(t *testing.T) {
	t.Parallel()
	c := s.begin(t, Rules{})
	c.kill(1, 3)
	c.mend()
	one := transport.Filter{Service: transport.Inventory, ID: envelope(2).ID}
	if n := c.replay(one, 0); n != (transport.LetterCount{Done: 1}) {
		t.Fatalf("replayed %+v", n)
	}
	c.until("handled", func() (bool, any) {
		_, did := c.counted(envelope(2))
		return did == 1, did
	})
	c.letters(2)
	if n := c.replay(one, 0); n != (transport.LetterCount{}) {
		t.Errorf("the second time %+v", n)
	}
	if _, err := c.Letters.Show(t.Context(), transport.Inventory, envelope(2).ID); !errors.Is(err, transport.ErrNoLetter) {
		t.Errorf("replayed and still there: %v", err)
	}
	for n, want := range map[int]int{1: 1, 2: 2, 3: 1} {
		if calls, _ := c.counted(envelope(n)); calls != want {
			t.Errorf("event %d was delivered %d times, want %d", n, calls, want)
		}
	}
}

func (s mail) replayAll(t *testing.T) {
	t.Parallel()
	const n = 30
	c := s.begin(t, Rules{})
	c.kill(0, n)
	c.mend()
	var wg sync.WaitGroup
	var done atomic.Int32
	for range 2 {
		wg.Go(func() {
			got, err := c.Letters.Replay(t.Context(), transport.Filter{}, quickly)
			if err != nil {
				t.Error(err)
			}
			done.Add(int32(got.Done))
		})
	}
	wg.Wait()
	if done.Load() != n {
		t.Errorf("%d replayed, want %d", done.Load(), n)
	}
	c.until("all handled", func() (bool, any) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.did) == n, len(c.did)
	})
	c.letters(0)
	for i := range n {
		if calls, did := c.counted(envelope(i)); calls != 2 || did != 1 {
			t.Errorf("event %d: delivered %d times, handled %d times", i, calls, did)
		}
	}
}

func (s mail) replayDying(t *testing.T) {
	t.Parallel()
	c := s.begin(t, Rules{Attempts: 2})
	away := func(transport.Envelope) error { return errors.New("the database is away") }
	c.fails.Store(&away)
	c.kill(0, 3)
	first := c.letters(3)
	for round := 1; round <= 2; round++ {
		if n := c.replay(transport.Filter{}, 20); n.Done != 3 { // slow enough for the first to die again meanwhile
			t.Fatalf("replayed %+v", n)
		}
		c.until("dead again", func() (bool, any) {
			calls := 0
			for i := range 3 {
				n, _ := c.counted(envelope(i))
				calls += n
			}
			return calls == 6*(round+1), calls
		})
		for _, l := range c.letters(3) {
			if l.Attempts != 2 || l.Reason != transport.ReasonAttempts || l.Replays != 0 || !l.FirstFailed.After(first[2].Died) || l.Route != "inventory.thing.happened" {
				t.Errorf("dead again: %+v", l)
			}
		}
	}
}

// upgrade: an event of a newer schema waits among the dead letters for the program that reads it.
func (s mail) upgrade(t *testing.T) {
	t.Parallel()
	c := s.begin(t, Rules{})
	c.mend()
	newer := envelope(1)
	newer.Version = 2
	c.send(transport.Inventory, newer)
	c.send(transport.Inventory, envelope(2))
	if l := c.letters(1)[0]; l.ID != newer.ID || l.Reason != transport.ReasonUnknownVersion || l.Attempts != 1 {
		t.Errorf("letter %+v", l)
	}
	if n := c.replay(transport.Filter{Reason: transport.ReasonUnknownVersion}, quickly); n.Done != 1 { // too early
		t.Errorf("replayed %+v", n)
	}
	c.letters(1)
	c.reads.Store(2)
	if n := c.replay(transport.Filter{Reason: transport.ReasonUnknownVersion}, quickly); n.Done != 1 || n.More {
		t.Errorf("replayed %+v", n)
	}
	c.until("handled after the upgrade", func() (bool, any) {
		calls, did := c.counted(newer)
		return did == 1, calls
	})
	if left := c.ids(transport.Filter{}); len(left) != 0 {
		t.Errorf("letters are left: %v", left)
	}
}

func (s mail) replayRate(t *testing.T) {
	t.Parallel()
	const n, rate = 12, 40
	c := s.begin(t, Rules{})
	c.kill(0, n)
	c.mend()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	fourth := func(transport.Envelope) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.did) == 3 {
			cancel()
		}
		return nil
	}
	c.fails.Store(&fourth)
	got, err := c.Letters.Replay(ctx, transport.Filter{}, rate)
	if err == nil || got.Done < 4 || got.Done == n || !got.More {
		t.Fatalf("broken off: %+v, %v", got, err)
	}
	c.mend()
	c.letters(n - got.Done) // nothing is lost
	began := time.Now()
	rest := c.replay(transport.Filter{}, rate)
	if least := time.Duration(rest.Done-1) * time.Second / rate; rest.Done != n-got.Done || rest.More || time.Since(began) < least {
		t.Errorf("%+v in %s, want %d in %s or more", rest, time.Since(began), n-got.Done, least)
	}
	c.until("all handled", func() (bool, any) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.did) == n, len(c.did)
	})
}

func (s mail) limits(t *testing.T) {
	t.Parallel()
	c := s.begin(t, Rules{})
	c.kill(0, 6)
	c.mend()
	for _, want := range []transport.LetterCount{{Done: 2, More: true}, {Done: 1, More: true}} {
		if got := c.replay(transport.Filter{Limit: want.Done}, quickly); got != want {
			t.Errorf("replayed %+v, want %+v", got, want)
		}
	}
	if got := c.purge(transport.Filter{Limit: 2}); got != (transport.LetterCount{Done: 2, More: true}) {
		t.Errorf("purged %+v", got)
	}
	if got := c.purge(transport.Filter{Limit: 1}); got != (transport.LetterCount{Done: 1}) {
		t.Errorf("purged the last: %+v", got)
	}
	c.letters(0)
}

func (s mail) purge(t *testing.T) {
	t.Parallel()
	c := s.begin(t, Rules{})
	c.kill(0, 4)
	c.send(transport.Order, envelope(10))
	c.letters(5)
	c.mend()
	for _, w := range []struct {
		f transport.Filter
		n int
	}{
		{transport.Filter{Reason: transport.ReasonAttempts}, 0},
		{transport.Filter{Service: transport.Order, ID: envelope(1).ID}, 0},
		{transport.Filter{ID: envelope(1).ID}, 1},
		{transport.Filter{Service: transport.Order}, 1},
		{transport.Filter{Before: time.Now().Add(-time.Hour)}, 0},
		{transport.Filter{}, 3},
	} {
		if got := c.purge(w.f); got != (transport.LetterCount{Done: w.n}) {
			t.Errorf("%+v purged %+v, want %d", w.f, got, w.n)
		}
	}
	c.letters(0)
	if n := c.replay(transport.Filter{}, quickly); n.Done != 0 {
		t.Errorf("replayed after the purge: %+v", n)
	}
	for _, n := range []int{0, 1, 2, 3, 10} {
		if calls, _ := c.counted(envelope(n)); calls != 1 {
			t.Errorf("event %d was delivered %d times", n, calls)
		}
	}
}

func (s mail) listedOften(t *testing.T) {
	t.Parallel()
	c := s.begin(t, Rules{})
	c.kill(0, 7)
	want := c.ids(transport.Filter{})
	for i := range 100 {
		if got := c.ids(transport.Filter{}); !slices.Equal(got, want) {
			t.Fatalf("list %d: %v\nwant %v", i, got, want)
		}
	}
	c.mend()
	if n := c.replay(transport.Filter{}, quickly); n.Done != 7 {
		t.Errorf("after it %+v were replayed", n)
	}
}

func (s mail) listedByMany(t *testing.T) {
	t.Parallel()
	c := s.begin(t, Rules{})
	c.kill(0, 5)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10 {
				page, err := c.Letters.List(t.Context(), transport.Filter{})
				if err != nil || len(page.Letters) != 5 {
					t.Errorf("%d letters, %v; want 5", len(page.Letters), err)
				}
			}
		})
	}
	wg.Wait()
}

func (s mail) many(t *testing.T) {
	t.Parallel()
	const n = 250
	c := s.begin(t, Rules{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := c.Transport.Send(t.Context(), transport.Inventory, envelope(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	ls := c.letters(n)
	seen := map[id.ID]bool{}
	for _, l := range ls {
		seen[l.ID] = true
	}
	if len(seen) != n || !slices.IsSortedFunc(ls, transport.Letter.Compare) {
		t.Errorf("%d different letters, want %d in order", len(seen), n)
	}
	if l, err := c.Letters.Show(t.Context(), transport.Inventory, ls[n-1].ID); err != nil || l.ID != ls[n-1].ID {
		t.Errorf("show the last: %+v, %v", l, err)
	}
	left := n
	for i, l := range ls { // those that died at the same moment go or stay together
		if i >= 200 && l.Died.After(ls[i-1].Died) {
			if got := c.purge(transport.Filter{Before: l.Died}); got.Done != i {
				t.Errorf("purged %+v, want %d", got, i)
			}
			left -= i
			break
		}
	}
	c.letters(left)
	c.mend()
	if got := c.replay(transport.Filter{}, 10*quickly); got.Done != left {
		t.Errorf("replayed %+v, want %d", got, left)
	}
	c.letters(0)
}

// passing is an error of something that is away.
func passing(transport.Envelope) error {
	return fmt.Errorf("step: ask order: %w", transport.ErrUnavailable)
}

func (s mail) automatic(t *testing.T) {
	t.Parallel()
	c := s.begin(t, Rules{Attempts: 2, Pauses: []time.Duration{100 * time.Millisecond, 300 * time.Millisecond}})
	fail := func(e transport.Envelope) error {
		if e.ID == envelope(2).ID {
			return errors.New("the database is away") // not known to pass
		}
		return passing(e)
	}
	c.fails.Store(&fail)
	began := time.Now()
	c.send(transport.Inventory, envelope(1))
	c.send(transport.Inventory, envelope(2))
	var last transport.Letter
	c.until("replayed twice", func() (bool, any) {
		// It is in the list while it waits, and not in it while it is tried.
		page, err := c.Letters.List(t.Context(), transport.Filter{ID: envelope(1).ID})
		if err != nil || len(page.Letters) != 1 {
			return false, err
		}
		last = page.Letters[0]
		return last.ReplayAt.IsZero(), last
	})
	if last.Replays != 2 || last.Attempts != 2 || last.Reason != transport.ReasonAttempts || last.Route != "inventory.thing.happened" {
		t.Errorf("the last letter is %+v", last)
	}
	if took := last.Died.Sub(last.FirstFailed); took < 400*time.Millisecond || last.FirstFailed.Before(began.Add(-time.Second)) {
		t.Errorf("two pauses took %s", took)
	}
	if calls, _ := c.counted(envelope(1)); calls != 6 {
		t.Errorf("delivered %d times, want 2 in each of 3 lives", calls)
	}
	if calls, _ := c.counted(envelope(2)); calls != 2 {
		t.Errorf("what is not known to pass was delivered %d times, want 2", calls)
	}
	c.letters(2)
}

func (s mail) mends(t *testing.T) {
	t.Parallel()
	c := s.begin(t, Rules{Attempts: 2, Pauses: []time.Duration{150 * time.Millisecond, time.Hour}})
	var n atomic.Int32
	twice := func(e transport.Envelope) error {
		if n.Add(1) <= 2 {
			return fmt.Errorf("%w", transport.ErrOverloaded)
		}
		return nil
	}
	c.fails.Store(&twice)
	c.send(transport.Inventory, envelope(1))
	c.until("handled", func() (bool, any) {
		calls, did := c.counted(envelope(1))
		return did == 1, calls
	})
	c.letters(0)
	if calls, _ := c.counted(envelope(1)); calls != 3 {
		t.Errorf("delivered %d times, want 3", calls)
	}
}

func (s mail) waits(t *testing.T) {
	t.Parallel()
	c := s.begin(t, Rules{Attempts: 2, Pauses: []time.Duration{time.Hour}})
	fail := passing
	c.fails.Store(&fail)
	c.kill(1, 3)
	for range 30 { // looked at often, it waits all the same
		for _, l := range c.letters(3) {
			if d := l.ReplayAt.Sub(l.Died); d != time.Hour || l.Replays != 0 || l.Attempts != 2 {
				t.Fatalf("waiting letter %+v", l)
			}
		}
	}
	if l, err := c.Letters.Show(t.Context(), transport.Inventory, envelope(2).ID); err != nil || l.Size != len(l.Body) || l.Size == 0 {
		t.Errorf("show %+v, %v", l, err)
	}
	c.mend()
	if got := c.purge(transport.Filter{ID: envelope(3).ID}); got.Done != 1 {
		t.Errorf("purged %+v", got)
	}
	if got := c.replay(transport.Filter{}, quickly); got.Done != 2 { // an operator need not wait
		t.Errorf("replayed %+v", got)
	}
	c.until("both handled", func() (bool, any) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.did) == 2, c.did
	})
	c.letters(0)
}

func (s mail) counted(t *testing.T) {
	t.Parallel()
	c := s.begin(t, Rules{Pauses: []time.Duration{time.Hour}})
	d, ok := c.Transport.(interface {
		Depths(ctx context.Context) (waiting, dead int, err error)
	})
	if !ok {
		t.Fatalf("%T has no Depths", c.Transport)
	}
	c.kill(0, 2)
	fail := passing
	c.fails.Store(&fail)
	c.kill(2, 1) // one that waits for its automatic replay is a dead letter all the same
	c.until("counted", func() (bool, any) {
		waiting, dead, err := d.Depths(t.Context())
		return err == nil && waiting == 0 && dead == 3, fmt.Sprint(waiting, dead, err)
	})
}
