package redisstock_test

import (
	"errors"
	"flashsale/inventory"
	"flashsale/inventory/redisstock"
	"flashsale/testenv"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// lagging is a way to a server on which the first sending of something is held back, and arrives when it is let go, as what a
// closed connection has not sent yet is sent by the kernel all the same.
type lagging struct {
	net.Listener
	hold atomic.Bool
	held chan func() // hands over what is held
}

func newLagging(t *testing.T, server string) *lagging {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &lagging{Listener: l, held: make(chan func(), 1)}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server)
			if err != nil {
				_ = in.Close()
				continue
			}
			wg.Go(func() { p.pass(in, out) })
		}
	})
	return p
}

// pass carries a connection. When something of it is held, nothing of what the server says passes any more.
func (p *lagging) pass(in, out net.Conn) {
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
		if p.hold.CompareAndSwap(true, false) {
			lost.Store(true)
			done := make(chan struct{})
			p.held <- func() {
				defer close(done)
				_, _ = out.Write(buf[:n])
				_ = out.(*net.TCPConn).CloseWrite()
				<-over // it has done what it was told, and hangs up
			}
			<-done
			_, _ = io.Copy(io.Discard, in) // the program gives it up
			break
		}
		if _, err := out.Write(buf[:n]); err != nil {
			break
		}
	}
	_ = out.Close()
	<-over
	_ = in.Close()
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
			at, err := url.Parse(testenv.StartRedis(t).URL())
			if err != nil {
				t.Fatal(err)
			}
			direct := open(t, at.String())
			way := newLagging(t, at.Host)
			at.Host = way.Addr().String()
			g := open(t, at.String())
			b := item(t)
			if err := g.Install(t.Context(), b, inventory.Level{Epoch: 1, Available: 5}, nil); err != nil {
				t.Fatal(err)
			}
			wantTake(t, g, take(b, 1), nil)
			k := take(b, 1)
			way.hold.Store(true)
			wantTake(t, g, k, nil) // by its second sending
			late := <-way.held
			conclude(t, g, []inventory.TakeRef{{ID: k.ID, Bucket: b, Epoch: 1}})
			before, err := direct.Levels(t.Context(), []inventory.BucketID{b})
			if err != nil {
				t.Fatal(err)
			}
			late()
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

// TestInstallIsNotRepeatedInAnotherRun: a bucket is installed, its answer is lost, and the server restarts with nothing. What
// was sold meanwhile is not in what was to be installed, so the bucket stays closed until the ledger is asked again.
func TestInstallIsNotRepeatedInAnotherRun(t *testing.T) {
	t.Parallel()
	r := testenv.StartRedis(t)
	at, err := url.Parse(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	way := newLagging(t, at.Host)
	at.Host = way.Addr().String()
	g, err := redisstock.Open(t.Context(), []string{at.String()}, redisstock.Options{Timeout: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	b := item(t)
	wantTake(t, g, take(b, 1), inventory.ErrClosed) // the scripts are there
	way.hold.Store(true)
	answer := make(chan error, 1)
	go func() { answer <- g.Install(t.Context(), b, inventory.Level{Epoch: 1, Available: 3}, nil) }()
	late := <-way.held
	late()
	wantTake(t, open(t, r.URL()), take(b, 1), nil)
	r.Kill()
	r.Start()
	if err := <-answer; !errors.Is(err, inventory.ErrUncertain) {
		t.Errorf("installed: %v, want %v", err, inventory.ErrUncertain)
	}
	wantTake(t, g, take(b, 1), inventory.ErrClosed)
}
