package groupcommit_test

import (
	"context"
	"errors"
	"flashsale/groupcommit"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// gate is a commit that waits: every group is shown on begun and goes on when it is let go.
type gate struct {
	begun chan []int
	goOn  chan error
}

func newGate() gate { return gate{make(chan []int, 100), make(chan error)} }

// commit answers each request with its double, or all of them with the error it was let go with.
func (g gate) commit(ctx context.Context, group []int) ([]int, error) {
	g.begun <- slices.Clone(group)
	if err := <-g.goOn; err != nil {
		return nil, err
	}
	return doubled(ctx, group)
}

func doubled(ctx context.Context, group []int) ([]int, error) {
	out := make([]int, len(group))
	for i, n := range group {
		out[i] = 2 * n
	}
	return out, ctx.Err()
}

type answer struct {
	ans int
	err error
}

// hand hands in requests one after the other and returns where each answer will come.
func hand(ctx context.Context, g *groupcommit.Group[int, int], reqs ...int) []chan answer {
	var out []chan answer
	for _, n := range reqs {
		c := make(chan answer, 1)
		go func() {
			a, err := g.Do(ctx, n)
			c <- answer{a, err}
		}()
		synctest.Wait() // it is in the queue, or under way, or answered
		out = append(out, c)
	}
	return out
}

func want(t *testing.T, got chan answer, ans int, err error) {
	t.Helper()
	synctest.Wait()
	select {
	case a := <-got:
		if a.ans != ans || !errors.Is(a.err, err) {
			t.Fatalf("%d, %v; want %d, %v", a.ans, a.err, ans, err)
		}
	default:
		t.Fatal("no answer")
	}
}

func wantGroup(t *testing.T, g gate, group ...int) {
	t.Helper()
	synctest.Wait()
	select {
	case got := <-g.begun:
		if !slices.Equal(got, group) {
			t.Fatalf("group %v, want %v", got, group)
		}
	default:
		t.Fatalf("no group, want %v", group)
	}
}

func wantNoGroup(t *testing.T, g gate) {
	t.Helper()
	synctest.Wait()
	select {
	case got := <-g.begun:
		t.Fatalf("group %v while one is under way", got)
	default:
	}
}

func TestGroups(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"a lone call goes at once, the next group forms meanwhile": clocked,
		"a group is bounded":                   bounded,
		"groups under way are bounded":         parallel,
		"an error is every caller's":           failing,
		"an answer too few is nobody's answer": short,
		"a full queue refuses":                 full,
		"close finishes what was taken in":     closing,
		"who gave up waiting is left out":      gaveUp,
		"who gives up under way is unknown":    unknown,
		"a lone caller's trace goes along":     values,
		"a commit that hangs ends":             hanging,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, test)
		})
	}
}

func clocked(t *testing.T) {
	w := newGate()
	g := groupcommit.New(100, 100, 1, w.commit)
	defer g.Close()
	var seen []string
	g.Watch(func(size int, waited time.Duration) { seen = append(seen, fmt.Sprint(size, " after ", waited)) })
	first := hand(t.Context(), g, 1)
	wantGroup(t, w, 1)
	second := hand(t.Context(), g, 2, 3, 4)
	wantNoGroup(t, w)
	time.Sleep(3 * time.Second) // of the test's own clock
	w.goOn <- nil
	want(t, first[0], 2, nil)
	wantGroup(t, w, 2, 3, 4)
	w.goOn <- nil
	for i, c := range second {
		want(t, c, 2*(i+2), nil)
	}
	wantNoGroup(t, w)
	if got := strings.Join(seen, ", "); got != "1 after 0s, 3 after 3s" {
		t.Errorf("groups seen: %s", got)
	}
}

func bounded(t *testing.T) {
	w := newGate()
	g := groupcommit.New(2, 100, 1, w.commit)
	defer g.Close()
	hand(t.Context(), g, 1, 2, 3, 4, 5, 6)
	for _, group := range [][]int{{1}, {2, 3}, {4, 5}, {6}} {
		wantGroup(t, w, group...)
		w.goOn <- nil
	}
}

func parallel(t *testing.T) {
	w := newGate()
	g := groupcommit.New(100, 100, 2, w.commit)
	defer g.Close()
	hand(t.Context(), g, 1, 2, 3, 4)
	wantGroup(t, w, 1)
	wantGroup(t, w, 2)
	wantNoGroup(t, w)
	w.goOn <- nil
	wantGroup(t, w, 3, 4)
	w.goOn <- nil
	w.goOn <- nil
}

func failing(t *testing.T) {
	w := newGate()
	g := groupcommit.New(100, 100, 1, w.commit)
	defer g.Close()
	calls := hand(t.Context(), g, 1, 2, 3)
	wantGroup(t, w, 1)
	w.goOn <- nil
	broken := errors.New("the connection is gone")
	wantGroup(t, w, 2, 3)
	w.goOn <- broken
	want(t, calls[0], 2, nil)
	want(t, calls[1], 0, broken)
	want(t, calls[2], 0, broken)
	after := hand(t.Context(), g, 4) // the next group is not touched
	wantGroup(t, w, 4)
	w.goOn <- nil
	want(t, after[0], 8, nil)
}

func short(t *testing.T) {
	g := groupcommit.New(100, 100, 1, func(_ context.Context, group []int) ([]int, error) { return group[1:], nil })
	defer g.Close()
	if a, err := g.Do(t.Context(), 7); err == nil || a != 0 {
		t.Fatalf("%d, %v", a, err)
	}
}

