package redisstock_test

import (
	"bytes"
	"context"
	"errors"
	"flashsale/id"
	"flashsale/inventory"
	"flashsale/inventory/redisstock"
	"flashsale/reservation"
	"flashsale/testenv"
	"io"
	"net"
	"net/url"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// lagging is a way to a server on which the first sending of something is held back, and arrives when it is let go, as what a
// closed connection has not sent yet is sent by the kernel all the same.
type lagging struct {
	addr string
	hold atomic.Pointer[string] // what has this in it
	held chan held
}

// next has the next sending held back that has a text in it.
func (p *lagging) next(text string) { p.hold.Store(&text) }

// held is a connection of which something is held back.
type held struct {
	deliver func() // hands it over, and waits until the server has done it
	hangUp  func() // lets the program know that the connection is gone
}

func newLagging(t *testing.T, server string) *lagging {
	t.Helper()
	p := &lagging{held: make(chan held, 1)}
	p.addr = testenv.Between(t, server, func(in, out *net.TCPConn) { p.pass(t.Context(), in, out) })
	return p
}

// lagged is a server with a gate that reaches it so, and knows its scripts.
func lagged(t *testing.T) (*testenv.RedisServer, *lagging, *redisstock.Gate, inventory.BucketID) {
	t.Helper()
	r := testenv.StartRedis(t)
	at, err := url.Parse(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	way := newLagging(t, at.Host)
	at.Host = way.addr
	g, err := redisstock.Open(t.Context(), []string{at.String()}, redisstock.Options{Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	b := item(t)
	wantTake(t, g, take(b, 1), inventory.ErrClosed)
	return r, way, g, b
}

// sendTake has a bucket of five units, one of them taken, and a take of another whose next sending is held.
func (p *lagging) sendTake(t *testing.T, g *redisstock.Gate, b inventory.BucketID) (inventory.Take, chan error) {
	t.Helper()
	if err := g.Install(t.Context(), b, inventory.Level{Epoch: 1, Available: 5}, nil); err != nil {
		t.Fatal(err)
	}
	wantTake(t, g, take(b, 1), nil)
	k := take(b, 1)
	answer := make(chan error, 1)
	p.next(k.ID.String())
	go func() {
		_, err := g.Take(t.Context(), k)
		answer <- err
	}()
	return k, answer
}

// pass carries a connection. When something of it is held, nothing of what the server says passes any more.
func (p *lagging) pass(ctx context.Context, in, out *net.TCPConn) {
	var lost atomic.Bool
	over := make(chan struct{}) // the server has hung up
	go func() {
		defer close(over)
		_, _ = io.Copy(unless{in, &lost}, out)
		if !lost.Load() {
			_ = in.Close()
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := in.Read(buf)
		if err != nil {
			break
		}
		if text := p.hold.Load(); text != nil && bytes.Contains(buf[:n], []byte(*text)) && p.hold.CompareAndSwap(text, nil) {
			lost.Store(true)
			done := make(chan struct{})
			p.held <- held{
				deliver: func() {
					defer close(done)
					_, _ = out.Write(buf[:n])
					_ = out.CloseWrite()
					<-over // it has done what it was told, and hangs up
				},
				hangUp: func() { _ = in.Close() },
			}
			select {
			case <-done:
				_, _ = io.Copy(io.Discard, in) // until the program gives it up
			case <-ctx.Done():
			}
			break
		}
		if _, err := out.Write(buf[:n]); err != nil {
			break
		}
	}
	_ = out.Close()
	<-over
}

// first waits until something is held.
func (p *lagging) first(t *testing.T) held {
	t.Helper()
	select {
	case h := <-p.held:
		return h
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was sent")
		return held{}
	}
}

// unless writes until something is lost.
type unless struct {
	to   io.Writer
	lost *atomic.Bool
}

// Write implements io.Writer.
func (w unless) Write(b []byte) (int, error) {
	if w.lost.Load() {
		return len(b), nil
	}
	return w.to.Write(b)
}

// TestLateCopy: takes that were sent again because the network had swallowed the first sending are settled or withdrawn when
// that one arrives after all. It takes nothing then, under whatever epoch; a take that comes afterwards does.
func TestLateCopy(t *testing.T) {
	t.Parallel()
	for name, conclude := range map[string]func(*testing.T, *redisstock.Gate, []inventory.TakeRef){
		"settled": func(t *testing.T, g *redisstock.Gate, takes []inventory.TakeRef) {
			if err := g.Settle(t.Context(), takes); err != nil {
				t.Fatal(err)
			}
		},
		"withdrawn": func(t *testing.T, g *redisstock.Gate, takes []inventory.TakeRef) {
			if all, err := g.Withdraw(t.Context(), takes); err != nil || !all {
				t.Fatal(all, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, way, g, b := lagged(t)
			direct := open(t, r.URL())
			k, answer := way.sendTake(t, g, b)
			first := way.first(t)
			first.hangUp()
			if err := <-answer; err != nil { // by its second sending
				t.Fatal(err)
			}
			conclude(t, g, []inventory.TakeRef{{ID: k.ID, Bucket: b, Epoch: 1}})
			before, err := direct.Levels(t.Context(), []inventory.BucketID{b})
			if err != nil {
				t.Fatal(err)
			}
			first.deliver()
			wantTake(t, g, take(b, 1), nil) // after it
			after, err := direct.Levels(t.Context(), []inventory.BucketID{b})
			want := before[0]
			want.Available, want.Pending = want.Available-1, want.Pending+1
			if err != nil || after[0] != want {
				t.Errorf("%+v before the late copy and another take, %+v behind them, %v", before[0], after[0], err)
			}
		})
	}
}

// TestInstallIsNotRepeated: a bucket is installed, its answer is lost, and the server forgets everything. What was sold
// meanwhile is not in what was to be installed, so the bucket stays closed until the ledger is asked again.
func TestInstallIsNotRepeated(t *testing.T) {
	t.Parallel()
	for name, forget := range map[string]func(*testing.T, *testenv.RedisServer){
		"flushed": func(t *testing.T, r *testenv.RedisServer) {
			if err := client(t, r).FlushAll(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
		},
		"restarted": func(_ *testing.T, r *testenv.RedisServer) {
			r.Kill()
			r.Start()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, way, g, b := lagged(t)
			way.next("load:")
			answer := make(chan error, 1)
			go func() { answer <- g.Install(t.Context(), b, inventory.Level{Epoch: 1, Available: 3}, nil) }()
			first := way.first(t)
			first.deliver()
			wantTake(t, open(t, r.URL()), take(b, 1), nil)
			forget(t, r)
			for away := true; away; { // others go on with the new run, and load its scripts; connections of the old one are met first
				levels, err := g.Levels(t.Context(), []inventory.BucketID{b})
				if err != nil {
					t.Fatal(err)
				}
				away = levels[0].Away
			}
			first.hangUp()
			if err := <-answer; !errors.Is(err, inventory.ErrUncertain) {
				t.Errorf("installed: %v, want %v", err, inventory.ErrUncertain)
			}
			wantTake(t, g, take(b, 1), inventory.ErrClosed)
		})
	}
}

// TestInstallWithAllShoppers: a server forgets, before a bucket is installed, the shoppers' counts that were loaded for it.
// The bucket is not opened without them: those who have units would be unknown to it.
func TestInstallWithAllShoppers(t *testing.T) {
	t.Parallel()
	r, way, g, b := lagged(t)
	users := map[id.ID]int{id.Derive("u"): 1}
	way.next(":m\r\n") // the script: the counts are there
	answer := make(chan error, 1)
	install := func() { answer <- g.Install(t.Context(), b, inventory.Level{Epoch: 1, Available: 3}, users) }
	go install()
	first := way.first(t)
	if err := client(t, r).FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	first.deliver()
	first.hangUp()
	if err := <-answer; err == nil {
		t.Error("installed without the shoppers")
	}
	wantTake(t, g, take(b, 1), inventory.ErrClosed)
	install()
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	k := take(b, 1)
	k.Limit = 1
	wantTake(t, g, k, reservation.ErrLimitReached)
}

// TestLateAfterTheDeadline: of a take that was sent again nobody has heard. The first sending comes when it is overdue, and is
// concluded from the gate; then the others come, and take nothing.
func TestLateAfterTheDeadline(t *testing.T) {
	t.Parallel()
	r, way, g, b := lagged(t)
	direct := open(t, r.URL())
	k, answer := way.sendTake(t, g, b)
	var sent []held
	for n := range 3 {
		sent = append(sent, way.first(t))
		if n < 2 {
			way.next(k.ID.String())
		}
		sent[n].hangUp()
	}
	if err := <-answer; !errors.Is(err, inventory.ErrUncertain) {
		t.Fatalf("take: %v, want %v", err, inventory.ErrUncertain)
	}
	sent[0].deliver()
	due, err := direct.Overdue(t.Context(), b, k.Deadline, 10)
	if err != nil || !slices.ContainsFunc(due, func(p inventory.Pending) bool { return p.ID == k.ID }) {
		t.Fatalf("overdue: %v, %v", due, err)
	}
	if err := direct.Settle(t.Context(), []inventory.TakeRef{{ID: k.ID, Bucket: b, Epoch: 1}}); err != nil {
		t.Fatal(err)
	}
	for _, late := range sent[1:] {
		late.deliver()
	}
	levels, err := direct.Levels(t.Context(), []inventory.BucketID{b})
	if want := (inventory.Level{Epoch: 1, Available: 3, Pending: 1}); err != nil || levels[0] != want {
		t.Errorf("%+v, %v; want %+v", levels, err, want)
	}
}