func full(t *testing.T) {
	w := newGate()
	g := groupcommit.New(100, 2, 1, w.commit)
	defer g.Close()
	calls := hand(t.Context(), g, 1, 2, 3, 4)
	want(t, calls[3], 0, groupcommit.ErrFull)
	wantGroup(t, w, 1)
	w.goOn <- nil
	wantGroup(t, w, 2, 3) // and never the one that was refused
	w.goOn <- nil
	want(t, calls[2], 6, nil)
}

func closing(t *testing.T) {
	w := newGate()
	g := groupcommit.New(1, 100, 1, w.commit)
	calls := hand(t.Context(), g, 1, 2, 3)
	closed := make(chan struct{}, 2)
	for range 2 {
		go func() {
			g.Close()
			closed <- struct{}{}
		}()
	}
	synctest.Wait()
	want(t, hand(t.Context(), g, 4)[0], 0, groupcommit.ErrStopped)
	for n, c := range calls {
		if len(closed) != 0 {
			t.Fatalf("closed with %d requests to go", len(calls)-n)
		}
		wantGroup(t, w, n+1)
		w.goOn <- nil
		want(t, c, 2*(n+1), nil)
	}
	synctest.Wait()
	if len(closed) != 2 {
		t.Fatalf("%d of 2 closed", len(closed))
	}
	wantNoGroup(t, w)
}

func gaveUp(t *testing.T) {
	w := newGate()
	g := groupcommit.New(100, 100, 1, w.commit)
	defer g.Close()
	hand(t.Context(), g, 1)
	ctx, cancel := context.WithCancel(t.Context())
	waiting := hand(ctx, g, 2)
	hand(t.Context(), g, 3)
	alone := hand(ctx, g, 4)
	cancel()
	want(t, waiting[0], 0, context.Canceled)
	want(t, alone[0], 0, context.Canceled)
	wantGroup(t, w, 1)
	w.goOn <- nil
	wantGroup(t, w, 3)
	hand(ctx, g, 5) // a group of nobody is no group
	w.goOn <- nil
	wantNoGroup(t, w)
}

func unknown(t *testing.T) {
	w := newGate()
	g := groupcommit.New(100, 100, 1, w.commit)
	defer g.Close()
	hand(t.Context(), g, 1)
	wantGroup(t, w, 1)
	ctx, cancel := context.WithCancel(t.Context())
	leaves, stays := hand(ctx, g, 2), hand(t.Context(), g, 3)
	w.goOn <- nil
	wantGroup(t, w, 2, 3)
	cancel()
	want(t, leaves[0], 0, context.Canceled) // though it is being handled
	w.goOn <- nil
	want(t, stays[0], 6, nil) // no caller's context ends the others' commit
}

func values(t *testing.T) {
	g := groupcommit.New(100, 100, 1, func(ctx context.Context, _ []int) ([]int, error) { return []int{ctx.Value(key{}).(int)}, nil })
	defer g.Close()
	if a, err := g.Do(context.WithValue(t.Context(), key{}, 42), 1); a != 42 || err != nil {
		t.Fatalf("%d, %v", a, err)
	}
}

type key struct{}

// hanging: a server that says nothing more keeps its own group waiting for so long, and not those behind it for ever.
func hanging(t *testing.T) {
	g := groupcommit.New(10, 10, 1, func(ctx context.Context, group []int) ([]int, error) {
		if group[0] == 1 {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return doubled(ctx, group)
	})
	defer g.Close()
	answers := append(hand(context.WithoutCancel(t.Context()), g, 1), hand(context.WithoutCancel(t.Context()), g, 2)...)
	time.Sleep(time.Minute) // of the test's own clock
	want(t, answers[0], 0, context.DeadlineExceeded)
	want(t, answers[1], 4, nil)
}

// TestCrowd: in the open, with a small queue, callers that give up and a Close in the middle, every
// request is handled once or refused, never both, and each caller has its own answer.
func TestCrowd(t *testing.T) {
	t.Parallel()
	const workers, each, maxGroup = 64, 200, 16
	handled := make([]atomic.Int32, workers*each)
	var groups, largest atomic.Int64
	g := groupcommit.New(maxGroup, 32, 3, func(ctx context.Context, group []int) ([]int, error) {
		groups.Add(1)
		for n := int64(len(group)); ; {
			if old := largest.Load(); n <= old || largest.CompareAndSwap(old, n) {
				break
			}
		}
		for _, n := range group {
			handled[n].Add(1)
		}
		return doubled(ctx, group)
	})
	var decided, refused, stopped, gone atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for k := range each {
				n := w*each + k
				ctx, cancel := context.WithCancel(t.Context())
				if n%10 == 0 {
					go cancel()
				}
				a, err := g.Do(ctx, n)
				cancel()
				times := handled[n].Load()
				switch {
				case err == nil && a == 2*n && times == 1:
					decided.Add(1)
				case errors.Is(err, groupcommit.ErrFull) && times == 0:
					refused.Add(1)
				case errors.Is(err, groupcommit.ErrStopped) && times == 0:
					stopped.Add(1)
				case errors.Is(err, context.Canceled) && n%10 == 0:
					gone.Add(1)
				default:
					t.Errorf("request %d: %d, %v, handled %d times", n, a, err, times)
				}
				if n == workers*each*9/10 {
					go g.Close()
				}
			}
		})
	}
	wg.Wait()
	g.Close()
	for n := range handled {
		if times := handled[n].Load(); times > 1 {
			t.Errorf("request %d was handled %d times", n, times)
		}
	}
	if sum := decided.Load() + refused.Load() + stopped.Load() + gone.Load(); sum != workers*each || decided.Load() == 0 {
		t.Errorf("%d answers for %d requests, %d of them decided", sum, workers*each, decided.Load())
	}
	if largest.Load() > maxGroup || groups.Load() == 0 {
		t.Errorf("%d groups, the largest of %d", groups.Load(), largest.Load())
	}
}
